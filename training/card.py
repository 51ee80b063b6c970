"""The model card, README.md of a version: what it is, from what it was made, what it scores, what it is not for."""

import json
from collections.abc import Mapping

from app.manifest import Manifest
from training.recipe import Card


def write_card(card: Card, manifest: Manifest, pictures: tuple[str, ...]) -> str:
    """Markdown text; `pictures` are file names in the folder to show."""
    training = manifest.training
    return _text(
        *_head(manifest, card.uses, card.limits),
        "## Figures",
        "",
        f"Printed by `{training['verify']}`; computed from the bytes of encoded pictures through the server's own",
        "decoder, task and session.",
        "",
        *_table("metric", "value", {name: f"{value:.4f}" for name, value in manifest.metrics.items()}),
        "",
        "Torch and ONNX Runtime on real held-out items:",
        "",
        *_parity(manifest),
        "",
        "## Training",
        "",
        f"`{training['command']}`, then `{training['export']}`.",
        "",
        *_facts(training),
        "",
        "## Data",
        "",
        *_facts(manifest.data),
        "",
        *(f"![{name}]({name})" for name in pictures),
    )


def write_adopted_card(manifest: Manifest) -> str:
    """Markdown text for a network that came as an ONNX file."""
    return _text(
        *_head(
            manifest,
            "What its makers made it for; their documentation says more than this card can.",
            "Nothing was measured here but that the graph answers as the file does: any picture is given one of the"
            " labels, however little it shows of them. There are no heat maps.",
        ),
        "## Figures",
        "",
        "The file, fed with normalised floats, and the graph made of it, fed with bytes, on random pictures:",
        "",
        *_parity(manifest),
        "",
        "## Origin",
        "",
        f"`{manifest.training['command']}`",
        "",
        *_facts(manifest.training),
    )


def write_optimised_card(manifest: Manifest, gain: str) -> str:
    """Markdown text for a version that was made from another; `gain` is the table of both."""
    training = manifest.training
    source = str(training["made_from"])
    return _text(
        f"# {manifest.name}, version {manifest.version}",
        "",
        manifest.description,
        "",
        f"Made from {source} in {training['precision']}: data, uses and limits are those of its card.",
        "",
        f"**Licence.** {manifest.licence}",
        "",
        "## Before and after",
        "",
        f"`{training['command']}`, on the machine that made it:",
        "",
        gain,
        "",
        "## Figures",
        "",
        f"Printed by `{training['verify']}`.",
        "",
        *_table("metric", "value", {name: f"{value:.4f}" for name, value in manifest.metrics.items()}),
    )


_SHOWN = ("command", "export", "verify")


def _head(manifest: Manifest, uses: str, limits: str) -> list[str]:
    return [
        f"# {manifest.name}, version {manifest.version}",
        "",
        manifest.description,
        "",
        f"**Intended use.** {uses}",
        "",
        f"**Limits.** {limits}",
        "",
        f"**Licence.** {manifest.licence}",
        "",
    ]


def _parity(manifest: Manifest) -> list[str]:
    return _table("parity", "value", {name: f"{value:.3g}" for name, value in manifest.parity.items()})


def _facts(facts: Mapping[str, object]) -> list[str]:
    return _table("what", "value", {name: _plain(value) for name, value in facts.items() if name not in _SHOWN})


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(left: str, right: str, rows: dict[str, str]) -> list[str]:
    return [f"| {left} | {right} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]


def _text(*lines: str) -> str:
    return "\n".join(lines).rstrip() + "\n"
