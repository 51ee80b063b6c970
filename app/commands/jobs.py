"""`imago jobs submit | status | results | cancel`: leaves many pictures at a service, to be answered in time."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.client import AsyncClient, Job
from app.commands.service import answer_of, service_flags, target_flags
from app.commands.verbs import option_flags, options_of
from app.flags import signed
from app.tasks import TASKS, Task
from app.tasks.base import PictureTask

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_ID = inspect.Parameter("job", _KEYWORD, annotation=Annotated[str, typer.Argument(help="Its id.", metavar="ID")])


def add_jobs(cli: typer.Typer, console: Console) -> None:
    """`imago jobs`, with a command for each task of pictures below `submit`."""
    jobs = typer.Typer(no_args_is_help=True, help="Many pictures, left at a service to be answered in time.")
    submit = typer.Typer(no_args_is_help=True, help="Leave a zip, or pictures; prints the id of the job.")
    for kind, task in TASKS.items():
        if issubclass(task, PictureTask):
            submit.command(kind)(_submit(task, console))
    jobs.add_typer(submit, name="submit")
    for name, command in (("status", _status(console)), ("results", _results(console)), ("cancel", _cancel(console))):
        jobs.command(name)(command)
    cli.add_typer(jobs, name="jobs")


def _submit(task: type[Task[Any]], console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        chosen = {"model": flags["model"], "version": flags["version"], "options": options_of(task, flags)}
        console.print(answer_of(flags, lambda client: client.jobs.submit(task.kind, *flags["files"], **chosen)).id)

    files = typer.Argument(help="A zip, or pictures.", metavar="FILE...", exists=True, dir_okay=False)
    taken = inspect.Parameter("files", _KEYWORD, annotation=Annotated[list[Path], files])
    parameters = [taken, *option_flags(task), *target_flags(), *service_flags()]
    return signed(run, f"{task.summary}: each one of many, in time.", parameters)


def _status(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        async def ask(client: AsyncClient) -> list[Job]:
            return [await client.jobs.status(flags["job"])] if flags["job"] else await client.jobs.list()

        console.print(_table(answer_of(flags, ask)))

    job = typer.Argument(help="Its id; all jobs without one.", metavar="[ID]")
    one = inspect.Parameter("job", _KEYWORD, default=None, annotation=Annotated[str | None, job])
    return signed(run, "Print how far jobs are.", [one, *service_flags()])


def _results(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        async def fetch(client: AsyncClient) -> bytes:
            found = await client.jobs.results(flags["job"])
            if flags["out"] is not None:
                flags["out"].write_bytes(found)
            return found

        found = answer_of(flags, fetch)
        if flags["out"] is None:
            console.out(found.decode().removesuffix("\n"), highlight=False)

    where = typer.Option(help="File to write; without it they are printed.", metavar="FILE", dir_okay=False)
    out = inspect.Parameter("out", _KEYWORD, default=None, annotation=Annotated[Path | None, where])
    return signed(
        run, "Print the results of a job that has ended: a line of JSON a picture.", [_ID, out, *service_flags()]
    )


def _cancel(console: Console) -> Callable[..., None]:
    def run(**flags: Any) -> None:
        answer_of(flags, lambda client: client.jobs.cancel(flags["job"]))

    return signed(run, "Stop a job, and remove it with its results.", [_ID, *service_flags()])


def _table(jobs: list[Job]) -> Table:
    table = Table("job", "state", "task", "model", "done", "failed", "created", box=None, pad_edge=False)
    for job in jobs:
        done = f"{job.answered + job.failed} of {job.pictures}"
        state = job.state if job.error is None else f"{job.state}: {job.error.code}"
        created = f"{job.created:%Y-%m-%d %H:%M:%S}"
        table.add_row(job.id, state, job.task, escape(job.model), done, str(job.failed), created)
    return table
