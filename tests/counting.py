"""A pool of threads whose work a test counts: what is not there was done on the event loop."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Counting(ThreadPoolExecutor):
    """Counts what it is given to do."""

    done = 0

    def submit(self, *work: Any, **more: Any) -> Future[Any]:
        self.done += 1
        return super().submit(*work, **more)
