"""Where pictures come from."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from app.batch.sources import open_source, read_at_most
from app.errors import BodyTooLarge, InvalidBatch
from tests.batch.pictures import make_folder, make_zip, plain


def test_a_folder_is_searched_to_its_end_and_other_files_are_left_alone(tmp_path: Path) -> None:
    names = list(make_folder(tmp_path))
    source = open_source(str(tmp_path))
    assert source.names == names
    assert source.read("red/1.png") == plain("red")
    assert source.size("red/1.png") == len(plain("red"))


def test_a_zip_has_the_same_names_and_travels_to_other_processes(tmp_path: Path) -> None:
    names = list(make_folder(tmp_path / "in"))
    source = pickle.loads(pickle.dumps(open_source(str(make_zip(tmp_path / "all.zip", tmp_path / "in")))))
    assert source.names == names
    assert source.read("blue/1.png") == plain("blue")
    assert source.size("blue/1.png") == len(plain("blue"))


def test_a_pattern_names_files_whatever_their_ending_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert open_source("red/*").names == ["red/0.png", "red/1.png"]
    assert open_source("**/[0]*").names == ["blue/0.png", "green/0.png", "red/0.png"]
    assert open_source("notes.txt").names == ["notes.txt"]


@pytest.mark.parametrize("text", ["none", "none/*.jpg", "empty"])
def test_what_holds_no_pictures_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidBatch, match=text.replace("*", r"\*")):
        open_source(text)


def test_a_damaged_member_is_an_error_of_that_file_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.writestr("one.png", plain("red"))
        packed.writestr("two.png", plain("blue"))
    content = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(content.replace(plain("red")[-20:], bytes(20)))
    source = open_source(str(tmp_path / "all.zip"))
    assert source.read("two.png") == plain("blue")
    with pytest.raises(OSError, match="the zip is damaged"):
        source.read("one.png")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"")
    os.truncate(tmp_path / "large.png", 2**40)
    source = open_source(str(tmp_path))
    with pytest.raises(BodyTooLarge):
        read_at_most(source, "large.png", 2**20)
