"""The client for programs without an event loop: `AsyncClient`, run in a thread of its own, so that deadlines hold to
the end of an answer and both behave alike, in a notebook as well."""

import os
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, Unpack, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.client.asynchronous import AsyncClient
from app.client.galleries import AsyncGalleries, Gallery, GalleryEntry, GalleryFind
from app.client.jobs import AsyncJobs, Job
from app.client.retries import Retries
from app.client.wire import Answer, Choices, JsonObject, Picture, Question, ShapeT


class Client:
    """Asks one service: `with Client(url) as imago`, from any number of threads. Arguments as of `AsyncClient`."""

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 30.0, retries: Retries | None = None
    ) -> None:
        with ExitStack() as opening:  # ends the thread where there is no client: the program would never end
            self._portal = opening.enter_context(start_blocking_portal())
            client = self._portal.call(partial(AsyncClient, url, api_key, timeout, retries))
            self._client = opening.enter_context(self._portal.wrap_async_context_manager(client))
            self._open = opening.pop_all()
        self.jobs = Jobs(self._portal, self._client.jobs)
        self.galleries = Galleries(self._portal, self._client.galleries)

    def __repr__(self) -> str:
        return repr(self._client).replace("Async", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, and end the thread."""
        self._open.close()

    @overload
    def ask(self, task: Question[ShapeT], *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[ShapeT]: ...

    @overload
    def ask(self, task: str, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[JsonObject]: ...

    def ask(self, task: Any, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[Any]:
        """As `AsyncClient.ask`."""
        return self._portal.call(partial(self._client.ask, task, *pictures, **chosen))

    def draw(self, task: Question[Any] | str, *pictures: Picture, **chosen: Unpack[Choices]) -> bytes:
        """As `AsyncClient.draw`."""
        return self._portal.call(partial(self._client.draw, task, *pictures, **chosen))


class Jobs:
    """Background jobs: `Client.jobs`. Methods as of `AsyncJobs`."""

    def __init__(self, portal: BlockingPortal, jobs: AsyncJobs) -> None:
        self._portal = portal
        self._jobs = jobs

    def submit(self, task: str, *files: os.PathLike[str], **chosen: Unpack[Choices]) -> Job:
        """Leave files to be answered."""
        return self._portal.call(partial(self._jobs.submit, task, *files, **chosen))

    def list(self) -> list[Job]:
        """The caller's jobs, the newest first."""
        return self._portal.call(self._jobs.list)

    def status(self, job: str) -> Job:
        """One job, by its id."""
        return self._portal.call(self._jobs.status, job)

    def results(self, job: str) -> bytes:
        """The results of a job that has ended."""
        return self._portal.call(self._jobs.results, job)

    def cancel(self, job: str) -> None:
        """Stop a job, and remove it with its results."""
        self._portal.call(self._jobs.cancel, job)


class Galleries:
    """Pictures that are recognised again: `Client.galleries`. Methods as of `AsyncGalleries`."""

    def __init__(self, portal: BlockingPortal, galleries: AsyncGalleries) -> None:
        self._portal = portal
        self._galleries = galleries

    def list(self) -> list[Gallery]:
        """The caller's galleries; everybody's for an administrator."""
        return self._portal.call(self._galleries.list)

    def configure(
        self, gallery: str, threshold: float | None = None, model: str | None = None, owner: str | None = None
    ) -> Gallery:
        """Set the threshold of a gallery; it is made if it is not there."""
        return self._portal.call(self._galleries.configure, gallery, threshold, model, owner)

    def delete(self, gallery: str, owner: str | None = None) -> None:
        """Delete a gallery with all that is in it."""
        self._portal.call(self._galleries.delete, gallery, owner)

    def entries(
        self, gallery: str, after: str = "", count: int = 100, owner: str | None = None
    ) -> tuple[GalleryEntry, ...]:
        """At most `count` ids in their order, from the one behind `after` on."""
        return self._portal.call(self._galleries.entries, gallery, after, count, owner)

    def entry(self, gallery: str, identity: str, owner: str | None = None) -> GalleryEntry:
        """One id."""
        return self._portal.call(self._galleries.entry, gallery, identity, owner)

    def put(
        self,
        gallery: str,
        identity: str,
        *pictures: Picture,
        metadata: JsonObject | None = None,
        **chosen: Unpack[Choices],
    ) -> GalleryEntry:
        """Set the pictures and the metadata of an id."""
        put = partial(self._galleries.put, gallery, identity, *pictures, metadata=metadata, **chosen)
        return self._portal.call(put)

    def remove(self, gallery: str, identity: str, owner: str | None = None) -> None:
        """Delete an id and its vectors."""
        self._portal.call(self._galleries.remove, gallery, identity, owner)

    def search(self, gallery: str, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[GalleryFind]:
        """The ids nearest to each picture."""
        return self._portal.call(partial(self._galleries.search, gallery, *pictures, **chosen))
