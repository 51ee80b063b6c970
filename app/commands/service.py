"""Which service a command asks, and as whom: flags, or two variables."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from app.client import AsyncClient, Retries, ServiceProblem
from app.settings import CLIENT_VARIABLES

T = TypeVar("T")

_URL, _API_KEY = CLIENT_VARIABLES

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def service_flags() -> list[inspect.Parameter]:
    """`--url`, `--api-key`, `--timeout`."""
    url = typer.Option(help="The service to ask.", envvar=_URL, metavar="URL")
    return [
        inspect.Parameter("url", _KEYWORD, default="http://127.0.0.1:8000", annotation=Annotated[str, url]),
        *caller_flags(timeout=30.0),
    ]


def optional_service_flags() -> list[inspect.Parameter]:
    """The same for a command that may do without a service; no variable decides that."""
    url = typer.Option(help="The service to ask; without it models are opened here.", metavar="URL")
    return [
        inspect.Parameter("url", _KEYWORD, default=None, annotation=Annotated[str | None, url]),
        *caller_flags(timeout=300.0),
    ]


def caller_flags(timeout: float) -> list[inspect.Parameter]:
    """`--api-key`, `--timeout`."""
    key = typer.Option(help="Who asks; a variable keeps it out of lists of processes.", envvar=_API_KEY, metavar="KEY")
    seconds = typer.Option(help="Seconds that one call may take.", min=0.001, metavar="NUMBER")
    return [
        inspect.Parameter("api_key", _KEYWORD, default=None, annotation=Annotated[str | None, key]),
        inspect.Parameter("timeout", _KEYWORD, default=timeout, annotation=Annotated[float, seconds]),
    ]


def target_flags() -> list[inspect.Parameter]:
    """`--model`, `--version`."""
    model = typer.Option(help="Model that answers; without it the task's default.", metavar="NAME")
    version = typer.Option(help="Its version, by number or alias; without it the stable one.", metavar="VERSION")
    return [
        inspect.Parameter("model", _KEYWORD, default=None, annotation=Annotated[str | None, model]),
        inspect.Parameter("version", _KEYWORD, default=None, annotation=Annotated[str | None, version]),
    ]


def client_of(flags: Mapping[str, Any], retries: Retries | None = None) -> AsyncClient:
    """The client that `service_flags` ask for.

    Raises:
        typer.BadParameter: there is no such URL, or no such key.
    """
    try:
        return AsyncClient(flags["url"], flags["api_key"], flags["timeout"], retries)
    except ValueError as error:
        raise typer.BadParameter(f"--url, --api-key: {error}.") from None


def answer_of(flags: Mapping[str, Any], ask: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What a service answers; ends the command with its sentence where that is a refusal."""

    async def asking() -> T:
        async with client_of(flags) as client:
            return await ask(client)

    try:
        return asyncio.run(asking())
    except (ServiceProblem, OSError) as error:
        told = (
            f"[red]{error.code}[/]: {escape(error.detail)}" if isinstance(error, ServiceProblem) else escape(str(error))
        )
        Console(stderr=True, highlight=False).print(told, soft_wrap=True)
        raise typer.Exit(1) from None
