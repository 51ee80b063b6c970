"""The command line: `imago serve`, `imago check`, `imago list`, each setting a flag of all three. The client's verbs
and `imago keys` are left to `app.commands`."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

# numpy's OpenBLAS starts a thread for each core when it is imported. Serving multiplies no matrices there, and
# processes are forked from one that has no other thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import __version__
from app.commands.batch import add_batch
from app.commands.galleries import add_galleries
from app.commands.jobs import add_jobs
from app.commands.keys import keys
from app.commands.verbs import add_verbs
from app.errors import InvalidModel, OperatorError
from app.flags import flagged
from app.main import (
    check_settings,
    create_app,
    create_registry,
    create_resources,
    create_worker,
    patient_resources,
    read_keys,
    run_engine,
    worker_count,
)
from app.manifest import manifest_of
from app.processes.shared import Shared, share
from app.processes.supervisor import REFUSED, Supervisor
from app.repository.registry import Entry, Registry
from app.repository.store import ModelFolder, scan
from app.rpc.port import reserve
from app.servable import Running
from app.server import Server, addresses, listen, loop_factory, tls_context
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.metrics import Metrics


class _Console(Console):
    """A console whose reader may leave (`imago serve | head -1`): the service goes on."""

    def on_broken_pipe(self) -> None:
        """Called where nobody reads any more."""


console = _Console(highlight=False, width=None if sys.stdout.isatty() else 160)
cli = typer.Typer(no_args_is_help=True, add_completion=False, help="A folder of ONNX models as an HTTP service.")


def serve(settings: Settings) -> None:
    """Serve the models over HTTP until SIGTERM or Ctrl-C."""
    logs.configure(settings.log_level, settings.log_format)
    check_settings(settings)
    scan(settings.models)
    tls_context(settings)
    is_guarded = read_keys(settings) is not None
    listeners = listen(settings.host, settings.port, public=is_guarded or settings.insecure_no_auth)
    safe = "" if settings.tls_certificate is None else "s"
    urls = addresses(listeners, f"http{safe}")
    kept: tuple[socket.socket, ...] = ()  # until the service ends
    if settings.grpc_port is not None:
        port, kept = reserve(listeners, settings.grpc_port)
        settings = settings.model_copy(update={"grpc_port": port})
    workers = worker_count(settings)
    if workers == 1:
        app = create_app(settings, on_loaded=_print_models)
        _announce(urls, addresses(kept, f"grpc{safe}"))
        _serve_until_stopped(Server(app, settings), listeners)
        return
    shared = share(workers, listeners)
    Metrics(shared.board, workers + 1)  # the supervisor's own memory and time count, too
    supervisor = Supervisor(
        shared,
        partial(_or_refuse, partial(_be_worker, settings, shared)),
        partial(_or_refuse, partial(_be_engine, settings, shared)),
        settings.drain_delay_seconds + settings.drain_seconds,
    )
    _announce(urls, addresses(kept, f"grpc{safe}"))
    gc.freeze()  # the collector writes into what it looks through: pages that were shared would be copied
    if status := supervisor.run():
        raise typer.Exit(status)


def _refuse(error: OperatorError) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[red]{error.code}[/]: {escape(error.detail)}", soft_wrap=True)
    sys.exit(REFUSED)


def _or_refuse(be: Callable[..., None], *arguments: Any) -> None:
    """In a child: what the operator has to mend ends the service with its sentence."""
    try:
        be(*arguments)
    except OperatorError as error:
        _refuse(error)


def _be_worker(settings: Settings, shared: Shared, number: int, control: socket.socket) -> None:
    def stop() -> None:
        server.should_exit = True

    app = create_worker(settings, shared, number, control, stop)
    server = Server(app, settings, shared, number)
    _serve_until_stopped(server, ())


def _be_engine(settings: Settings, shared: Shared, control: socket.socket) -> None:
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, signal.SIG_IGN)  # it ends after the last worker, when the supervisor closes its end
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_engine(settings, shared, control, _print_models))


def _serve_until_stopped(server: Server, listeners: Sequence[socket.socket]) -> None:
    # uvicorn drains on these signals and raises them again at its end: a stop that was asked for is a success.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: sys.exit(0))
    server.run(list(listeners))
    if not server.started:
        raise typer.Exit(3)


def check(settings: Settings) -> None:
    """Load and warm up every chosen model, report, and exit with 1 if one is broken."""
    logs.configure(settings.log_level, settings.log_format)
    registry = asyncio.run(_load_once(settings))
    if any(entry.state == "failed" for entry in registry.entries()) or not registry.entries():
        raise typer.Exit(1)


def list_models(settings: Settings) -> None:
    """List the models on disk without loading them."""
    table = _table("model", "versions", "task", "scores", "description")
    for name, folder in scan(settings.models, settings.plain_models).items():
        if isinstance(folder, InvalidModel):
            table.add_row(name, "", "", "", f"[red]{escape(folder.detail)}[/]")
        else:
            table.add_row(name, ", ".join(map(str, folder.versions)), *_newest(folder))
    console.print(table)


cli.command("serve")(flagged(serve))
cli.command("check")(flagged(check))
cli.command("list")(flagged(list_models))
add_verbs(cli, console)
cli.add_typer(keys, name="keys")
add_batch(cli, patient_resources)
add_jobs(cli, console)
add_galleries(cli, console)


@cli.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """A folder of ONNX models as an HTTP service."""
    if show:
        console.print(f"imago {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(prog_name="imago")
    except OperatorError as error:
        _refuse(error)


def _announce(urls: Sequence[str], rpc: Sequence[str]) -> None:
    """Say where the service listens: with port 0 nobody knows before."""
    for url in urls:
        _say(f"imago {__version__} listens on {url}, documentation on {url}/docs")
    for url in rpc:
        _say(f"imago {__version__} listens on {url}")


def _say(what: str | Table) -> None:
    """Tell whoever watches the service start. Where that cannot be written, to a full disk, the service goes on."""
    try:
        console.print(what)
        sys.stdout.flush()
    except OSError:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - what is in the buffer of this one fails at the end


async def _load_once(settings: Settings) -> Registry:
    registry = create_registry(settings, create_resources(settings, Metrics()))
    await registry.load_all()
    _print_models(registry)
    await registry.close()
    return registry


def _print_models(registry: Registry) -> None:
    table = _table("model", "version", "task", "input", "device", "runs", "milliseconds by batch size")
    for entry in registry.entries():
        table.add_row(entry.name, str(entry.version or ""), *_row(entry))
    _say(table)


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    task = entry.manifest.task if entry.manifest else ""
    if entry.servable is None:
        return task, f"[red]{entry.state}[/]", "", "", f"[red]{escape(entry.reason)}[/]"
    running = entry.servable.running
    plan = running.plan
    timed = ", ".join(f"{rows}: {seconds * 1000:.1f}" for rows, seconds in plan.batch_seconds.items())
    inputs = escape(", ".join(map(str, running.inputs)))
    return task, inputs, running.device, _how(running), f"{timed}; one alone: {plan.lone_seconds * 1000:.1f}"


def _how(running: Running) -> str:
    """How the sessions of a version share the cores, in words."""
    plan = running.plan
    if running.inline:
        return f"between requests, up to {running.max_batch_size} rows"
    alone = "" if plan.lone_threads == plan.threads else f"; one alone on {plan.lone_threads} threads"
    return (
        f"{plan.concurrency} x {plan.threads} thread{'s'[: plan.threads > 1]}, up to {plan.max_batch_size} rows{alone}"
    )


def _newest(folder: ModelFolder) -> tuple[str, str, str]:
    try:
        manifest = manifest_of(folder.version_path(folder.versions[-1]))
    except InvalidModel as error:
        return "", "", f"[red]{escape(error.detail)}[/]"
    scores = ", ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items())
    return manifest.task, scores, manifest.description


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    return table


if __name__ == "__main__":
    main()
