"""Answers through a service, several pictures in a request: a request costs its client more than a picture does."""

import asyncio
from collections.abc import Sequence
from typing import Final

from app.batch.records import Record, answered, failed
from app.batch.sources import Source
from app.client import Answer, AsyncClient, Choices, JsonObject, ServiceProblem

_TOO_MUCH: Final = frozenset((400, 413))
"""Statuses of a request that may be refused for what its pictures are together."""


class Served:
    """An answerer that asks a service."""

    lanes = 8

    def __init__(self, client: AsyncClient, task: str, chosen: Choices, source: Source) -> None:
        self._client = client
        self._task = task
        self._chosen = chosen
        self._source = source
        self.chunk = 8
        """Pictures in a request; one, as soon as the service refuses several."""

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        """As `Answerer.answer`."""
        read = await asyncio.gather(
            *(asyncio.to_thread(self._source.read, name) for name in names), return_exceptions=True
        )
        records = [failed(name, data) for name, data in zip(names, read, strict=True) if isinstance(data, OSError)]
        pictures = {name: data for name, data in zip(names, read, strict=True) if isinstance(data, bytes)}
        return records + await self._ask(pictures) if pictures else records

    async def _ask(self, pictures: dict[str, bytes]) -> list[Record]:
        try:
            answer = await self._client.ask(self._task, *pictures.values(), **self._chosen)
        except ServiceProblem as problem:
            if len(pictures) == 1 or problem.status not in _TOO_MUCH:
                return [failed(name, problem) for name in pictures]
            self.chunk = 1
            return [record for name, data in pictures.items() for record in await self._ask({name: data})]
        return [_record(name, answer, result) for name, result in zip(pictures, answer.results, strict=True)]


def _record(name: str, answer: Answer[JsonObject], result: JsonObject | ServiceProblem) -> Record:
    if isinstance(result, ServiceProblem):
        return failed(name, result)
    return answered(name, answer.model, answer.version, result)
