"""Has every picture answered once: lanes take names from one list, each answerer as many at once as it can use."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from app.batch.records import Record


class Answerer(Protocol):
    """Somebody who answers pictures by name."""

    @property
    def lanes(self) -> int:
        """Calls of `answer` at the same time that keep it busy."""

    @property
    def chunk(self) -> int:
        """Names in a call."""

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        """The record of each name, in any order.

        Raises:
            ImagoError, ServiceProblem: what would meet every picture.
        """


Note = Callable[[Sequence[Record]], None]
"""Told of pictures as they are answered."""


async def answer_all(names: Iterable[str], answerers: Sequence[Answerer], note: Note) -> None:
    """Have all pictures answered; raises the first error that ends the run, with what was answered by then noted."""
    waiting = iter(names)

    async def lane(answerer: Answerer) -> None:
        while chunk := list(islice(waiting, answerer.chunk)):
            note(await answerer.answer(chunk))

    try:
        async with asyncio.TaskGroup() as group:
            for answerer in answerers:
                for _ in range(answerer.lanes):
                    group.create_task(lane(answerer))
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
