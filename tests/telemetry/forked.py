"""A process forked from the test, for as long as the test wants it."""

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

FORK = multiprocessing.get_context("fork")


class Forked:
    """Does its work in another process, and lives on doing nothing until it is killed, at the latest by `with`."""

    def __init__(self, work: Callable[[], object]) -> None:
        here, there = FORK.Pipe()
        self._process = FORK.Process(target=_work, args=(work, there), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: the child uses none of them
            self._process.start()
        there.close()
        self._here = here

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def finished(self) -> Self:
        """Wait for the end of the work; EOFError says that it failed."""
        self._here.recv()
        return self

    def kill(self) -> None:
        """Kill it as the kernel does when memory runs out, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def _work(work: Callable[[], object], there: Connection) -> None:
    work()
    there.send(None)
    signal.pause()
