"""The model card, README.md of a version: what it is, from what it was made, what it scores, what it is not for."""

import json

from app.manifest import Manifest
from training.recipe import Card


def write_card(card: Card, manifest: Manifest, pictures: tuple[str, ...]) -> str:
    """Markdown text; `pictures` are file names in the folder to show."""
    training = manifest.training
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        card.description,
        "",
        f"**Intended use.** {card.uses}",
        "",
        f"**Limits.** {card.limits}",
        "",
        f"**Licence.** {card.licence}",
        "",
        "## Figures",
        "",
        f"Printed by `{training['verify']}`; computed from the bytes of encoded pictures through the server's own",
        "decoder, task and session.",
        "",
        *_table("metric", "value", {name: f"{value:.4f}" for name, value in manifest.metrics.items()}),
        "",
        "Torch and ONNX Runtime on real held-out items:",
        "",
        *_table("parity", "value", {name: f"{value:.3g}" for name, value in manifest.parity.items()}),
        "",
        "## Training",
        "",
        f"`{training['command']}`, then `{training['export']}`.",
        "",
        *_table("what", "value", {name: _plain(value) for name, value in training.items() if name not in _SHOWN}),
        "",
        "## Data",
        "",
        *_table("what", "value", {name: _plain(value) for name, value in manifest.data.items()}),
        "",
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n".join(lines).rstrip() + "\n"


_SHOWN = ("command", "export", "verify")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(left: str, right: str, rows: dict[str, str]) -> list[str]:
    return [f"| {left} | {right} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
