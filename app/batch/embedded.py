"""Answers in this process, with sessions of its own: no server, no HTTP."""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from app.batch.answering import Answering
from app.batch.sources import Source
from app.errors import ModelNotFound, WrongTask
from app.manifest import Manifest, read_manifest
from app.repository.store import VERSION, ModelFolder, scan
from app.runtime.plan import Plan
from app.scheduling.policy import PATIENT
from app.servable import Prediction, Servable
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.base import TaskOptions

PICTURE_SECONDS = 0.0003
"""What Python does for a small picture, and only one thread of a process can do at a time. With a model that takes next
to nothing for a row one process answered 2,000 pictures a second, two 4,000 (`benchmarks.batch`, the model `tiny` of
`benchmarks.work`)."""


@dataclass(frozen=True)
class Chosen:
    """The version that answers."""

    folder: ModelFolder
    manifest: Manifest


def choose(settings: Settings, kind: str, name: str | None, version: int | str | None, variant: str = "") -> Chosen:
    """The version that a service would let answer: the one named, by number or alias; or `stable`, or the newest of
    those chosen, of the model named, or of the first that is able to what options ask (`variant`), or of the task's
    default.

    Raises:
        ModelNotFound, WrongTask: nobody can.
        InvalidModel: its files break the contract.
        InvalidSettings: there is no folder of models.
    """
    folders = {found: folder for found, folder in scan(settings.models).items() if isinstance(folder, ModelFolder)}
    wanted = name or settings.default_models.get(kind)
    first = list(folders.values()) if wanted is None else [folder for folder in [folders.get(wanted)] if folder]
    if name is None and variant:
        for found in _versions([*first, *folders.values()], version):
            if found.manifest.task == kind and TASKS[kind].variant_of(found.manifest) == variant:
                return found
    for found in _versions(first, version):
        if found.manifest.task == kind:
            return found
        if wanted is not None:
            raise WrongTask(wanted, found.manifest.task, kind)
    raise ModelNotFound(wanted, version)


def _versions(folders: Iterable[ModelFolder], version: int | str | None) -> Iterator[Chosen]:
    for folder in folders:
        number = _number(folder, version)
        if number in folder.versions:
            yield Chosen(folder, read_manifest(folder.version_path(number)))


def _number(folder: ModelFolder, version: int | str | None) -> int | None:
    if version is None:
        return folder.serving.stable or folder.chosen()[-1]
    return int(version) if VERSION.fullmatch(str(version)) else folder.serving.number(version)


def processes_that_pay(plan: Plan, cores: int) -> int:
    """How many processes keep the cores busy with one model. While Python's part of a picture takes less than half of
    the time that the sessions need for a row, a second process would only cost memory."""
    row_seconds = plan.batch_seconds[plan.max_batch_size] / plan.max_batch_size / plan.concurrency
    return max(1, min(cores, math.ceil(2 * PICTURE_SECONDS / row_seconds)))


class Embedded(Answering):
    """An answerer with a servable of its own."""

    def __init__(
        self, servable: Servable, options: TaskOptions, source: Source, most_bytes: int, readers: Executor
    ) -> None:
        super().__init__(source, most_bytes, readers)
        self.plan = servable.running.plan
        self._servable = servable
        self._options = options
        self.lanes = 2 * self.plan.max_batch_size * self.plan.concurrency
        """While a batch runs in each session, the next one is complete."""

    async def close(self) -> None:
        """Give the sessions back."""
        await self._servable.close()

    async def _predict(self, data: bytes) -> tuple[Manifest, Prediction]:
        return self._servable.manifest, await self._servable.predict(data, self._options, PATIENT)
