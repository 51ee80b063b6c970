"""One picture after the other, from a source to its record, by a servable of this process."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor

from app.batch.records import Record, answered, failed
from app.batch.sources import Source, read_at_most
from app.errors import InternalError, ServiceError
from app.manifest import Manifest
from app.servable import INLINE_SIZE, Prediction

logger = logging.getLogger("imago.batch")


class Answering(ABC):
    """An answerer of this process; who predicts is left to its subclasses."""

    chunk = 1

    def __init__(self, source: Source, most_bytes: int, readers: Executor | None) -> None:
        self._source = source
        self._most_bytes = most_bytes
        self._readers = readers

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        """As `Answerer.answer`."""
        return [await self._answer(name) for name in names]

    @abstractmethod
    async def _predict(self, data: bytes) -> tuple[Manifest, Prediction]:
        """What is answered to a picture, and by whom; raises `ServiceError`."""

    async def _answer(self, name: str) -> Record:
        try:
            data = await self._read(name)
            manifest, prediction = await self._predict(data)
        except (ServiceError, OSError) as error:
            return failed(name, error)
        except Exception:  # whatever one picture trips over, the others are answered
            logger.exception("%s failed unexpectedly", name)
            return failed(name, InternalError())
        if isinstance(prediction.answer, bytes):
            raise TypeError("a drawing came where results were asked for")
        return answered(name, manifest.name, manifest.version, prediction.answer[0])

    async def _read(self, name: str) -> bytes:
        """Read a small file here: a thread would take longer than the file."""
        if self._source.size(name) <= INLINE_SIZE:
            return read_at_most(self._source, name, self._most_bytes)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, read_at_most, self._source, name, self._most_bytes)
