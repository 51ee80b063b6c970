"""`imago classify FILE...` and its kin: asks a service about pictures, prints a table or JSON, saves what it draws."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console

from app.batch.records import failure_of, record_of
from app.client import AsyncClient, Choices, JsonObject, ServiceProblem
from app.commands.service import client_of, service_flags, target_flags
from app.commands.shown import save_images, table_of
from app.flags import flag, given, signed
from app.manifest import explain
from app.tasks import TASKS, Task
from app.tasks.base import PictureTask

_AT_ONCE = 8
"""Files asked about at the same time: enough to fill batches, few enough to be refused nowhere."""


def add_verbs(cli: typer.Typer, console: Console) -> None:
    """A command for each task."""
    for kind, task in TASKS.items():
        cli.command(kind)(_verb(task, console))


def option_flags(task: type[Task[Any]]) -> list[inspect.Parameter]:
    """A flag for each option of a task."""
    return [flag(name, info) for name, info in task.Options.model_fields.items()]


def options_of(task: type[Task[Any]], flags: Mapping[str, Any]) -> JsonObject:
    """The options that were typed, by the names that the service knows.

    Raises:
        typer.BadParameter: one is out of its range.
    """
    typed = given({info.alias or name: flags[name] for name, info in task.Options.model_fields.items()})
    try:
        return task.Options.model_validate(typed).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        raise typer.BadParameter(explain(error, task.Options)) from None


@dataclass(frozen=True)
class _Asking:
    """What one command asks about every file."""

    client: AsyncClient
    task: type[Task[Any]]
    chosen: Choices
    save: Path | None

    async def about(self, file: Path | None, drawing: Path | None) -> list[JsonObject]:
        """The records of one file, or of a task without one; what is drawn lies at `drawing` afterwards."""
        pictures = () if file is None else (file,)
        name = None if file is None else str(file)
        try:
            answer = await self.client.ask(self.task.kind, *pictures, **self.chosen)
            if drawing is not None:
                await asyncio.to_thread(
                    drawing.write_bytes, await self.client.draw(self.task, *pictures, **self.chosen)
                )
        except (ServiceProblem, OSError) as error:
            return [failure_of(name, error)]
        results = [result for result in answer.results if not isinstance(result, ServiceProblem)]
        if self.save is not None and file is None:
            for result in results:
                save_images(result, self.save)
        return [record_of(name, answer.model, answer.version, result) for result in results]


def _verb(task: type[Task[Any]], console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        chosen: Choices = {"model": flags["model"], "version": flags["version"], "options": options_of(task, flags)}
        save: Path | None = flags.get("save")
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
        records = asyncio.run(_ask_all(task, flags.get("files"), chosen, save, client_of(flags)))
        if flags["json"]:
            for record in records:
                console.out(orjson.dumps(record).decode(), highlight=False)
        else:
            console.print(table_of(records))
        if any("error" in record for record in records):
            raise typer.Exit(1)

    return signed(run, f"{task.summary}: asks a service.", _parameters(task))


def _parameters(task: type[Task[Any]]) -> list[inspect.Parameter]:
    files = typer.Argument(help="Pictures.", metavar="FILE...")
    as_json = typer.Option("--json", help="Print each result as a line of JSON.")
    save = typer.Option(help="Folder for what is drawn: a file for each picture.", metavar="DIR", file_okay=False)
    keyword = inspect.Parameter.KEYWORD_ONLY
    takes, draws = issubclass(task, PictureTask), bool(task.Options().forms)
    return [
        *([inspect.Parameter("files", keyword, annotation=Annotated[list[Path], files])] if takes else []),
        *option_flags(task),
        *target_flags(),
        inspect.Parameter("json", keyword, default=False, annotation=Annotated[bool, as_json]),
        *([inspect.Parameter("save", keyword, default=None, annotation=Annotated[Path | None, save])] if draws else []),
        *service_flags(),
    ]


async def _ask_all(
    task: type[Task[Any]], files: Sequence[Path] | None, chosen: Choices, save: Path | None, client: AsyncClient
) -> list[JsonObject]:
    """The records of all files, in their order."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(asking: Coroutine[Any, Any, list[JsonObject]]) -> list[JsonObject]:
        async with gate:
            return await asking

    async with client:
        asking = _Asking(client, task, chosen, save)
        if files is None:
            return await asking.about(None, None)
        forms = task.Options.model_validate(chosen.get("options", {})).forms
        drawings = [None] * len(files) if save is None else _drawings(files, save, forms[0])
        each = [in_turn(asking.about(file, drawing)) for file, drawing in zip(files, drawings, strict=True)]
        return [record for records in await asyncio.gather(*each) for record in records]


def _drawings(files: Sequence[Path], folder: Path, form: str) -> list[Path]:
    """A picture for each file in one folder; those of equal names are numbered."""
    seen: dict[str, int] = {}
    found = []
    for file in files:
        count = seen[file.stem] = seen.get(file.stem, 0) + 1
        found.append(folder / (f"{file.stem}.{form}" if count == 1 else f"{file.stem}-{count}.{form}"))
    return found
