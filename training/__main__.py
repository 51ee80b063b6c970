"""The command line of training: `imago-train fit | export | verify`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.errors import ImagoError
from app.manifest import explain
from training import engine
from training.console import console
from training.data import BrokenData
from training.export import ExportRefused
from training.export import export as make_version
from training.recipe import Recipe
from training.recipes import RECIPES
from training.run import Run, RunRefused
from training.verify import ScoreDiffers
from training.verify import verify as check_version

REFUSALS = (BrokenData, RunRefused, ExportRefused, ScoreDiffers, ImagoError)
"""Errors whose sentence is the answer; anything else is a defect and shows its trace."""

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Train imago's models and export them for serving.")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the data set, or its parent.", show_default=False)]


@cli.command()
def fit(
    name: RecipeName,
    data: DataFolder,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/RECIPE.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    other: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other hyper-parameter of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a recipe's network; checkpoints, curves and record go below the run's folder."""
    recipe = _recipe(name)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    hyper = _hyper(recipe, {key: value for key, value in given.items() if value is not None} | _pairs(other or []))
    run = Run(out or Path("runs") / name)
    run.begin(name, hyper.model_dump(mode="json"), _command(name, hyper, recipe), resume)
    engine.seed(hyper.seed)
    engine.fit(recipe.plan(hyper, data, run), hyper, run, resume=resume)
    console.print(f"{name}: trained in {run.folder}; next: imago-train export {name} --run {run.folder} --data {data}")


@cli.command()
def export(
    name: RecipeName,
    data: DataFolder,
    run: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    models: Annotated[Path, typer.Option(help="The folder that is served.")] = Path("models"),
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next free number.")] = None,
    note: Annotated[str, typer.Option(help="What a reader of the card should know about this run.")] = "",
) -> None:
    """Export a run into the models folder, compared with torch and scored through the server's own code."""
    folder = make_version(_recipe(name), Run(run), data, models, version, note)
    console.print(f"{folder} is complete")


@cli.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A version, such as models/NAME/1.")],
    data: DataFolder,
) -> None:
    """Score an exported version on held-out data, and fail if its manifest says otherwise."""
    for name, value in check_version(folder, data).items():
        console.print(f"{name} {value:.4f}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (the process's own without `arguments`); a refusal is one sentence and exit code 1."""
    try:
        cli(arguments)
    except REFUSALS as refusal:
        typer.secho(f"imago-train: {refusal}", err=True, fg="red")
        sys.exit(1)


def _recipe(name: str) -> Recipe[Any]:
    if name not in RECIPES:
        raise typer.BadParameter(f"{name!r} is no recipe; known are {', '.join(RECIPES)}")
    return RECIPES[name]


def _hyper(recipe: Recipe[Any], values: dict[str, Any]) -> engine.Hyper:
    try:
        hyper: engine.Hyper = recipe.hyper.model_validate(values)
    except ValidationError as error:
        raise typer.BadParameter(explain(error, recipe.hyper)) from error
    return hyper


def _pairs(entries: list[str]) -> dict[str, Any]:
    """Values are JSON where they can be read as such: `--set window=[256,320]`."""
    for entry in entries:
        if "=" not in entry:
            raise typer.BadParameter(f"--set takes KEY=VALUE, not {entry!r}")
    return {key: _json(value) for key, value in (entry.split("=", 1) for entry in entries)}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _command(name: str, hyper: engine.Hyper, recipe: Recipe[Any]) -> str:
    """The command that repeats this run: no path of this machine, and what differs from the recipe."""
    default = recipe.hyper().model_dump(mode="json")
    changed = {key: value for key, value in hyper.model_dump(mode="json").items() if value != default[key]}
    options = [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in changed.items()]
    return " ".join(["imago-train fit", name, "--data DIR", *options])


if __name__ == "__main__":
    main()
