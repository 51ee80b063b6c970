"""A call through a task and the session of a real tiny model, without anything between."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.imaging.codec import Decoder
from app.manifest import GRAPH, read_labels, read_manifest
from app.runtime import Session, open_session
from app.tasks import Graph, Prepared, Task, build_task
from app.tensors import Tensors


@dataclass
class Asked:
    """A task with the session that answers it."""

    task: Task[Any]
    session: Session

    def options(self, **values: Any) -> Any:
        return self.task.settle(self.task.Options.model_validate(values))

    def run(self, data: bytes | None, **values: Any) -> tuple[Prepared, Tensors, Any]:
        options = self.options(**values)
        prepared = self.task.prepare(None if data is None else Decoder().open(data), options)
        return prepared, self._outputs(prepared), options

    def _outputs(self, prepared: Prepared) -> Tensors:
        if prepared.parts is None:
            return self.session.run(prepared.tensors)
        prepared.parts.take(0, self.session.run(prepared.parts.rows(0, len(prepared.parts))))
        return prepared.parts.outputs()

    def answer(self, data: bytes | None, **values: Any) -> list[dict[str, Any]]:
        """The results, each checked against the shape that the task promises."""
        prepared, outputs, options = self.run(data, **values)
        results = self.task.interpret(outputs, prepared, options)
        for result in results:
            self.task.Answer.model_validate(result, extra="forbid")
        return results

    def drawing(self, data: bytes | None, **values: Any) -> bytes:
        prepared, outputs, options = self.run(data, **values)
        return self.task.draw(outputs, prepared, options)


def opened(folder: Path) -> Asked:
    session = open_session((folder / GRAPH).read_bytes(), threads=1)
    manifest = read_manifest(folder)
    task = build_task(manifest, read_labels(folder, manifest), Graph(session.inputs, session.outputs))
    return Asked(task, session)
