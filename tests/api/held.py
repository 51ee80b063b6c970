"""A model whose session a test holds: it answers when it is let, or fails as it is told."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from app.runtime import Session
from app.runtime.function import FunctionSession
from app.serving import SERVING
from app.tensors import Tensors, TensorSpec
from tests.make_models import make_generator


class Held:
    """A backend for one generator; `register` it under its name before the application starts."""

    name = "held"

    def __init__(self) -> None:
        self.may_open, self.may_run = threading.Event(), threading.Event()
        self.opening, self.running = threading.Event(), threading.Event()
        self.rows: list[int] = []
        self.failure: Exception | None = None
        self._warm = False

    def open(self, graph: bytes, device: str, threads: int, files: Mapping[str, bytes]) -> Session:
        self.opening.set()
        assert self.may_open.wait(10)
        inputs = (TensorSpec("z", np.dtype("f4"), (None, 4)), TensorSpec("class", np.dtype("i8"), (None,)))
        return FunctionSession(self._run, inputs, (TensorSpec("image", np.dtype("u1"), (None, 2, 2, 3)),))

    def hold(self) -> None:
        """From here on runs wait and are counted."""
        self._warm = True

    def _run(self, tensors: Tensors) -> Mapping[str, np.ndarray]:
        rows = len(tensors["z"])
        if self._warm:
            self.rows.append(rows)
            self.running.set()
            assert self.may_run.wait(10)
            if self.failure is not None:
                raise self.failure
        return {"image": np.zeros((rows, 2, 2, 3), np.uint8)}

    def model(self, root: Path, name: str = "held-generator") -> None:
        """A version folder whose operator chose this backend."""
        folder = make_generator(root, name=name)
        (folder.parent / SERVING).write_text(f'backend = "{self.name}"\nconcurrency = 1\n', encoding="utf-8")
