"""What tensors mean: one file a task, and the table of them. Routes, metrics, OpenAPI and client verbs follow it."""

from collections.abc import Mapping
from typing import Any

from app.errors import InvalidModel
from app.manifest import Manifest
from app.tasks.base import Graph, Prepared, Task
from app.tasks.classify import Classify
from app.tasks.detect import Detect
from app.tasks.embed import Embed
from app.tasks.enhance import Enhance
from app.tasks.generate import Generate
from app.tasks.plain import Plain
from app.tasks.reconstruct import Reconstruct
from app.tasks.segment import Segment

__all__ = ["TASKS", "Graph", "Prepared", "Task", "build_task"]

TASKS: Mapping[str, type[Task[Any]]] = {
    task.kind: task for task in (Classify, Segment, Detect, Enhance, Reconstruct, Embed, Generate)
}


def build_task(manifest: Manifest, labels: tuple[str, ...], graph: Graph) -> Task[Any]:
    """The task of one model version.

    Raises:
        InvalidModel: the manifest names no task that is known here, or lacks what its task needs, or the graph does.
    """
    kind = Plain if manifest.task == Plain.kind else TASKS.get(manifest.task)
    if kind is None:
        raise InvalidModel(f"Task {manifest.task!r} is unknown here; known are {', '.join(sorted(TASKS))}.")
    return kind(manifest, labels, graph)
