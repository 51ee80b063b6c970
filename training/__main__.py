"""The command line of training, `imago-train`: from data to versions that are examined and made smaller."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pydantic import ValidationError

from app.errors import ImagoError
from app.manifest import explain
from training import engine
from training.adoption.adopt import adopt as adopt_file
from training.adoption.wanted import Activation, Background, Boxes, BoxFormat, Kind, Layout, Pixels, Range, Unit, Wanted
from training.console import console
from training.data import BrokenData
from training.data.inspection import inspect_folder
from training.evaluation.run import evaluate as evaluate_version
from training.export import ExportRefused
from training.export import export as make_version
from training.prune import prune as prune_run
from training.quantize import quantize as quantize_version
from training.recipe import Recipe
from training.recipes import RECIPES
from training.report import measure as measure_versions
from training.report import plot as plot_of
from training.report import report as table_of
from training.run import Run, RunRefused, options
from training.verify import ScoreDiffers
from training.verify import verify as check_version

REFUSALS = (BrokenData, RunRefused, ExportRefused, ScoreDiffers, ImagoError)
"""Errors whose sentence is the answer; anything else is a defect and shows its trace."""

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Train imago's models and export them for serving.")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the data set, its parent, or a zip of pictures.")]
HERE = Path()
"""Where data are looked for if no folder is named."""


@cli.command()
def fit(
    name: RecipeName,
    data: DataFolder = HERE,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/RECIPE.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    dp_epsilon: Annotated[
        float | None, typer.Option(help="Budget of differential privacy for each picture (imagefolder-classifier).")
    ] = None,
    other: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other hyper-parameter of the recipe.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    device: Annotated[Literal["auto", "cpu", "gpu"], typer.Option(help="What to train on.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) of each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; each runs this command as Lightning's docs say.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures beside training.")] = 0,
) -> None:
    """Train a recipe's network; checkpoints, curves and record go below the run's folder."""
    recipe = _recipe(name)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "dp_epsilon": dp_epsilon}
    hyper = _hyper(recipe, {key: value for key, value in given.items() if value is not None} | _pairs(other or []))
    run = Run(out or Path("runs") / name)
    command = " ".join(["imago-train fit", name, "--data DIR", *options(_changed(recipe, hyper.shown()))])
    run.begin(name, hyper.model_dump(mode="json"), command, resume)
    engine.seed(hyper.seed)
    plan = recipe.plan(hyper, data, run)
    run.learns(recipe.describe(hyper, data).labels)
    engine.fit(plan, hyper, run, resume=resume, machine=engine.Machine(device, devices, nodes, workers))
    console.print(f"{name}: trained in {run.folder}; next: {_next(name, run, data)}")


@cli.command()
def export(
    name: RecipeName,
    run: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    data: DataFolder = HERE,
    models: Annotated[Path, typer.Option(help="The folder that is served.")] = Path("models"),
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next free number.")] = None,
    note: Annotated[str, typer.Option(help="What a reader of the card should know about this run.")] = "",
    called: Annotated[str | None, typer.Option("--name", help="Of the model. Default: the recipe's.")] = None,
) -> None:
    """Export a run into the models folder, compared with torch and scored through the server's own code."""
    folder = make_version(_recipe(name), Run(run), data, models, version, note, called)
    console.print(f"{folder} is complete")


@cli.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A version, such as models/NAME/1.")],
    data: DataFolder = HERE,
) -> None:
    """Score an exported version on held-out data, and fail if its manifest says otherwise."""
    for name, value in check_version(folder, data).items():
        console.print(f"{name} {value:.4f}")


@cli.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A version, such as models/NAME/1.")],
    data: DataFolder = HERE,
    out: Annotated[Path, typer.Option(help="Where report.json, report.html and pictures go.")] = Path("evaluation"),
    against: Annotated[Path | None, typer.Option(help="Another version, to compare on the same pictures.")] = None,
) -> None:
    """Score a version on held-out pictures through the server's own code: figures by class, mistakes, calibration."""
    figures = evaluate_version(folder, data, out, against)
    for name, value in figures.items():
        if isinstance(value, int | float):
            console.print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")
    if "comparison" in figures:
        console.print(figures["comparison"]["says"])
    console.print(f"the whole report: {out / 'report.html'}")


data_commands = typer.Typer(no_args_is_help=True, help="Look at data before training on them.")
cli.add_typer(data_commands, name="data")


@data_commands.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folders of classes, of masks, or Pascal VOC; or a zip.")
    ],
    out: Annotated[Path, typer.Option(help="File of the contact sheet.")] = Path("contact-sheet.png"),
) -> None:
    """Print counts, sizes and balance of pictures, duplicates and leaks between their parts, broken files."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise typer.BadParameter(f"{out} lies among the pictures, and would be taken for one: name another --out.")
    found = inspect_folder(folder)
    typer.echo(found.text())
    out.write_bytes(found.sheet)
    console.print(f"contact sheet: {out}")


@cli.command()
def quantize(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A version, such as models/NAME/1.")],
    data: DataFolder = HERE,
    precision: Annotated[Literal["int8", "fp16"], typer.Option(help="int8 for CPUs, fp16 for GPUs.")] = "int8",
    pictures: Annotated[int, typer.Option(min=1, help="Training pictures that ranges are found on.")] = 512,
    loss: Annotated[float, typer.Option(min=0, help="How much worse the score may be: 0.005 is half a point.")] = 0.005,
    force: Annotated[bool, typer.Option("--force", help="Make the version even if it is worse, or no faster.")] = False,
) -> None:
    """Make the next version of a model in INT8 or half precision, if it is faster and about as good."""
    gain = quantize_version(folder, data, precision, pictures, loss, force)
    typer.echo(gain.table())
    console.print(f"{gain.folder} is complete")


@cli.command()
def prune(
    name: RecipeName,
    run: Annotated[Path, typer.Option(help="Folder of the run whose network is pruned.", show_default=False)],
    data: DataFolder = HERE,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run. Default: RUN-pruned.")] = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.95, help="Share of the channels that go.")] = 0.5,
    other: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter of the fine-tuning.")
    ] = None,
) -> None:
    """Take the least important channels out of a trained network, and train what is left; export it as any run."""
    target = Run(out or run.with_name(f"{run.name}-pruned"))
    recipe, values = _recipe(name), _pairs(other or [])
    _hyper(recipe, values)
    try:
        prune_run(recipe, Run(run), target, data, share, values)
    except SIGTERMException as stopped:
        hyper = _hyper(recipe, target.read()["hyper"])
        folders = shlex.join(["--out", str(target.folder), "--data", str(data)])
        chosen = options(_changed(recipe, hyper.model_dump(mode="json")))
        again = " ".join(("imago-train fit", name, folders, "--resume", *chosen))
        typer.secho(f"imago-train: stopped, and the state is kept; to go on: {again}", err=True)
        sys.exit(stopped.code)
    console.print(f"{name}: pruned in {target.folder}; next: {_next(name, target, data)}")


@cli.command()
def distill(
    name: RecipeName,
    teacher: Annotated[Path, typer.Option(help="A version that teaches, such as models/NAME/1.", show_default=False)],
    data: DataFolder = HERE,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/RECIPE-distilled.")] = None,
    other: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter of the student.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a network on labels and on what a better, slower version says; export it as any run."""
    if "teacher" not in _recipe(name).hyper.model_fields:
        able = ", ".join(each for each, recipe in RECIPES.items() if "teacher" in recipe.hyper.model_fields)
        raise typer.BadParameter(f"{name} learns from no teacher; recipes that do are {able}.")
    folder = out or Path("runs") / f"{name}-distilled"
    fit(name, data, folder, other=[*(other or []), f"teacher={json.dumps(str(teacher))}"], resume=resume)


@cli.command()
def report(
    models: Annotated[Path, typer.Argument(metavar="MODELS", help="A models folder.")] = Path("models"),
    measure: Annotated[bool, typer.Option("--measure", help="Time every version on this machine first.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw score against latency into this PNG file.")] = None,
) -> None:
    """Print a table of all versions: what they cost, what they score, what others reach, how long they take."""
    if measure:
        measure_versions(models)
    typer.echo(table_of(models))
    if plot is not None:
        plot.write_bytes(plot_of(models))


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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A network as ONNX: float pictures in, scores out.")],
    name: Annotated[str, typer.Option(help="Of the model that is made.", show_default=False)],
    task: Annotated[Kind, typer.Option(help="What the network is for.")] = "classify",
    models: Annotated[Path, typer.Option(help="The folder that is served.")] = Path("models"),
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next free number.")] = None,
    size: Annotated[
        Any, typer.Option(parser=_sides, metavar="WxH|N", help="Pixels, where the file leaves width and height open.")
    ] = None,
    layout: Annotated[Layout, typer.Option(help="Where channels stand: [N,C,H,W] or [N,H,W,C].")] = "nchw",
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
    activation: Annotated[Activation, typer.Option(help="What is still to be applied to the scores.")] = "auto",
    boxes: Annotated[str | None, typer.Option(help="Detectors: the output with the boxes, [N,K,4].")] = None,
    classes: Annotated[str | None, typer.Option(help="Detectors: the output with one class a box, [N,K].")] = None,
    box_format: Annotated[BoxFormat, typer.Option(help="Detectors: what four numbers a box is.")] = "xyxy",
    box_unit: Annotated[Unit, typer.Option(help="Detectors: pixels of the input, or fractions of its sides.")] = "auto",
    background: Annotated[Background, typer.Option(help="Detectors: the class that means nothing.")] = "none",
    suppress: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detectors: IoU from which on the surer box stays; 1 keeps all.")
    ] = None,
    latent: Annotated[str | None, typer.Option(help="Generators: the input with the latent vector.")] = None,
    output_range: Annotated[Range, typer.Option(help="Generators: pixel values for black and white.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Text, one label a line. Default: class 0, class 1, ...")] = None,
    fit: Annotated[
        Literal["stretch", "cover"], typer.Option(help="How pictures of another shape are made to fit.")
    ] = "stretch",
    description: Annotated[str | None, typer.Option(help="One sentence for the card and /models.")] = None,
    licence: Annotated[str, typer.Option(help="The terms of the weights.")] = "not stated",
) -> None:
    """Bring a foreign ONNX network to imago's contract, compare both, and put it into the models folder."""
    pixels = Pixels(mean, std, 255 if input_range == "255" else 1, channels)
    places = Boxes(boxes, classes, box_format, box_unit, background, suppress)
    said = Wanted(
        name, version, task, size, layout, pixels, output, activation, places, latent, output_range, labels, fit,
        description, licence,
    )  # fmt: skip
    folder = adopt_file(file, models, said)
    console.print(f"{folder} is complete")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (the process's own without `arguments`); a refusal is one sentence and exit code 1."""
    try:
        cli(arguments)
    except SIGTERMException as stopped:
        typer.secho("imago-train: stopped, and the state is kept: add --resume to go on", err=True)
        sys.exit(stopped.code)
    except REFUSALS as refusal:
        typer.secho(f"imago-train: {refusal}", err=True, fg="red")
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is a file: the system's own words are the answer
        typer.secho(f"imago-train: {error}", err=True, fg="red")
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


def _next(name: str, run: Run, data: Path) -> str:
    """The command that comes after training."""
    return shlex.join(["imago-train", "export", name, "--run", str(run.folder), "--data", str(data)])


def _changed(recipe: Recipe[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the recipe's."""
    default = recipe.hyper().model_dump(mode="json")
    return {key: value for key, value in values.items() if value != default[key]}


if __name__ == "__main__":
    main()
