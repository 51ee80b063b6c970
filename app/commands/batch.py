"""`imago batch TASK SOURCE --out FILE`: many pictures, in this process or through a service, resumable."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.batch.children import MakeResources, Orders
from app.batch.crew import crew
from app.batch.embedded import choose
from app.batch.journal import Journal
from app.batch.outputs import check_output, write_output
from app.batch.records import Record
from app.batch.run import Answerer, answer_all
from app.batch.served import Served
from app.batch.sources import Source, open_source
from app.client import Choices, Retries, ServiceProblem
from app.commands.service import client_of, optional_service_flags, target_flags
from app.commands.verbs import option_flags, options_of
from app.errors import ImagoError, InvalidBatch
from app.flags import given, setting_flags, signed
from app.settings import load_settings
from app.tasks import TASKS, Task
from app.tasks.base import PictureTask

_SETTINGS: Final = (
    "models", "device", "threads", "concurrency", "cache", "default_models", "formats", "max_pixels", "max_body_bytes",
)  # fmt: skip
"""What a run without a service reads of the settings."""
_PATIENCE: Final = Retries(limit=1000)
"""A run has time: only the deadline of a request ends its retries."""
_SHOWN = 20
"""Failures that are printed; the output holds all."""


def add_batch(cli: typer.Typer, make_resources: MakeResources) -> None:
    """`imago batch`, with a command for each task of pictures."""
    batch = typer.Typer(no_args_is_help=True, help="Many pictures to one file of results, resumable.")
    for kind, task in TASKS.items():
        if issubclass(task, PictureTask):
            batch.command(kind)(_command(task, make_resources))
    cli.add_typer(batch, name="batch")


@dataclass
class _Run:
    """One run: what is asked of which pictures, where the results go, who reads of its progress."""

    task: type[Task[Any]]
    source: Source
    out: Path
    journal: Journal
    console: Console
    begun: float = field(default_factory=time.monotonic)

    async def answer(self, answerers: Sequence[Answerer]) -> None:
        """Have answered what waits."""
        waiting = [name for name in self.source.names if self.journal.waits(name)]
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            total = len(self.source.names)
            bar = progress.add_task("", total=total, completed=total - len(waiting), failed="")

            def note(records: Sequence[Record]) -> None:
                self.journal.append(records)
                failed = f"{len(self.journal.errors)} failed" if self.journal.errors else ""
                progress.update(bar, advance=len(records), failed=failed)

            await answer_all(waiting, answerers, note)

    def finish(self) -> int:
        """Write the output and tell how it went; returns the exit status."""
        names = self.source.names
        write_output(self.out, lambda: self.journal.lines(names), self.task.Answer)
        failed = [name for name in names if name in self.journal.errors]
        for name, line in zip(failed[:_SHOWN], self.journal.lines(failed), strict=False):
            self._say(f"[red]{escape(name)}[/]: {escape(orjson.loads(line)['error']['detail'])}")
        if len(failed) > _SHOWN:
            self._say(f"and {len(failed) - _SHOWN} more, all of them in {escape(str(self.out))}")
        seconds = time.monotonic() - self.begun
        self._say(f"{len(names)} pictures, {len(failed)} failed, in {seconds:.1f} s: {escape(str(self.out))}")
        if any(map(self.journal.waits, failed)):
            self._say("Some may succeed another time: start again to try them.")
        else:
            self.journal.remove()
        return 1 if failed else 0

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


def _command(task: type[Task[Any]], make_resources: MakeResources) -> Callable[..., None]:
    def command(**flags: Any) -> None:
        console = Console(stderr=True, highlight=False)
        try:
            status = _batch(task, flags, make_resources, console)
        except (ImagoError, ServiceProblem) as error:
            console.print(f"[red]{error.code}[/]: {escape(error.detail)}", soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            console.print("Stopped; start again to go on.")
            raise typer.Exit(130) from None
        if status:
            raise typer.Exit(status)

    return signed(command, f"{task.summary}: each one of many.", _parameters(task))


def _batch(task: type[Task[Any]], flags: Mapping[str, Any], make_resources: MakeResources, console: Console) -> int:
    """Run to the end; returns the exit status. Raises what ends the run before."""
    out: Path = flags["out"]
    check_output(out)
    source, options = open_source(flags["source"]), options_of(task, flags)
    chosen: Choices = {"model": flags["model"], "version": flags["version"], "options": options}
    journal_path = out.with_name(f"{out.name}.journal")
    if out.exists() and not journal_path.exists():
        raise InvalidBatch(f"{out} is there already: remove it, or write elsewhere.")
    asked = {"task": task.kind, "source": str(Path(flags["source"]).resolve()), **chosen}
    journal = Journal(journal_path, asked)
    try:
        run = _Run(task, source, out, journal, console)
        if any(map(journal.waits, source.names)):
            asyncio.run(_answer(run, chosen, flags, make_resources))
        return run.finish()
    finally:
        journal.close()


async def _answer(run: _Run, chosen: Choices, flags: Mapping[str, Any], make_resources: MakeResources) -> None:
    opened = _served if flags["url"] is not None else _embedded
    async with opened(run, chosen, flags, make_resources) as answerers:
        await run.answer(answerers)


@asynccontextmanager
async def _served(
    run: _Run, chosen: Choices, flags: Mapping[str, Any], _: MakeResources
) -> AsyncIterator[Sequence[Answerer]]:
    for name in (*_SETTINGS, "processes"):
        if flags[name] is not None:
            raise InvalidBatch(f"--{name.replace('_', '-')} is for runs without --url: the service has its own.")
    async with client_of(flags, _PATIENCE) as client:
        yield [Served(client, run.task.kind, chosen, run.source)]


@asynccontextmanager
async def _embedded(
    run: _Run, chosen: Choices, flags: Mapping[str, Any], make_resources: MakeResources
) -> AsyncIterator[Sequence[Answerer]]:
    settings = load_settings(given({name: flags[name] for name in _SETTINGS}))
    options = run.task.Options.model_validate(chosen["options"])
    version = choose(settings, run.task.kind, chosen["model"], chosen["version"], options.variant)
    orders = Orders(settings, make_resources, version, options, run.source)
    async with crew(orders, flags["processes"] or 0) as answerers:
        yield answerers


def _parameters(task: type[Task[Any]]) -> list[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    source = typer.Argument(help="A folder, a zip, or a pattern in quotes: 'photos/**/*.jpg'.", metavar="DIR|ZIP|GLOB")
    out = typer.Option(help="File of the results: .parquet, .jsonl or .csv.", metavar="FILE", dir_okay=False)
    processes = typer.Option(help="Processes without --url; by default what pays off.", metavar="NUMBER", min=1)
    return [
        inspect.Parameter("source", keyword, annotation=Annotated[str, source]),
        inspect.Parameter("out", keyword, annotation=Annotated[Path, out]),
        *option_flags(task),
        *target_flags(),
        inspect.Parameter("processes", keyword, default=None, annotation=Annotated[int | None, processes]),
        *setting_flags(_SETTINGS),
        *optional_service_flags(),
    ]
