"""The client for programs with an event loop; `Client` gives the same to those without."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self, Unpack, overload

import httpx

from app.client.galleries import AsyncGalleries
from app.client.jobs import AsyncJobs
from app.client.problems import ServiceProblem, problem_of
from app.client.retries import REFUSED, Retries
from app.client.wire import Answer, Build, Choices, JsonObject, Picture, Question, ShapeT, answer_of, call_of

logger = logging.getLogger("imago.client")

_KEEP = 4.0
"""Seconds that an idle connection is kept: less than servers keep theirs (uvicorn 5), so that none is used that is just
being closed."""


class AsyncClient:
    """Asks one service. Use it as `async with AsyncClient(url) as imago`, from any number of tasks of one event loop.

    Args:
        url: where the service is: `http://127.0.0.1:8000`, or the path prefix of a proxy.
        api_key: sent as `Authorization: Bearer`.
        timeout: seconds that a call may take, retries and waits among them, where the call names none. The service is
            told (`X-Request-Timeout-Ms`), and drops what it could not answer by then.
        retries: when and how often a request is sent again.

    Raises:
        ValueError: the URL is none, or the key can stand in no header.
    """

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 30.0, retries: Retries | None = None
    ) -> None:
        self._timeout = timeout
        self._retries = retries or Retries()
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the API key has characters that no header holds")
        try:
            self._http = httpx.AsyncClient(
                base_url=url,
                headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
                limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP),
                timeout=None,  # noqa: S113 - each call has a deadline
            )
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is no URL ({error})") from None
        self.jobs = AsyncJobs(self._http, self.send)
        """Pictures that are left to be answered in time."""
        self.galleries = AsyncGalleries(self._http, self.send)
        """Pictures that are recognised again."""

    def __repr__(self) -> str:
        return f"<AsyncClient {self._http.base_url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    @overload
    async def ask(self, task: Question[ShapeT], *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[ShapeT]: ...

    @overload
    async def ask(self, task: str, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[JsonObject]: ...

    async def ask(self, task: Question[Any] | str, *pictures: Picture, **chosen: Unpack[Choices]) -> Answer[Any]:
        """Ask about pictures, all in one request, or without any where the task draws them.

        Args:
            task: a class of `app.tasks`, whose `Answer` the results then have, or its name for plain dictionaries.
            pictures: bytes of files, or paths.
            chosen: see `Choices`.

        Raises:
            ServiceProblem: the request failed as a whole; a picture among several that failed is in `results`.
            OSError: a file cannot be read.
        """
        kind, shape = (task, JsonObject) if isinstance(task, str) else (task.kind, task.Answer)
        call = call_of(f"/{kind}", pictures, chosen)
        response = await self.send(partial(call.request, self._http), chosen.get("timeout"))
        return answer_of(response, shape, len(pictures))

    async def draw(self, task: Question[Any] | str, *pictures: Picture, **chosen: Unpack[Choices]) -> bytes:
        """The answer as one picture, a PNG or what the option `encoding` names, for one picture or a task that takes
        none; arguments and errors as of `ask`."""
        call = call_of(f"/{task if isinstance(task, str) else task.kind}", pictures, chosen)
        call = replace(call, accept="image/*")
        return (await self.send(partial(call.request, self._http), chosen.get("timeout"))).content

    async def send(self, build: Build, within: float | None = None, repeatable: bool = True) -> httpx.Response:
        """Send a request, again where that helps, and return the answer that is a success.

        Args:
            build: makes the request anew for each try.
            within: seconds that all of it may take.
            repeatable: whether it may be sent again after a connection broke under it, when nobody knows how far the
                service came. Tasks are: they change nothing.

        Raises:
            ServiceProblem: any other answer, or none in time.
        """
        loop, seconds = asyncio.get_running_loop(), self._timeout if within is None else within
        deadline = loop.time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._persist(build, lambda: deadline - loop.time(), repeatable)
        except TimeoutError:
            raise ServiceProblem("deadline-exceeded", f"No answer came within {seconds:g} seconds.") from None

    async def _persist(self, build: Build, left: Callable[[], float], repeatable: bool) -> httpx.Response:
        tried = 0
        while True:
            tried += 1
            try:
                return await self._try(build(max(1, int(left() * 1000))), repeatable)
            except _Again as refused:
                pause = self._retries.wait(tried, refused.problem.retry_after, random.random())  # noqa: S311 - spreading
                if pause is None or pause >= left():
                    raise refused.problem from refused.__cause__
                logger.debug("%s; sent again in %.2f s", refused.problem, pause)
                await asyncio.sleep(pause)

    async def _try(self, request: httpx.Request, repeatable: bool) -> httpx.Response:
        try:
            response = await self._http.send(request)
        except httpx.TransportError as error:
            said = f"{request.url.scheme}://{request.url.netloc.decode()}: {error or type(error).__name__}"
            problem = ServiceProblem("unreachable", f"The service cannot be reached at {said}.")
            if repeatable or isinstance(error, httpx.ConnectError):
                raise _Again(problem) from error
            raise problem from error
        if response.is_success:
            return response
        problem = problem_of(response)
        raise _Again(problem) if response.status_code in REFUSED else problem


class _Again(Exception):
    """A try that failed so that another may help."""

    def __init__(self, problem: ServiceProblem) -> None:
        super().__init__(problem)
        self.problem = problem
