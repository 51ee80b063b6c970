"""Memory for decoding: how many bytes pictures may take at once while they are decoded, in all threads of a process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Final

from app.errors import Overloaded

_PATIENCE: Final = 1.0
"""Seconds that a picture waits for room. A large one takes about as long; more of a wait is overload."""


class Budget:
    """Lets pictures be decoded side by side while all of them fit; a single one is let through whatever it takes, since
    its own limit is that of its pixels."""

    def __init__(self, limit: float = inf, patience: float = _PATIENCE) -> None:
        self._limit = limit
        self._patience = patience
        self._taken = 0
        self._change = threading.Condition()

    def __repr__(self) -> str:
        return f"<Budget: {self._taken} of {self._limit} bytes>"

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold so many bytes while a picture is decoded.

        Raises:
            Overloaded: no room came in time.
        """
        with self._change:
            if not self._change.wait_for(lambda: not self._taken or self._taken + count <= self._limit, self._patience):
                raise Overloaded(self._patience)
            self._taken += count
        try:
            yield
        finally:
            with self._change:
                self._taken -= count
                self._change.notify_all()
