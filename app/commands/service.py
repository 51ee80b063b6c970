"""Which service a command asks, and as whom: flags, or two variables."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from app.client import AsyncClient, Retries
from app.settings import CLIENT_VARIABLES

_URL, _API_KEY = CLIENT_VARIABLES

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def service_flags(default_url: str | None = "http://127.0.0.1:8000") -> list[inspect.Parameter]:
    """`--url`, `--api-key`, `--timeout`."""
    url = typer.Option(help="The service to ask.", envvar=_URL, metavar="URL")
    key = typer.Option(help="Who asks; a variable keeps it out of lists of processes.", envvar=_API_KEY, metavar="KEY")
    timeout = typer.Option(help="Seconds that one call may take.", min=0.001, metavar="NUMBER")
    return [
        inspect.Parameter("url", _KEYWORD, default=default_url, annotation=Annotated[str | None, url]),
        inspect.Parameter("api_key", _KEYWORD, default=None, annotation=Annotated[str | None, key]),
        inspect.Parameter("timeout", _KEYWORD, default=30.0, annotation=Annotated[float, timeout]),
    ]


def target_flags() -> list[inspect.Parameter]:
    """`--model`, `--version`."""
    model = typer.Option(help="Model that answers; without it the task's default.", metavar="NAME")
    version = typer.Option(help="Its version; without it the newest one loaded.", metavar="NUMBER", min=1)
    return [
        inspect.Parameter("model", _KEYWORD, default=None, annotation=Annotated[str | None, model]),
        inspect.Parameter("version", _KEYWORD, default=None, annotation=Annotated[int | None, version]),
    ]


def client_of(flags: Mapping[str, Any], retries: Retries | None = None) -> AsyncClient:
    """The client that `service_flags` ask for."""
    return AsyncClient(flags["url"], flags["api_key"], flags["timeout"], retries)
