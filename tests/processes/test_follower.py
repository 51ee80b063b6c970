"""A worker has the models that its engine has: it opens the small ones itself, and keeps them when the engine dies."""

import asyncio
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.errors import NotReady
from app.imaging.codec import Decoder
from app.manifest import read_manifest
from app.processes.control import send_socket
from app.processes.follower import Follower
from app.processes.link import Link, Message
from app.processes.remote import RemoteJobs
from app.processes.shared import share
from app.processes.told import Told, tell
from app.repository.registry import Registry
from app.repository.store import Opening
from app.scheduling.batcher import Batcher
from app.servable import Resources, open_servable
from app.serving import ServingConfig
from app.telemetry.metrics import Metrics
from tests.make_models import make_classifier
from tests.processes.scenario import pair, run, until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` runs in the worker, `large` in the engine, because its operator chose how many batches run at once."""
    root = tmp_path_factory.mktemp("models")
    for name in ("small", "large"):
        make_classifier(root, name=name)
    (root / "large" / "serving.toml").write_text("concurrency = 1\n")
    return root


@pytest.fixture(scope="module")
def told(root: Path) -> dict[str, Told]:
    """What an engine tells of both, by name."""

    async def load() -> dict[str, Told]:
        with ThreadPoolExecutor(1) as pool:
            opener = partial(open_servable, resources=Resources(Decoder(), pool, Metrics()))
            registry = Registry(root, opener, {}, lambda count: None)
            await registry.load_all()
            entries = {entry.name: tell(entry, place) for place, entry in enumerate(registry.entries())}
            await registry.close()
            return entries

    return asyncio.run(load())


def loading(told: Told) -> Told:
    return {**told, "state": "loading", "running": None}


class Worker:
    """A follower with its registry; the ends of engine and supervisor are the test's."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self.shared = share(2, ())
        self.shared.connections.begin(0)
        self.shared.connections.begin(1)
        self.stopped = False
        self.control, self._its_control = pair()
        follower = Follower(0, self.shared, Resources(Decoder(), pool, Metrics()))
        self.registry = Registry(root, follower.open, {}, lambda count: None)
        self._following = asyncio.create_task(follower.follow(self.registry, self._its_control, self._stop))
        self._engine: Link | None = None
        self.revision = 0
        self.traffic: dict[str, Any] = {}
        self.said: list[Message] = []
        """What it told the engine."""

    async def begin_engine(self) -> None:
        ours, theirs = pair()
        with theirs:
            send_socket(self.control, 0, theirs)
        self._engine = Link(self.said.append, lambda: None)
        await self._engine.open(ours)

    def end_engine(self) -> None:
        assert self._engine is not None
        self._engine.close()

    def hear(self, *entries: Told, settled: bool = True) -> None:
        """Let the engine tell."""
        assert self._engine is not None
        self.revision += 1
        told = {"entries": entries, "traffic": self.traffic, "settled": settled}
        message = {"op": "models", "revision": self.revision, **told}
        self._engine.send(message)

    @property
    def states(self) -> dict[str, str]:
        return {entry.name: entry.state for entry in self.registry.entries()}

    def jobs(self, name: str) -> Any:
        return self.registry.get("classify", name).jobs

    @property
    def is_given_connections(self) -> bool:
        """Whether the other worker hands over to this one, though it has none itself."""
        self.shared.connections.opened(1)
        to = self.shared.connections.least(accepting=1)
        self.shared.connections.closed(1)
        return to == 0

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.wait([self._following])
        await self.registry.close()
        self.end_engine()
        for ends in (*self.shared.inboxes, (self.control, self._its_control)):
            for end in ends:
                end.close()
        await asyncio.sleep(0)

    def _stop(self) -> None:
        self.stopped = True


@asynccontextmanager
async def worker(root: Path) -> AsyncIterator[Worker]:
    with ThreadPoolExecutor(1) as pool:
        one = Worker(root, pool)
        await one.begin_engine()
        try:
            yield one
        finally:
            await one.close()


def test_small_models_are_opened_here_and_the_others_answered_by_the_engine(root: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            one.hear(loading(told["large"]), settled=False)
            await until(lambda: one.states == {"large": "loading"})
            one.hear(told["large"], loading(told["small"]), settled=False)
            await until(lambda: one.states == {"large": "ready", "small": "loading"})
            assert isinstance(one.jobs("large"), RemoteJobs)
            one.hear(told["large"], told["small"])
            await one.registry.settled.wait()
            assert one.states == {"large": "ready", "small": "ready"}
            assert isinstance(one.jobs("small"), Batcher)
            assert one.registry.get("classify", "small").running.plan.threads == 1

    run(scenario)


def test_a_worker_is_given_connections_once_its_models_are_open(root: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            one.shared.connections.ready(1)
            one.hear(told["large"], told["small"], settled=False)
            await until(lambda: one.states == {"large": "ready", "small": "ready"})
            assert not one.is_given_connections
            one.hear(told["large"], told["small"])
            await one.registry.settled.wait()
            assert one.is_given_connections

    run(scenario)


def test_a_version_that_the_engine_cannot_load_is_broken_here_with_its_reason_said_once(
    root: Path, told: dict[str, Told], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            broken = {**loading(told["large"]), "state": "failed", "reason": "no such file"}
            one.hear(broken, settled=False)
            await until(lambda: one.states == {"large": "failed"})
            one.hear(broken)
            await one.registry.settled.wait()
            assert one.states == {"large": "failed"}
            with pytest.raises(NotReady, match="Model 'large' cannot answer: no such file"):
                one.registry.get("classify", "large")

    with caplog.at_level(logging.ERROR, "imago.repository"):
        run(scenario)
    assert [record.message for record in caplog.records if record.name == "imago.repository"] == [
        "large/1 is broken: no such file"
    ]


def test_small_models_answer_on_while_the_engine_dies_and_another_begins(root: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            one.hear(told["large"], told["small"])
            await one.registry.settled.wait()
            small = one.jobs("small")
            one.end_engine()
            await until(lambda: one.states == {"large": "loading", "small": "ready"})
            with pytest.raises(NotReady):
                one.jobs("large")
            await one.begin_engine()
            one.hear(loading(told["large"]), loading(told["small"]), settled=False)
            one.hear({**told["large"], "place": 9}, loading(told["small"]), settled=False)
            await until(lambda: one.states == {"large": "ready", "small": "ready"})
            assert one.jobs("small") is small
            one.hear(told["large"], told["small"], {**loading(told["large"]), "name": "third"})
            await until(lambda: "third" in one.states)
            assert one.jobs("small") is small

    run(scenario)


def test_what_a_dead_engine_told_is_not_believed(
    root: Path, told: dict[str, Told], caplog: pytest.LogCaptureFixture
) -> None:
    """It tells of a model that is opened here, in a thread, then of its own: by then it is gone."""

    async def scenario() -> None:
        async with worker(root) as one:
            go_on = threading.Event()
            asyncio.get_running_loop().set_default_executor(only := ThreadPoolExecutor(1))
            only.submit(go_on.wait, 10)
            one.hear(told["small"], told["large"])
            await until(lambda: one.states == {"small": "loading"})
            one.end_engine()
            await until(lambda: any("engine went away" in record.message for record in caplog.records))
            go_on.set()
            await until(lambda: one.states["small"] == "ready")
            await one.begin_engine()
            one.hear(told["small"], loading(told["large"]), settled=False)
            await until(lambda: len(one.states) == 2)
            assert one.states == {"small": "ready", "large": "loading"}
            assert not one.registry.settled.is_set()

    run(scenario)


def test_a_folder_that_cannot_be_read_now_is_read_later(
    tmp_path: Path, told: dict[str, Told], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        folder = tmp_path / "models"
        async with worker(folder) as one:
            one.hear(told["small"])
            await until(lambda: bool(caplog.records))
            make_classifier(folder, name="small")
            await one.registry.settled.wait()
            assert one.states == {"small": "ready"}

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
    assert "is no folder" in caplog.records[0].message


def test_a_worker_that_cannot_follow_its_engine_ends(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            one.hear({"unheard": "of"})
            await until(lambda: one.stopped)

    with caplog.at_level(logging.ERROR, "imago.processes"):
        run(scenario)
    assert caplog.records[0].message == "the engine cannot be followed any more"


def test_a_worker_is_told_when_its_supervisor_is_gone(root: Path) -> None:
    async def scenario() -> None:
        async with worker(root) as one:
            one.control.close()
            await until(lambda: one.stopped)

    run(scenario)


def opened_anew(root: Path, told: Told, version: int, state: str) -> Told:
    """What an engine tells of another version of the same model, that is on disk."""
    manifest = read_manifest(root / told["name"] / str(version))
    opening = Opening(root, manifest, ServingConfig.model_validate(told["opening"]["serving"]))
    dumped = {**told["opening"], "manifest": json.dumps(manifest.model_dump(mode="json"))}
    return {**told, "version": version, "state": state, "opening": dumped, "key": opening.key}


@pytest.fixture
def versions(root: Path, tmp_path: Path) -> Path:
    """Two versions of each model on disk."""
    for name in ("small", "large"):
        shutil.copytree(root / name, tmp_path / name)
        make_classifier(tmp_path, name=name, version=2)
    return tmp_path


def acknowledged(one: Worker, *, failed: bool = False, using: bool = False) -> bool:
    """Whether the worker told that it is as it was told last, and what it could not open or still uses."""
    last = one.said[-1] if one.said else {"revision": 0}
    return last["revision"] == one.revision and (bool(last["failed"]), bool(last["using"])) == (failed, using)


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_version_is_opened_before_it_answers_and_takes_over_at_once(
    versions: Path, told: dict[str, Told], name: str
) -> None:
    async def scenario() -> None:
        async with worker(versions) as one:
            old = told[name]
            one.hear(old)
            await until(lambda: acknowledged(one))
            first = one.registry.get("classify", name)
            one.hear(old, staged := opened_anew(versions, old, 2, "loading"))
            await until(lambda: acknowledged(one))
            assert one.registry.get("classify", name) is first
            assert one.registry.find(staged["key"]) is not None
            first.hold()
            one.hear({**old, "state": "unloading"}, {**staged, "state": "ready"})
            await until(lambda: acknowledged(one, using=True))
            assert one.said[-1]["using"] == [old["key"]]
            assert one.registry.get("classify", name).manifest.version == 2
            assert first.retired
            first.free()
            await until(lambda: acknowledged(one))
            one.hear({**loading(old), "state": "unloaded"}, {**staged, "state": "ready"})
            await until(lambda: acknowledged(one))
            assert [(entry.version, entry.state) for entry in one.registry.describe(name)] == [
                (2, "ready"), (1, "unloaded"),
            ]  # fmt: skip

    run(scenario)


def test_a_staged_version_that_the_engine_drops_is_closed(versions: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(versions) as one:
            one.hear(told["small"], staged := opened_anew(versions, told["small"], 2, "loading"))
            await until(lambda: acknowledged(one))
            entry = one.registry.find(staged["key"])
            assert entry is not None
            servable = entry.servable
            one.hear(told["small"], {**loading(staged), "state": "failed", "reason": "elsewhere"})
            await until(lambda: acknowledged(one))
            assert one.registry.find(staged["key"]) is None
            assert servable.retired
            assert [(entry.version, entry.state, entry.reason) for entry in one.registry.describe("small")] == [
                (2, "failed", "elsewhere"), (1, "ready", ""),
            ]  # fmt: skip

    run(scenario)


def test_what_cannot_be_opened_here_is_told_and_what_serves_serves_on(versions: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(versions) as one:
            staged = opened_anew(versions, told["small"], 2, "loading")
            (versions / "small" / "2" / "model.onnx").write_bytes(b"changed meanwhile")
            one.hear(told["small"], staged)
            await until(lambda: acknowledged(one, failed=True))
            assert "not the file that was exported" in one.said[-1]["failed"][staged["key"]]
            assert one.registry.get("classify", "small").manifest.version == 1

    run(scenario)


def test_what_the_engine_has_forgotten_is_forgotten(versions: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(versions) as one:
            one.hear(told["small"], told["large"])
            await until(lambda: one.states == {"large": "ready", "small": "ready"})
            one.hear(told["large"])
            await until(lambda: acknowledged(one) and "small" not in one.states)

    run(scenario)


def test_a_worker_that_begins_opens_what_the_engine_serves_though_its_choices_changed_on_disk(
    versions: Path, told: dict[str, Told]
) -> None:
    async def scenario() -> None:
        for name in ("small", "large"):
            (versions / name / "serving.toml").write_text("max_batch_size = 2\n")
        async with worker(versions) as one:
            one.hear(told["small"], told["large"])
            await until(lambda: acknowledged(one))
            assert one.registry.find(told["small"]["key"]) is not None
            assert one.registry.find(told["large"]["key"]) is not None

    run(scenario)


def test_names_and_shares_of_versions_are_those_that_the_engine_told(versions: Path, told: dict[str, Told]) -> None:
    async def scenario() -> None:
        async with worker(versions) as one:
            one.traffic = {"small": {"aliases": {"stable": 1, "next": 2}, "canary": {"version": 2, "percent": 100}}}
            one.hear(told["small"], opened_anew(versions, told["small"], 2, "ready"))
            await until(lambda: acknowledged(one))
            get = one.registry.get
            assert [get("classify", "small", name).manifest.version for name in ("stable", "next", None)] == [1, 2, 2]

    run(scenario)
