"""The command line: `imago serve`, `imago check`, `imago list`. Each setting is a flag of all three."""

import asyncio
import signal
import sys
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app import __version__
from app.errors import InvalidModel, OperatorError
from app.flags import flagged
from app.main import create_app, create_registry
from app.manifest import read_manifest
from app.repository.registry import Entry, Registry
from app.repository.store import ModelFolder, scan
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.metrics import Metrics

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
cli = typer.Typer(no_args_is_help=True, add_completion=False, help="A folder of ONNX models as an HTTP service.")


def serve(settings: Settings) -> None:
    """Serve the models over HTTP until SIGTERM or Ctrl-C."""
    logs.configure(settings.log_level, settings.log_format)
    scan(settings.models)
    config = uvicorn.Config(
        create_app(settings, on_loaded=_print_models),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = _Announcing(config)
    # uvicorn drains on these signals and raises them again at its end: a stop that was asked for is a success.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: sys.exit(0))
    server.run()
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
    for name, folder in scan(settings.models).items():
        if isinstance(folder, InvalidModel):
            table.add_row(name, "", "", "", f"[red]{escape(folder.detail)}[/]")
        else:
            table.add_row(name, ", ".join(map(str, folder.versions)), *_newest(folder))
    console.print(table)


cli.command("serve")(flagged(serve))
cli.command("check")(flagged(check))
cli.command("list")(flagged(list_models))


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
        Console(stderr=True, highlight=False).print(f"[red]{error.code}[/]: {escape(error.detail)}", soft_wrap=True)
        sys.exit(2)


class _Announcing(uvicorn.Server):
    """A server that says where it listens once it does: with port 0 nobody knows before."""

    async def startup(self, sockets: Any = None) -> None:
        """Start as uvicorn does, then print the addresses."""
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                url = f"http://{'localhost' if shown in ('0.0.0.0', '[::]') else shown}:{port}"  # noqa: S104 - only shown
                console.print(f"imago {__version__} listens on {url}, documentation on {url}/docs")


async def _load_once(settings: Settings) -> Registry:
    registry = create_registry(settings, Metrics())
    await registry.load_all()
    _print_models(registry)
    await registry.close()
    return registry


def _print_models(registry: Registry) -> None:
    table = _table("model", "version", "task", "input", "device", "batch up to", "milliseconds by batch size")
    for entry in registry.entries():
        table.add_row(entry.name, str(entry.version or ""), *_row(entry))
    console.print(table)


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    task = entry.manifest.task if entry.manifest else ""
    if entry.servable is None:
        return task, f"[red]{entry.state}[/]", "", "", f"[red]{escape(entry.reason)}[/]"
    session = entry.servable.sessions[0]
    timed = ", ".join(f"{rows}: {seconds * 1000:.1f}" for rows, seconds in entry.servable.batch_seconds.items())
    largest = str(entry.servable.max_batch_size)
    return task, escape(", ".join(map(str, session.inputs))), session.device, largest, timed


def _newest(folder: ModelFolder) -> tuple[str, str, str]:
    try:
        manifest = read_manifest(folder.version_path(folder.versions[-1]))
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
