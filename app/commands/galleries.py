"""`imago galleries list | set | put | search | delete`: pictures that a service recognises again."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.batch.records import OF_PICTURE, failure_of, record_of
from app.client import AsyncClient, JsonObject, ServiceProblem
from app.commands.service import answer_of, service_flags, target_flags
from app.commands.shown import table_of
from app.flags import given, signed

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_PAGE = 1000


def add_galleries(cli: typer.Typer, console: Console) -> None:
    """`imago galleries`."""
    galleries = typer.Typer(no_args_is_help=True, help="Pictures that a service recognises again.")
    for name, make in (("list", _list), ("set", _set), ("put", _put), ("search", _search), ("delete", _delete)):
        galleries.command(name)(make(console))
    cli.add_typer(galleries, name="galleries")


def _list(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        async def ask(client: AsyncClient) -> list[JsonObject]:
            if flags["gallery"] is None:
                every = await client.galleries.list()
                return [one.model_dump(mode="json") for one in every if flags["owner"] in (None, one.owner)]
            found: list[JsonObject] = []
            while page := await client.galleries.entries(
                flags["gallery"], found[-1]["id"] if found else "", _PAGE, flags["owner"]
            ):
                found += [entry.model_dump(mode="json") for entry in page]
            return found

        _show(console, [{"result": each} for each in answer_of(flags, ask)], flags["json"])

    gallery = _argument("gallery", "Its ids; all galleries without one.", "[GALLERY]", str | None, default=None)
    return signed(run, "Print galleries, or the ids of one.", [gallery, *_flags()])


def _set(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        where = flags["gallery"], flags["threshold"], flags["model"], flags["owner"]
        found = answer_of(flags, lambda client: client.galleries.configure(*where))
        _show(console, [{"result": found.model_dump(mode="json")}], flags["json"])

    threshold = _threshold("From which score on the nearest is known; without it there is no such score.")
    model = target_flags()[0]
    return signed(run, "Make a gallery, or set its threshold.", [_GALLERY, threshold, model, *_flags()])


def _put(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        try:
            metadata = None if flags["metadata"] is None else orjson.loads(flags["metadata"])
        except orjson.JSONDecodeError:
            raise typer.BadParameter('--metadata is not JSON: write it like {"shelf": 12}.') from None
        where, chosen = (flags["gallery"], flags["identity"]), _chosen(flags)
        found = answer_of(
            flags, lambda client: client.galleries.put(*where, *flags["files"], metadata=metadata, **chosen)
        )
        _show(console, [{"result": found.model_dump(mode="json")}], flags["json"])

    told = typer.Option(help="A JSON object that is kept with the id.", metavar="JSON")
    metadata = inspect.Parameter("metadata", _KEYWORD, default=None, annotation=Annotated[str | None, told])
    identity = _argument("identity", "Whose pictures these are.", "ID", str)
    return signed(
        run,
        "Set the pictures of an id, in place of those that it had.",
        [_GALLERY, identity, _FILES, metadata, *target_flags(), *_flags()],
    )


def _search(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        async def ask(client: AsyncClient) -> list[JsonObject]:
            return [record for file in flags["files"] for record in await _found(client, file, flags)]

        records = answer_of(flags, ask)
        _show(console, records, flags["json"])
        if any("error" in record for record in records):
            raise typer.Exit(1)

    most = typer.Option(help="How many ids, nearest first; without it the service's number.", min=1)
    count = inspect.Parameter("count", _KEYWORD, default=None, annotation=Annotated[int | None, most])
    threshold = _threshold("From which score on the nearest is known; without it the gallery's.")
    return signed(
        run, "Print the ids nearest to each picture.", [_GALLERY, _FILES, count, threshold, *target_flags(), *_flags()]
    )


async def _found(client: AsyncClient, file: Path, flags: dict[str, Any]) -> list[JsonObject]:
    """The records of one file; a picture that cannot be read does not end the command."""
    chosen = _chosen(flags, "count", "threshold")
    try:
        answer = await client.galleries.search(flags["gallery"], file, **chosen)
        return [record_of(str(file), answer.model, answer.version, answer.result.model_dump())]
    except (ServiceProblem, OSError) as error:
        if isinstance(error, ServiceProblem) and error.code not in OF_PICTURE:
            raise
        return [failure_of(str(file), error)]


def _delete(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        gallery, identity, owner = flags["gallery"], flags["identity"], flags["owner"]
        if identity is None:
            answer_of(flags, lambda client: client.galleries.delete(gallery, owner))
        else:
            answer_of(flags, lambda client: client.galleries.remove(gallery, identity, owner))

    identity = _argument("identity", "Only this id; without one all of the gallery.", "[ID]", str | None, default=None)
    return signed(run, "Delete a gallery, or an id with its vectors.", [_GALLERY, identity, _OWNER, *service_flags()])


def _chosen(flags: dict[str, Any], *options: str) -> Any:
    asked = given({name: flags[name] for name in (*options, "owner")})
    return {"model": flags["model"], "version": flags["version"], "options": asked}


def _show(console: Console, records: list[JsonObject], as_json: bool) -> None:
    if not as_json:
        console.print(table_of(records))
        return
    for record in records:
        console.out(orjson.dumps(record if "file" in record else record["result"]).decode(), highlight=False)


def _argument(name: str, told: str, shown: str, kind: Any, **default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, _KEYWORD, annotation=Annotated[kind, typer.Argument(help=told, metavar=shown)], **default
    )


def _threshold(told: str) -> inspect.Parameter:
    scores = typer.Option(help=told, min=-1, max=1)
    return inspect.Parameter("threshold", _KEYWORD, default=None, annotation=Annotated[float | None, scores])


_GALLERY = _argument("gallery", "Its name.", "GALLERY", str)
_FILES = _argument("files", "Pictures.", "FILE...", list[Path])
_KEY = typer.Option(help="Id of the key that made it, for administrators.", metavar="KEY")
_OWNER = inspect.Parameter("owner", _KEYWORD, default=None, annotation=Annotated[str | None, _KEY])


def _flags() -> list[inspect.Parameter]:
    as_json = typer.Option("--json", help="Print each result as a line of JSON.")
    return [
        _OWNER,
        inspect.Parameter("json", _KEYWORD, default=False, annotation=Annotated[bool, as_json]),
        *service_flags(),
    ]
