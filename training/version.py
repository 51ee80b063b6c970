"""Version: one exported model, opened the way the server opens it, to be asked by training.

Task, decoder and session are the server's own, so that training and serving cannot disagree about pre-processing.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ServiceError
from app.imaging.codec import Decoder
from app.manifest import GRAPH, Manifest, read_labels, read_manifest, read_verified
from app.runtime.ort import OrtSession
from app.tasks import Graph, Prepared, Task, build_task
from app.tensors import Tensors, row_shape, split, stack
from training.data.errors import BrokenData
from training.data.pixels import OWN_PICTURES

BATCH = 16


@dataclass(frozen=True)
class Version:
    """A manifest, and the task and session that answer for it."""

    manifest: Manifest
    folder: Path
    task: Task[Any]
    session: OrtSession

    def answers(self, pictures: Iterable[bytes], names: Sequence[str] = (), **options: Any) -> Iterator[dict[str, Any]]:
        """One result for each encoded picture, in order, as the server gives it to one in a format that it takes.

        Raises BrokenData, which calls the picture at fault by its name, or where there are no `names` by its number.
        """
        chosen = self.task.Options(**options)
        waiting = enumerate(pictures)
        while group := list(islice(waiting, BATCH)):
            called = [(data, names[row] if names else f"picture {row + 1}") for row, data in group]
            yield from self._results([self.prepared(*each, chosen) for each in called], chosen)

    def prepared(self, data: bytes, name: str, options: Any) -> Prepared:
        """What a trainer's own encoded picture is to the graph. Raises BrokenData."""
        try:
            return self.task.prepare(OWN_PICTURES.open(data), options)
        except ServiceError as error:
            raise BrokenData(name, f"no readable picture ({error})") from error

    def pictures(self, files: Iterable[bytes], **options: Any) -> Iterator[NDArray[np.uint8]]:
        """The picture, uint8 [H,W,3], that is answered to each encoded one, in order."""
        for answer in self.answers(files, **options):
            yield Decoder().open(base64.b64decode(answer["image"]["data"])).decode()

    def made(self, **options: Any) -> list[dict[str, Any]]:
        """The results of a task that takes no picture."""
        chosen = self.task.Options(**options)
        return self._results([self.task.prepare(None, chosen)], chosen)

    def _results(self, prepared: list[Prepared], options: Any) -> list[dict[str, Any]]:
        if any(one.parts for one in prepared) or len({row_shape(one.tensors) for one in prepared}) > 1:
            return [result for one in prepared for result in self.task.interpret(self._outputs(one), one, options)]
        outputs = self.session.run(stack([one.tensors for one in prepared]))
        parts = split(outputs, [len(next(iter(one.tensors.values()))) for one in prepared])
        return [
            result
            for one, part in zip(prepared, parts, strict=True)
            for result in self.task.interpret(part, one, options)
        ]

    def _outputs(self, prepared: Prepared) -> Tensors:
        """What comes out of a call by itself, its rows in batches where they are too many at once."""
        parts = prepared.parts
        if parts is None:
            return self.session.run(prepared.tensors)
        for start in range(0, len(parts), BATCH):
            parts.take(start, self.session.run(parts.rows(start, min(len(parts), start + BATCH))))
        return parts.outputs()


def open_version(folder: Path) -> Version:
    """Open a version folder, digests checked. Raises app.errors.InvalidModel."""
    manifest = read_manifest(folder)
    return assemble(manifest, read_labels(folder, manifest), read_verified(folder, manifest, GRAPH), folder)


def assemble(manifest: Manifest, labels: tuple[str, ...], graph: bytes, folder: Path) -> Version:
    """Join the parts of a version that may not be on disk yet."""
    session = OrtSession(graph)
    return Version(manifest, folder, build_task(manifest, labels, Graph(session.inputs, session.outputs)), session)
