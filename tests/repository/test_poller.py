"""What changes in the folder of models is loaded by itself, once it lies still; what is gone serves on."""

import logging
import shutil
from pathlib import Path

import pytest

from app.errors import ModelNotFound
from app.repository.poller import Poller
from tests.make_models import make_classifier
from tests.repository.house import NAME, House, scenario


async def look(poller: Poller, times: int = 2) -> None:
    """Once to see a change, once more to see that it lies still."""
    for _ in range(times):
        await poller.look()


def poller_of(house: House) -> Poller:
    return Poller(house.root, house.manager.load)


def test_a_version_that_appears_takes_over(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        await look(poller)
        assert len(house.opened) == 1
        make_classifier(tmp_path, version=2)
        await look(poller)
        assert house.answering == 2

    scenario(tmp_path, play)


def test_a_model_that_appears_is_loaded(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        make_classifier(tmp_path, name="another")
        await look(poller)
        assert house.registry.get("classify", "another").manifest.version == 1

    scenario(tmp_path, play)


def test_a_version_that_is_still_being_copied_is_left_alone(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        graph = make_classifier(tmp_path, version=2) / "model.onnx"
        whole = graph.read_bytes()
        for length in (100, 200, 300):
            graph.write_bytes(whole[:length])
            await look(poller, times=1)
        assert house.states == {1: "ready"}
        graph.write_bytes(whole)
        await look(poller)
        assert house.answering == 2

    scenario(tmp_path, play)


def test_what_is_being_written_under_a_temporary_name_is_no_change(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        await house.manager.unload(NAME)
        hidden = make_classifier(tmp_path, version=2).rename(tmp_path / NAME / ".2.tmp")
        await look(poller)
        with pytest.raises(ModelNotFound):
            house.registry.get("classify", NAME)
        hidden.rename(tmp_path / NAME / "2")
        await look(poller)
        assert house.answering == 2

    scenario(tmp_path, play)


def test_other_choices_of_the_operator_are_followed(tmp_path: Path) -> None:
    for version in (1, 2):
        make_classifier(tmp_path, version=version)

    async def play(house: House) -> None:
        poller = poller_of(house)
        house.choose("versions = [1]\n")
        await look(poller)
        assert house.answering == 1

    scenario(tmp_path, play)


def test_a_broken_version_is_tried_once_and_again_when_it_was_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        graph = make_classifier(tmp_path, version=2) / "model.onnx"
        whole = graph.read_bytes()
        graph.write_bytes(b"no graph")
        await look(poller, times=5)
        assert house.answering == 1
        assert house.states == {2: "failed", 1: "ready"}
        assert sum("what changed of tiny-classifier is not loaded" in line.message for line in caplog.records) == 1
        graph.write_bytes(whole)
        await look(poller)
        assert house.answering == 2

    with caplog.at_level(logging.ERROR, "imago.repository"):
        scenario(tmp_path, play)


@pytest.mark.parametrize("name", ["labels.txt", "model.sig"])
def test_a_version_is_tried_again_when_a_file_beside_its_graph_was_mended(tmp_path: Path, name: str) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        version = make_classifier(tmp_path, version=2)
        labels = (version / "labels.txt").read_bytes()
        (version / "labels.txt").write_bytes(b"other")
        await look(poller)
        assert house.states == {2: "failed", 1: "ready"}
        tried = len(house.tried)
        (version / name).write_bytes(labels)
        await look(poller)
        assert len(house.tried) == tried + 1
        assert house.answering == (2 if name == "labels.txt" else 1)

    scenario(tmp_path, play)


def test_a_model_that_is_gone_serves_on_and_one_that_was_unloaded_stays_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_classifier(tmp_path)
    make_classifier(tmp_path, name="another")

    async def play(house: House) -> None:
        poller = poller_of(house)
        shutil.rmtree(tmp_path / NAME)
        await house.manager.unload("another")
        await look(poller, times=3)
        assert house.answering == 1
        with pytest.raises(ModelNotFound):
            house.registry.get("classify", "another")
        assert sum("no longer in the folder" in line.message for line in caplog.records) == 1

    with caplog.at_level(logging.WARNING, "imago.repository"):
        scenario(tmp_path, play)


def test_a_folder_that_cannot_be_read_now_is_looked_at_again(tmp_path: Path) -> None:
    root = tmp_path / "models"
    make_classifier(root)

    async def play(house: House) -> None:
        poller = poller_of(house)
        root.rename(tmp_path / "away")
        await look(poller)
        assert house.answering == 1
        (tmp_path / "away").rename(root)
        make_classifier(root, version=2)
        await look(poller)
        assert house.answering == 2

    scenario(root, play)


def test_a_model_that_cannot_be_read_keeps_no_other_from_being_looked_at(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        poller = poller_of(house)
        (tmp_path / "other").symlink_to("x" * 300)
        make_classifier(tmp_path, version=2)
        await look(poller)
        assert house.answering == 2

    scenario(tmp_path, play)
