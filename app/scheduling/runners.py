"""Where the batches of one lane run: in threads of their own, or on the event loop's between two of its turns.

A runner knows nothing of lanes and jobs. It asks whether there is work, picks it, runs it and has its callers told.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from app.tensors import BatchBuffer

Tell = Callable[[], None]
"""Delivers what a batch came to. Called on the loop's thread."""
Run = Callable[[BatchBuffer], Tell]
"""Runs a batch that was picked. Called in any thread, with memory that no other batch uses meanwhile."""


class Work(Protocol):
    """What a runner serves. All methods are called with `changed` held."""

    changed: threading.Condition
    """Guards what waits; notified when that changes."""

    def pause(self) -> float | None:
        """Seconds until what waits should be picked, 0 for now; None where nothing waits."""

    def lone(self) -> bool:
        """Whether one row waits, and nothing runs."""

    def pick(self) -> Run:
        """Take the next batch."""


class Runner(Protocol):
    """Runs batches as they come."""

    def wake(self) -> None:
        """There may be work, or none any more: called on the loop's thread, with `changed` held."""

    def lives(self) -> bool:
        """Whether what waits will be run."""

    async def close(self) -> None:
        """Run what waits, tell its callers, and stop."""


class InThreads:
    """So many threads. Each picks its next batch itself, at once when the last one ended: a core that waited for a word
    of the event loop would idle for a good part of a millisecond between two batches.

    Where a row alone is `brief`, it runs on the loop's thread: waking another one and being woken by it costs a part of
    that time, and nobody else waits.
    """

    def __init__(self, work: Work, rows: int, threads: int, brief: bool, name: str) -> None:
        self._work = work
        self._rows = rows
        self._brief = brief
        self._buffer = BatchBuffer(1)
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"imago-{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """As `Runner.wake`."""
        if self._brief and self._work.lone():
            self._loop.call_soon(self._run_lone)
        else:
            self._work.changed.notify()

    def lives(self) -> bool:
        """As `Runner.lives`."""
        return self._closing or all(thread.is_alive() for thread in self._threads)

    async def close(self) -> None:
        """As `Runner.close`."""
        with self._work.changed:
            self._closing = True
            self._work.changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run_lone(self) -> None:
        with self._work.changed:
            if not self._work.lone() or self._work.pause() != 0:
                self._work.changed.notify()
                return
            run = self._work.pick()
        run(self._buffer)()

    def _serve(self) -> None:
        buffer = BatchBuffer(self._rows)
        while run := self._next():
            self._loop.call_soon_threadsafe(run(buffer))

    def _next(self) -> Run | None:
        with self._work.changed:
            while (pause := self._work.pause()) != 0:
                if pause is None and self._closing:
                    return None
                self._work.changed.wait(pause)
            return self._work.pick()


class OnLoop:
    """The event loop's own thread, one batch in a turn: between two batches the loop answers the last one and reads
    what came while it ran."""

    def __init__(self, work: Work, rows: int) -> None:
        self._work = work
        self._buffer = BatchBuffer(rows)
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """As `Runner.wake`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def lives(self) -> bool:
        """As `Runner.lives`: as long as its loop does, which has a pulse of its own."""
        return True

    async def close(self) -> None:
        """As `Runner.close`."""
        self._closed = self._loop.create_future()
        self.wake()
        await self._closed

    def _take_turn(self) -> None:
        self._turn = None
        with self._work.changed:
            pause = self._work.pause()
            run = self._work.pick() if pause == 0 else None
        if run is not None:
            run(self._buffer)()
            self.wake()
        elif pause is not None:
            self._timer = self._loop.call_later(pause, self.wake)
        elif self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
