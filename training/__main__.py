"""The command line of training: `imago-train fit | export | verify | adopt`."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from app.errors import ImagoError
from app.manifest import explain
from training import engine
from training.adopt import Wanted
from training.adopt import adopt as adopt_file
from training.console import console
from training.data import BrokenData
from training.export import ExportRefused
from training.export import export as make_version
from training.recipe import Recipe
from training.recipes import RECIPES
from training.run import Run, RunRefused
from training.verify import ScoreDiffers
from training.verify import verify as check_version
from training.wrapping import Pixels

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


def _numbers(text: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` or one number."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers with commas between them") from None


def _sides(text: str) -> tuple[int, int]:
    """`320x240`, width before height, or one number for both."""
    found = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is neither WIDTHxHEIGHT nor one number")
    return int(found[1]), int(found[2] or found[1])


@cli.command()
def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A classifier as ONNX: float NCHW in, scores out.")],
    name: Annotated[str, typer.Option(help="Of the model that is made.", show_default=False)],
    models: Annotated[Path, typer.Option(help="The folder that is served.")] = Path("models"),
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next free number.")] = None,
    size: Annotated[
        Any, typer.Option(parser=_sides, metavar="WxH|N", help="Pixels, where the file leaves width and height open.")
    ] = None,
    mean: Annotated[
        Any, typer.Option(parser=_numbers, metavar="M[,M,M]", help="Taken off each channel, in the network's order.")
    ] = "0",
    std: Annotated[
        Any, typer.Option(parser=_numbers, metavar="S[,S,S]", help="Divides each channel after that.")
    ] = "1",
    input_range: Annotated[
        Literal["1", "255"], typer.Option(help="Largest pixel value before mean and std: 0..1 or 0..255.")
    ] = "1",
    channels: Annotated[Literal["rgb", "bgr"], typer.Option(help="Order of the colours in the network.")] = "rgb",
    output: Annotated[str | None, typer.Option(help="The output with the scores, where there are several.")] = None,
    activation: Annotated[
        Literal["auto", "softmax", "none"], typer.Option(help="What is still to be applied to the scores.")
    ] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Text, one label a line. Default: class 0, class 1, ...")] = None,
    fit: Annotated[
        Literal["stretch", "cover"], typer.Option(help="How pictures of another shape are made to fit.")
    ] = "stretch",
    description: Annotated[str | None, typer.Option(help="One sentence for the card and /models.")] = None,
    licence: Annotated[str, typer.Option(help="The terms of the weights.")] = "not stated",
) -> None:
    """Bring a foreign ONNX classifier to imago's contract, compare both, and put it into the models folder."""
    pixels = Pixels(mean, std, 255 if input_range == "255" else 1, channels)
    folder = adopt_file(
        file,
        models,
        Wanted(name, version, size, pixels, output, activation, labels, fit, description, licence),
    )
    console.print(f"{folder} is complete")


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
