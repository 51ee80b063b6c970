"""The contract between training and serving: what a version folder says of itself, and the files that it lists.

`manifest.json` is written by training at export and never changes. What the operator chose stands in `serving.toml`
beside the versions (`app.serving`). Both refuse keys that they do not know.
"""

import difflib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from app.errors import InvalidModel

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
LABELS = "labels.txt"
CARD = "README.md"
PLAIN = "tensors"
"""The task of graphs of which nobody said what they mean."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Names of models: they become folder names, URL parts and metric labels."""


class Contract(BaseModel):
    """A document that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileDigest(Contract):
    """What a file of the version must be, byte for byte."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ImageInput(Contract):
    """How a picture becomes the graph's `image: uint8 [N, height, width, channels]` (see `app.imaging.geometry`)."""

    width: int = Field(ge=1, le=8192)
    height: int = Field(ge=1, le=8192)
    channels: Literal[1, 3] = 3
    fit: Literal["stretch", "cover"] = "stretch"
    filter: Literal["bilinear"] = "bilinear"


class Tiling(Contract):
    """How a picture of any size is cut for a graph whose height and width are free (see `app.imaging.tiles`)."""

    side: int = Field(ge=16, le=4096)
    """The largest side, in pixels, of a part that the graph is given."""
    overlap: int = Field(ge=0, le=512)
    """How far from a pixel the graph looks: so much of a part is seen by its neighbour, too."""
    multiple: int = Field(1, ge=1, le=64)
    """What both sides of a part must be a multiple of."""
    scale: int = Field(1, ge=1, le=4)
    """How many times larger the result is, each way."""

    @model_validator(mode="after")
    def _leaves_a_middle(self) -> "Tiling":
        if self.side % self.multiple or self.overlap % self.multiple or self.side <= 2 * self.overlap:
            raise ValueError("side and overlap are multiples of multiple, and side is more than twice overlap")
        return self


class Conformal(Contract):
    """From which probability on a label belongs to the set that holds the right one with a chosen coverage.

    Split conformal prediction with the score 1 - p(right label): Sadinle et al. 2019, "Least ambiguous set-valued
    classifiers with bounded error levels", JASA 114(525).
    """

    count: int = Field(ge=1)
    """Held-out pictures that the probabilities were found on."""
    least: dict[str, float]
    """The least probability, by coverage with two decimals: `"0.90"`."""


class Manifest(Contract):
    """What training recorded of one version of a model."""

    format: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$")
    version: int = Field(ge=1)
    task: str
    description: str
    licence: str
    image: ImageInput | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    tiling: Tiling | None = None
    conformal: Conformal | None = None
    data: dict[str, str | int] = {}
    metrics: dict[str, float] = {}
    training: dict[str, JsonValue] = {}
    parity: dict[str, float] = {}
    files: dict[str, FileDigest]
    created: str


def read_manifest(folder: Path) -> Manifest:
    """Read a version's manifest.

    Raises:
        InvalidModel: it is missing, no JSON, or breaks the contract; the sentence names the key.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        json.dumps(found, ensure_ascii=False).encode()  # halves of surrogate pairs can be told to nobody
        return Manifest.model_validate(found)
    except OSError as error:
        raise InvalidModel(f"{short(path)} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        raise InvalidModel(f"{short(path)}: {explain(error, Manifest)}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{short(path)} is not JSON: {error}") from error


def manifest_of(folder: Path) -> Manifest:
    """The manifest in a version's folder; where none is, one that says what there is: a graph of no known meaning, and
    the files as they lie there now. Reads all of them.

    Raises:
        InvalidModel: as `read_manifest`, or a file cannot be read.
    """
    if (folder / MANIFEST).exists():
        return read_manifest(folder)
    try:
        files = digest_files(folder)
    except OSError as error:
        raise InvalidModel(f"{short(folder)} cannot be read: {error.strerror}.") from None
    name, version = folder.parent.name, int(folder.name)
    told = "A plain ONNX file: tensors in, tensors out."
    return Manifest(name=name, version=version, task=PLAIN, description=told, licence="", files=files, created="")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files of a version: its presence says that the version is complete."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, sort_keys=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """The labels of a version, one a line in the order of the graph's class indices; none without a file.

    Raises:
        InvalidModel: as `read_verified`, or it is no text.
    """
    if LABELS not in manifest.files and not (folder / LABELS).exists():
        return ()
    try:
        return tuple(read_verified(folder, manifest, LABELS).decode("utf-8").splitlines())
    except UnicodeDecodeError:
        raise InvalidModel(f"{short(folder / LABELS)} is not UTF-8: write one label a line in that.") from None


def digest(data: bytes) -> FileDigest:
    """The digest (FIPS 180-4 SHA-256) and length of some bytes."""
    return FileDigest(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def digest_files(folder: Path) -> dict[str, FileDigest]:
    """Digests of all files of a version but its manifest, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: digest(path.read_bytes()) for path in files}


def read_verified(folder: Path, manifest: Manifest, name: str, own: bool = False) -> bytes:
    """Read a file of a version, once, and check it against the manifest's digest: what is returned is what was checked.

    Args:
        folder: of the version.
        manifest: of the version.
        name: of the file.
        own: it must be a file of this folder alone, and no link of either kind.

    Raises:
        InvalidModel: the file is missing, not listed, a link where none may be, or not the bytes that were exported.
    """
    known = manifest.files.get(name)
    if known is None or "/" in name or name in (".", ".."):
        raise InvalidModel(f"{short(folder / name)} is not listed in {MANIFEST}.")
    try:
        with _open_own(folder / name) if own else (folder / name).open("rb") as file:
            data = file.read(known.bytes + 1)
    except OSError as error:
        raise InvalidModel(f"{short(folder / name)} cannot be read: {error.strerror}.") from None
    if digest(data) != known:
        length = f"{len(data)} bytes" if len(data) <= known.bytes else "more bytes"
        raise InvalidModel(
            f"{short(folder / name)} is not the file that was exported: {length} instead of {known.bytes},"
            f" or another SHA-256. Copy the version again."
        )
    return data


def _open_own(path: Path) -> BinaryIO:
    """Open a file that is no link; `O_NONBLOCK` keeps a pipe in its place from being waited for."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        file.close()
        raise OSError(errno.ELOOP, "It is a link, or no file")
    return file


def explain(error: ValidationError, contract: type[BaseModel]) -> str:
    """One sentence from a validation error; an unknown key is answered with the nearest known one."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # one misspelt is also missing
    key = ".".join(str(part) for part in first["loc"]) or "the document"
    if first["type"] == "extra_forbidden":
        return f"{key!r} is unknown{nearest(str(first['loc'][-1]), contract.model_fields)}"
    told = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{key}: {told}" if told.endswith("?") else f"{key}: {told}."


def nearest(word: str, known: Mapping[str, Any]) -> str:
    """The end of a sentence on an unknown word: the known word nearest to it, or all known words."""
    close = difflib.get_close_matches(word, list(known), n=1)
    if not known:
        return "; there are none."
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}."


def short(path: Path) -> str:
    """The end of a path, enough to find it and nothing of where the operator keeps it."""
    return "/".join(path.parts[-3:])
