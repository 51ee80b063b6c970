"""`imago-train evaluate`: figures as JSON, pictures as PNG, and one self-contained HTML page of both."""

import base64
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import InvalidModel
from training.data import BrokenData
from training.data.held_out import Boxed, Labelled, Masked, Truth, boxed, labelled, masked
from training.evaluation import classification, detection, segmentation
from training.recipes import RECIPES
from training.version import Version, open_version

_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:60em} td{padding:2px 10px;text-align:right} img{max-width:100%}"
)
_JUDGES: dict[type[Truth], Any] = {Labelled: classification, Masked: segmentation, Boxed: detection}


def evaluate(folder: Path, data: Path, out: Path, against: Path | None = None) -> dict[str, Any]:
    """Score a version on held-out pictures, and compare it with another; write report.json, its pictures and
    report.html into `out`; return what went into the JSON.

    Raises:
        InvalidModel: a version breaks the contract, its task has nothing that could be right or wrong, or the other
            version has another task.
        BrokenData: the data cannot be read.
    """
    version, other = open_version(folder), None if against is None else open_version(against)
    if other is not None and other.manifest.task != version.manifest.task:
        tasks = f"the one is to {version.manifest.task}, the other to {other.manifest.task}"
        raise InvalidModel(f"{_name(version)} and {_name(other)} cannot be compared: {tasks}.")
    pictures = truth(version, data)
    judge = _JUDGES[type(pictures)]
    answers = judge.ask(version, pictures)
    figures, files = judge.report(answers, pictures)
    if other is not None:
        found = judge.compare(answers, judge.ask(other, pictures))
        figures["comparison"] = found.figures(_name(version), _name(other))
    figures = {"model": _name(version), "data": data.absolute().name, **figures}
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, file in files.items():
        (out / name).write_bytes(file)
    (out / "report.html").write_text(page(figures, files), encoding="utf-8")
    return figures


def truth(version: Version, data: Path) -> Truth:
    """Held-out pictures for a version: those of its recipe, or of a folder as one's own pictures lie in.

    Raises BrokenData of the first where neither is there, and InvalidModel for a task that has no truth.
    """
    folders: dict[str, Callable[[Path], Truth]] = {"classify": labelled, "segment": masked, "detect": boxed}
    if version.manifest.task not in folders:
        raise InvalidModel(f"{_name(version)} labels nothing: `imago-train verify` computes the figures of its card.")
    recipe = RECIPES.get(str(version.manifest.training.get("recipe")))
    if recipe is not None:
        try:
            return recipe.truth(data)
        except BrokenData as error:
            missing = error
            try:
                return folders[version.manifest.task](data)
            except BrokenData:
                raise missing from None
    return folders[version.manifest.task](data)


def page(figures: dict[str, Any], files: dict[str, bytes]) -> str:
    """One HTML page that needs nothing beside it."""
    plain = {key: value for key, value in figures.items() if isinstance(value, str | int | float)}
    parts = [
        f"<h1>{html.escape(str(figures['model']))} on {html.escape(str(figures['data']))}</h1>",
        _table(["", ""], [[key, _text(value)] for key, value in plain.items()]),
    ]
    if "comparison" in figures:
        parts.append(f"<p>{html.escape(figures['comparison']['says'])}</p>")
    classes: dict[str, dict[str, float]] = figures["classes"]
    columns = list(next(iter(classes.values())))
    rows = [[label, *(_text(value[column]) for column in columns)] for label, value in classes.items()]
    parts.append(_table(["class", *columns], rows))
    for name, file in files.items():
        source = base64.b64encode(file).decode("ascii")
        title = html.escape(Path(name).stem)
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{source}">')
    title = html.escape(str(figures["model"]))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _name(version: Version) -> str:
    return f"{version.manifest.name}/{version.manifest.version}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, *rows]
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
