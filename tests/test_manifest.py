"""What the manifest says of files, and reading them as it says."""

import os
from pathlib import Path

import pytest

from app.errors import InvalidModel
from app.manifest import GRAPH, LABELS, digest, read_labels, read_manifest, read_verified
from tests.make_models import make_classifier


def version(root: Path) -> Path:
    folder = make_classifier(root)
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


def test_a_file_that_is_what_was_exported_is_read(tmp_path: Path) -> None:
    folder = version(tmp_path)
    assert read_verified(folder, read_manifest(folder), GRAPH) == (folder / GRAPH).read_bytes()


@pytest.mark.parametrize("content", [b"", b"short", b"W" * 881, b"longer" * 1000])
def test_any_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = version(tmp_path)
    manifest = read_manifest(folder)
    (folder / GRAPH).write_bytes(content)
    with pytest.raises(InvalidModel, match="not the file that was exported"):
        read_verified(folder, manifest, GRAPH)


@pytest.mark.parametrize("name", ["../1/model.onnx", "/etc/passwd", "..", ".", "other.bin", ""])
def test_what_is_not_in_the_folder_or_not_listed_is_not_read(tmp_path: Path, name: str) -> None:
    folder = version(tmp_path)
    manifest = read_manifest(folder)
    listed = manifest.model_copy(update={"files": {**manifest.files, "/etc/passwd": digest(b""), "..": digest(b"")}})
    with pytest.raises(InvalidModel, match="not listed"):
        read_verified(folder, listed, name)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder"])
def test_a_file_of_weights_must_be_no_link_and_nothing_else(tmp_path: Path, kind: str) -> None:
    folder = version(tmp_path)
    manifest = read_manifest(folder).model_copy(update={"files": {"weights.bin": digest(b"weights")}})
    assert read_verified(folder, manifest, "weights.bin", own=True) == b"weights"
    elsewhere = (folder / "weights.bin").rename(tmp_path / "elsewhere")
    if kind == "symbolic link":
        (folder / "weights.bin").symlink_to(elsewhere)
    elif kind == "hard link":
        (folder / "weights.bin").hardlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(folder / "weights.bin")
    else:
        (folder / "weights.bin").mkdir()
    with pytest.raises(InvalidModel, match="cannot be read"):
        read_verified(folder, manifest, "weights.bin", own=True)


def test_labels_in_another_encoding_than_utf_8_are_told_as_such(tmp_path: Path) -> None:
    folder = version(tmp_path)
    (folder / LABELS).write_bytes("Käse\n".encode("latin-1"))
    manifest = read_manifest(folder)
    listed = {**manifest.files, LABELS: digest((folder / LABELS).read_bytes())}
    with pytest.raises(InvalidModel, match=r"labels\.txt is not UTF-8"):
        read_labels(folder, manifest.model_copy(update={"files": listed}))
