"""`scan` finds complete versions and leaves everything else alone."""

from pathlib import Path

import pytest

from app.errors import InvalidModel, InvalidSettings
from app.repository.store import ModelFolder, scan
from tests.make_models import make_classifier


def folder_of(root: Path, name: str = "tiny-classifier") -> ModelFolder:
    found = scan(root)[name]
    assert isinstance(found, ModelFolder)
    return found


def test_versions_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for version in (10, 2, 1):
        make_classifier(tmp_path, version=version)
    assert folder_of(tmp_path).versions == (1, 2, 10)


@pytest.mark.parametrize("name", ["0", "01", "-1", "1.5", "latest", ".3", "2.tmp-x", "99999999999"])
def test_a_folder_that_is_no_version_number_is_left_alone(tmp_path: Path, name: str) -> None:
    make_classifier(tmp_path).rename(tmp_path / "tiny-classifier" / name)
    assert scan(tmp_path) == {}


def test_a_version_without_a_manifest_is_not_there_yet(tmp_path: Path) -> None:
    make_classifier(tmp_path, version=1)
    (make_classifier(tmp_path, version=2) / "manifest.json").unlink()
    assert folder_of(tmp_path).versions == (1,)


@pytest.mark.parametrize("name", [".hidden", "..x", "with space", "über", "-x", "x" * 65])
def test_a_folder_whose_name_cannot_be_a_model_is_left_alone(tmp_path: Path, name: str) -> None:
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier").rename(tmp_path / name)
    assert scan(tmp_path) == {}


def test_files_beside_the_models_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    make_classifier(tmp_path)
    assert list(scan(tmp_path)) == ["tiny-classifier"]


@pytest.mark.parametrize(
    ("versions", "chosen"), [('"latest"', (3,)), ('"all"', (1, 2, 3)), ("[1, 3]", (1, 3)), ("[3, 1]", (1, 3))]
)
def test_the_operator_chooses_versions(tmp_path: Path, versions: str, chosen: tuple[int, ...]) -> None:
    for version in (1, 2, 3):
        make_classifier(tmp_path, version=version)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text(f"versions = {versions}\n")
    assert folder_of(tmp_path).chosen() == chosen


def test_a_chosen_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text("versions = [1, 7]\n")
    with pytest.raises(InvalidModel, match=r"^tiny-classifier: serving.toml, or .* names version 7; on disk: 1\.$"):
        folder_of(tmp_path).chosen()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_batchsize = 4", "did you mean 'max_batch_size'"),
        ("max_batch_size = 0", "greater than or equal to 1"),
        ("max_batch_size = ", "is not TOML"),
        ('versions = "newest"', "latest"),
        ("versions = " + "[" * 20_000, "is not TOML"),
    ],
)
def test_a_broken_configuration_breaks_that_model_alone(tmp_path: Path, text: str, sentence: str) -> None:
    make_classifier(tmp_path)
    make_classifier(tmp_path, name="other")
    (tmp_path / "tiny-classifier" / "serving.toml").write_text(text)
    found = scan(tmp_path)
    assert isinstance(found["other"], ModelFolder)
    broken = found["tiny-classifier"]
    assert isinstance(broken, InvalidModel)
    assert sentence in broken.detail


def test_a_root_that_is_no_folder_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="is no folder"):
        scan(tmp_path / "none")


def test_a_folder_that_cannot_be_read_breaks_that_model_alone(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    manifest = make_classifier(tmp_path, name="other") / "manifest.json"
    manifest.unlink()
    manifest.symlink_to("x" * 300)  # the system refuses to look at it, as it does where rights are missing
    (tmp_path / "third").symlink_to("x" * 300)
    found = scan(tmp_path)
    assert isinstance(found["tiny-classifier"], ModelFolder)
    for name in ("other", "third"):
        broken = found[name]
        assert isinstance(broken, InvalidModel)
        assert "cannot be read: File name too long" in broken.detail
        assert str(tmp_path) not in broken.detail
