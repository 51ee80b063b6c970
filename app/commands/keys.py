"""`imago keys create | list | revoke`: API keys, from the operator's side. A service heeds them within a second."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.errors import InvalidKeys
from app.manifest import explain
from app.security.key_file import KeyFile
from app.security.keys import Key, Limits, new_key
from app.settings import PREFIX

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call, what for, and how much.")

File = Annotated[
    Path,
    typer.Option("--keys", envvar=f"{PREFIX}KEYS", help="File of API keys, that of `imago serve --keys`."),
]


@keys.command()
def create(
    file: File,
    scope: Annotated[list[str], typer.Option(help="infer, infer:MODEL, metrics or admin; may be given several times.")],
    name: Annotated[str, typer.Option(help="What it is for, to be read in the list.")] = "",
    days: Annotated[float | None, typer.Option(min=0.01, help="Days until it expires; never without.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Most requests a second.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most requests at a time.")] = None,
    pixels_per_second: Annotated[float | None, typer.Option(help="Most pixels a second of pictures sent.")] = None,
) -> None:
    """Make a key and print its secret, which is shown only now."""
    made: list[str] = []
    now = datetime.now(UTC).replace(microsecond=0)
    expires = None if days is None else _after(now, days)

    def add(known: tuple[Key, ...]) -> tuple[Key, ...]:
        limits = Limits(
            requests_per_second=requests_per_second, concurrency=concurrency, pixels_per_second=pixels_per_second
        )
        key, secret = new_key(scope, known, now, expires, name, limits)
        made[:] = key.id, secret
        return (*known, key)

    _change(file, add)
    identity, secret = made
    Console(stderr=True, highlight=False).print(f"key {identity} was made; its secret is shown only now:")
    sys.stdout.write(f"{secret}\n")


@keys.command("list")
def list_keys(file: File) -> None:
    """List the keys, without their secrets, which are stored nowhere."""
    table = Table("key", "scopes", "limits", "created", "expires", "name", box=None, pad_edge=False)
    for key in _file(file).read():
        limits = ", ".join(f"{name} {value:g}" for name, value in key.limits.model_dump(exclude_none=True).items())
        expires = "" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        scopes = ", ".join(key.scopes)
        table.add_row(key.id, Text(scopes), limits, f"{key.created:%Y-%m-%d %H:%M}", expires, Text(key.name))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


@keys.command()
def revoke(file: File, identity: Annotated[str, typer.Argument(metavar="KEY", help="The id of a key.")]) -> None:
    """Revoke a key: it is forgotten, and refused from then on."""

    def remove(known: tuple[Key, ...]) -> tuple[Key, ...]:
        left = tuple(key for key in known if key.id != identity)
        if len(left) == len(known):
            raise ValueError(f"there is no key {identity!r}")
        return left

    _change(file, remove)


def _after(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except (OverflowError, ValueError):
        raise typer.BadParameter(
            f"--days: no calendar has a day after {days:g} more; leave it out for never."
        ) from None


def _file(path: Path) -> KeyFile:
    return KeyFile(path.expanduser())


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    try:
        _file(path).change(change)
    except ValidationError as error:
        raise InvalidKeys(explain(error, Key)) from None
    except ValueError as error:
        raise InvalidKeys(f"{error}.") from None
