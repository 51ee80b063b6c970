"""Answers in this process, with sessions of its own: no server, no HTTP."""

import asyncio
import logging
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from app.batch.records import Record, answered, failed
from app.batch.sources import Source, read_at_most
from app.errors import InternalError, ModelNotFound, ServiceError, WrongTask
from app.manifest import Manifest, read_manifest
from app.repository.store import VERSION, ModelFolder, scan
from app.runtime.plan import Plan
from app.servable import INLINE_SIZE, Servable
from app.settings import Settings
from app.tasks.base import TaskOptions

logger = logging.getLogger("imago.batch")

PICTURE_SECONDS = 0.0003
"""What Python does for a small picture, and only one thread of a process can do at a time. With a model that takes next
to nothing for a row one process answered 2,000 pictures a second, two 4,000 (`benchmarks.batch`, the model `tiny` of
`benchmarks.work`)."""


@dataclass(frozen=True)
class Chosen:
    """The version that answers."""

    folder: ModelFolder
    manifest: Manifest


def choose(settings: Settings, kind: str, name: str | None, version: int | str | None) -> Chosen:
    """The version that a service would let answer: the one named, by number or alias; or `stable`, or the newest of
    those chosen, of the model named, or of the task's default.

    Raises:
        ModelNotFound, WrongTask: nobody can.
        InvalidModel: its files break the contract.
        InvalidSettings: there is no folder of models.
    """
    folders = {found: folder for found, folder in scan(settings.models).items() if isinstance(folder, ModelFolder)}
    wanted = name or settings.default_models.get(kind)
    for folder in folders.values() if wanted is None else filter(None, [folders.get(wanted)]):
        number = _number(folder, version)
        if number not in folder.versions:
            continue
        manifest = read_manifest(folder.version_path(number))
        if manifest.task == kind:
            return Chosen(folder, manifest)
        if wanted is not None:
            raise WrongTask(wanted, manifest.task, kind)
    raise ModelNotFound(wanted, version)


def _number(folder: ModelFolder, version: int | str | None) -> int | None:
    if version is None:
        return folder.serving.stable or folder.chosen()[-1]
    return int(version) if VERSION.fullmatch(str(version)) else folder.serving.number(version)


def processes_that_pay(plan: Plan, cores: int) -> int:
    """How many processes keep the cores busy with one model. While Python's part of a picture takes less than half of
    the time that the sessions need for a row, a second process would only cost memory."""
    row_seconds = plan.batch_seconds[plan.max_batch_size] / plan.max_batch_size / plan.concurrency
    return max(1, min(cores, math.ceil(2 * PICTURE_SECONDS / row_seconds)))


class Embedded:
    """An answerer with a servable of its own."""

    chunk = 1

    def __init__(
        self, servable: Servable, options: TaskOptions, source: Source, most_bytes: int, readers: Executor
    ) -> None:
        self.plan = servable.running.plan
        self._servable = servable
        self._options = options
        self._source = source
        self._most_bytes = most_bytes
        self._readers = readers
        self.lanes = 2 * self.plan.max_batch_size * self.plan.concurrency
        """While a batch runs in each session, the next one is complete."""

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        """As `Answerer.answer`."""
        return [await self._answer(name) for name in names]

    async def close(self) -> None:
        """Give the sessions back."""
        await self._servable.close()

    async def _answer(self, name: str) -> Record:
        try:
            data = await self._read(name)
            answer = (await self._servable.predict(data, self._options, math.inf)).answer
        except (ServiceError, OSError) as error:
            return failed(name, error)
        except Exception:  # whatever one picture trips over, the others are answered
            logger.exception("%s failed unexpectedly", name)
            return failed(name, InternalError())
        if isinstance(answer, bytes):
            raise TypeError("a drawing came where results were asked for")
        manifest = self._servable.manifest
        return answered(name, manifest.name, manifest.version, answer[0])

    async def _read(self, name: str) -> bytes:
        """Read a small file here: a thread would take longer than the file."""
        if self._source.size(name) <= INLINE_SIZE:
            return read_at_most(self._source, name, self._most_bytes)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, read_at_most, self._source, name, self._most_bytes)
