"""A registry with its manager, over a folder of tiny models: what is on disk, what answers, what was opened."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from app.imaging.codec import Decoder
from app.manifest import Manifest
from app.repository.manager import Followers, Manager, Nobody
from app.repository.registry import Opener, Registry
from app.servable import Resources, Servable, open_servable
from app.serving import ServingConfig
from app.telemetry.metrics import Metrics
from tests.processes.scenario import until

NAME = "tiny-classifier"


class House:
    """A manager, its registry, and what is on disk."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor, followers: Followers) -> None:
        self.root = root
        self.opened: list[Servable] = []
        self.tried: list[Path] = []
        self.metrics = Metrics()
        self.resources = Resources(Decoder(), pool, self.metrics, threads=1)
        self.opener: Opener = partial(open_servable, resources=self.resources)
        self.registry = Registry(root, self._open, {}, lambda count: None, random.Random(7).random)
        self.manager = Manager(self.registry, followers)

    async def _open(self, folder: Path, manifest: Manifest, serving: ServingConfig) -> Servable:
        self.tried.append(folder)
        servable = await self.opener(folder, manifest, serving)
        self.opened.append(servable)
        return servable

    @property
    def answering(self) -> int:
        """The version that answers who names none."""
        return self.registry.get("classify", NAME).manifest.version

    @property
    def states(self) -> dict[int, str]:
        return {entry.version: entry.state for entry in self.registry.describe(NAME)}

    def reason(self, version: int) -> str:
        return next(entry.reason for entry in self.registry.describe(NAME) if entry.version == version)

    def choose(self, serving: str) -> None:
        (self.root / NAME / "serving.toml").write_text(serving)

    async def ended(self) -> None:
        """Wait until nothing is being unloaded."""
        await until(lambda: all(entry.state != "unloading" for entry in self.registry.openings()))


def scenario(
    root: Path,
    play: Callable[[House], Awaitable[None]],
    followers: Followers | None = None,
    prepare: Callable[[House], None] = lambda house: None,
) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            house = House(root, pool, followers or Nobody())
            prepare(house)
            await house.registry.load_all()
            try:
                async with asyncio.timeout(30):
                    await play(house)
            finally:
                await house.registry.close()

    asyncio.run(run())
