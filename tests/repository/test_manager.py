"""Models change while they serve: the new version answers at once and whole, what failed changes nothing."""

import asyncio
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.api.system_routes import is_ready
from app.errors import LoadRefused, ModelNotFound, NotReady
from app.repository.manager import Nobody
from tests.make_models import make_classifier
from tests.repository.house import NAME, House, scenario


def test_a_new_version_takes_over_and_the_old_one_is_closed(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        old = house.registry.get("classify", NAME)
        make_classifier(tmp_path, version=2)
        await house.manager.load(NAME)
        assert house.answering == 2
        await house.ended()
        assert house.states == {2: "ready", 1: "unloaded"}
        assert old.retired
        with pytest.raises(NotReady):
            old.admit(1e12)
        with pytest.raises(ModelNotFound):
            house.registry.get("classify", NAME, 1)

    scenario(tmp_path, play)


def test_versions_named_at_a_load_answer_instead_of_those_of_the_operator_s_file(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        make_classifier(tmp_path, version=version)

    async def play(house: House) -> None:
        await house.manager.load(NAME, (1, 2))
        await house.ended()
        assert house.answering == 2
        assert house.states == {3: "unloaded", 2: "ready", 1: "ready"}
        await house.manager.load(NAME)
        await house.ended()
        assert house.answering == 3

    scenario(tmp_path, play)


def test_a_load_that_would_change_nothing_opens_nothing(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        await house.manager.load(NAME)
        assert len(house.opened) == 1
        assert not house.opened[0].retired

    scenario(tmp_path, play)


def test_other_choices_for_a_version_open_it_anew(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        old = house.registry.get("classify", NAME)
        house.choose("max_batch_size = 3\n")
        await house.manager.load(NAME)
        new = house.registry.get("classify", NAME)
        assert new is not old
        assert new.running.plan.max_batch_size == 3
        await house.ended()
        assert house.states == {1: "ready"}
        assert len(house.registry.openings()) == 1

    scenario(tmp_path, play)


def nest_manifest(version: Path) -> None:
    (version / "manifest.json").write_text("[" * 100_000)


def halve_a_pair(version: Path) -> None:
    path = version / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "description": "\ud800"}))


def damage_graph(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"no graph")


def damage_manifest(version: Path) -> None:
    (version / "manifest.json").write_text("{")


def break_serving(version: Path) -> None:
    (version.parent / "serving.toml").write_text("versoins = [2]\n")


@pytest.mark.parametrize(
    ("damage", "sentence", "shown"),
    [
        (damage_graph, "not the file that was exported", {2: "failed", 1: "ready"}),
        (damage_manifest, "manifest.json is not JSON", {2: "failed", 1: "ready"}),
        (nest_manifest, "manifest.json is not JSON", {2: "failed", 1: "ready"}),
        (halve_a_pair, "manifest.json is not JSON", {2: "failed", 1: "ready"}),
        (break_serving, "did you mean 'versions'", {1: "ready"}),
    ],
)
def test_a_broken_new_version_leaves_the_old_one_serving_and_says_why(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str, shown: dict[int, str]
) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        damage(make_classifier(tmp_path, version=2))
        with pytest.raises(LoadRefused, match=sentence):
            await house.manager.load(NAME)
        assert house.answering == 1
        assert house.states == shown
        assert all(sentence in house.reason(version) for version in shown)
        assert not house.opened[0].retired

    scenario(tmp_path, play)


def test_a_version_that_was_mended_is_loaded_and_nothing_is_blamed_any_more(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        broken = make_classifier(tmp_path, version=2) / "model.onnx"
        whole = broken.read_bytes()
        broken.write_bytes(b"")
        with pytest.raises(LoadRefused):
            await house.manager.load(NAME)
        broken.write_bytes(whole)
        await house.manager.load(NAME)
        await house.ended()
        assert house.states == {2: "ready", 1: "unloaded"}
        assert house.reason(2) == ""

    scenario(tmp_path, play)


def test_of_several_versions_one_that_is_broken_keeps_the_others_from_taking_over(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        make_classifier(tmp_path, version=2)
        damage_graph(make_classifier(tmp_path, version=3))
        house.choose("versions = [2, 3]\n")
        with pytest.raises(LoadRefused, match="not the file that was exported"):
            await house.manager.load(NAME)
        assert house.states == {3: "failed", 2: "failed", 1: "ready"}
        assert house.answering == 1
        assert [servable.retired for servable in house.opened] == [False, True]

    scenario(tmp_path, play)


@pytest.mark.parametrize("harm", ["deleted", "truncated"])
def test_a_file_that_is_gone_while_it_serves_does_no_harm_and_a_reload_is_refused(tmp_path: Path, harm: str) -> None:
    graph = make_classifier(tmp_path) / "model.onnx"

    async def play(house: House) -> None:
        whole = graph.read_bytes()
        if harm == "deleted":
            graph.unlink()
        else:
            graph.write_bytes(whole[:-100])
        with pytest.raises(LoadRefused, match=r"model\.onnx (cannot be read|is not the file that was exported)"):
            await house.manager.load(NAME)
        assert house.answering == 1
        assert not house.opened[0].retired
        assert "It was not replaced" in house.reason(1)
        graph.write_bytes(whole)
        await house.manager.load(NAME)
        assert house.reason(1) == ""
        assert len(house.opened) == 1

    scenario(tmp_path, play)


def test_a_call_that_has_begun_is_answered_by_the_version_it_began_with(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        old = house.registry.get("classify", NAME)
        old.hold()
        make_classifier(tmp_path, version=2)
        await house.manager.load(NAME)
        assert house.answering == 2
        assert house.states == {2: "ready", 1: "unloading"}
        old.admit(1e12)
        again = asyncio.create_task(house.manager.load(NAME, (1,)))
        await asyncio.sleep(0)
        assert not again.done()  # of one model there are never three versions in memory
        old.free()
        await again
        assert house.answering == 1

    scenario(tmp_path, play)


def test_an_unloaded_model_answers_nobody_and_can_be_loaded_again(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    make_classifier(tmp_path, name="other")

    async def play(house: House) -> None:
        await house.manager.unload(NAME)
        await house.ended()
        assert house.states == {1: "unloaded"}
        with pytest.raises(ModelNotFound):
            house.registry.get("classify", NAME)
        assert house.registry.get("classify").manifest.name == "other"
        await house.manager.unload(NAME)
        await house.manager.load(NAME)
        assert house.answering == 1

    scenario(tmp_path, play)


@pytest.mark.parametrize("damage", [damage_graph, damage_manifest, break_serving])
def test_a_broken_model_that_was_unloaded_is_missed_no_more(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make_classifier(tmp_path)
    damage(make_classifier(tmp_path, name="another"))

    async def play(house: House) -> None:
        assert not is_ready(house.registry, strict=True, draining=False)
        await house.manager.unload("another")
        assert is_ready(house.registry, strict=True, draining=False)
        assert [entry.state for entry in house.registry.describe("another")] == ["unloaded"]
        with pytest.raises(ModelNotFound):
            house.registry.get("classify", "another")
        with pytest.raises(LoadRefused):
            await house.manager.load("another")
        assert not is_ready(house.registry, strict=True, draining=False)

    scenario(tmp_path, play)


def test_an_unloaded_version_that_was_removed_from_disk_is_forgotten(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path)

    async def play(house: House) -> None:
        for file in folder.iterdir():
            file.unlink()
        with pytest.raises(LoadRefused, match="no complete version"):
            await house.manager.load(NAME)
        assert house.answering == 1
        await house.manager.unload(NAME)
        await house.ended()
        for ask in (house.manager.load, house.manager.unload):
            with pytest.raises(ModelNotFound):
                await ask(NAME)

    scenario(tmp_path, play)


def test_loads_and_unloads_of_one_model_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    for version in (1, 2):
        make_classifier(tmp_path, version=version)

    async def play(house: House) -> None:
        asked = []
        for _ in range(4):
            asked += [house.manager.load(NAME, (1,)), house.manager.load(NAME, (2,)), house.manager.unload(NAME)]
        await asyncio.gather(*asked, house.manager.load(NAME, (1, 2)))
        await house.ended()
        assert house.states == {1: "ready", 2: "ready"}
        assert len(house.registry.openings()) == 2
        assert sum(not servable.retired for servable in house.opened) == 2

    scenario(tmp_path, play)


@pytest.mark.parametrize("name", ["nobody", "../models", "", "a/b", "tiny-classifier/1"])
def test_what_is_not_there_cannot_be_loaded_or_unloaded(tmp_path: Path, name: str) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        for ask in (house.manager.load, house.manager.unload):
            with pytest.raises(ModelNotFound):
                await ask(name)

    scenario(tmp_path, play)


def test_nothing_is_loaded_by_hand_before_the_first_loading_has_ended(tmp_path: Path) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            house = House(tmp_path, pool, Nobody())
            with pytest.raises(NotReady, match="being loaded"):
                await house.manager.load(NAME)

    asyncio.run(run())


class Slow:
    """A follower that copies and leaves when the test lets it, and cannot open what the test says."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.reasons: dict[str, str] = {}
        self.go_on = asyncio.Event()

    async def copied(self) -> Mapping[str, str]:
        self.steps.append("copied")
        return self.reasons

    async def left(self, keys: Collection[str]) -> None:
        self.steps.append(f"left {','.join(key.partition('@')[0] for key in keys)}")
        await self.go_on.wait()


def test_a_version_is_closed_here_only_when_no_process_uses_it(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    follower = Slow()

    async def play(house: House) -> None:
        make_classifier(tmp_path, version=2)
        await house.manager.load(NAME)
        await asyncio.sleep(0)
        assert follower.steps == ["copied", "copied", "left tiny-classifier/1"]
        house.opened[0].admit(1e12)
        assert house.states == {2: "ready", 1: "unloading"}
        follower.go_on.set()
        await house.ended()
        with pytest.raises(NotReady):
            house.opened[0].admit(1e12)

    scenario(tmp_path, play, follower)


def test_a_version_that_another_process_cannot_open_takes_over_nowhere(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    follower = Slow()

    async def play(house: House) -> None:
        make_classifier(tmp_path, version=2)
        house.registry.look()
        follower.reasons = {house.registry.folder(NAME).opening(2).key: "no room for it"}
        with pytest.raises(LoadRefused, match="no room for it"):
            await house.manager.load(NAME)
        assert house.answering == 1
        assert house.states == {2: "failed", 1: "ready"}
        assert [servable.retired for servable in house.opened] == [False, True]

    scenario(tmp_path, play, follower)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        path = make_classifier(tmp_path, version=2) / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
        with pytest.raises(LoadRefused, match="holds the manifest of tiny-classifier/3"):
            await house.manager.load(NAME)

    scenario(tmp_path, play)


def test_what_was_wrong_with_a_model_as_a_whole_is_forgotten_once_it_is_loaded(tmp_path: Path) -> None:
    make_classifier(tmp_path, name="other")
    break_serving(make_classifier(tmp_path))

    async def play(house: House) -> None:
        assert house.states == {0: "failed"}
        house.choose("")
        await house.manager.load(NAME)
        assert house.states == {1: "ready"}

    scenario(tmp_path, play)


@pytest.mark.parametrize("whole", [False, True])
def test_a_broken_version_that_was_removed_from_disk_is_forgotten(tmp_path: Path, whole: bool) -> None:
    make_classifier(tmp_path, name="other")
    make_classifier(tmp_path)
    damage_graph(make_classifier(tmp_path, version=2))

    async def play(house: House) -> None:
        assert house.states == {2: "failed"}
        shutil.rmtree(tmp_path / NAME if whole else tmp_path / NAME / "2")
        if whole:
            with pytest.raises(ModelNotFound):
                await house.manager.unload(NAME)
            assert [str(entry) for entry in house.registry.entries()] == ["other/1"]
        else:
            await house.manager.load(NAME)
            assert house.states == {1: "ready"}

    scenario(tmp_path, play)


def test_a_version_whose_broken_opening_is_still_being_closed_can_be_loaded_anew(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def play(house: House) -> None:
        (broken,) = house.registry.ready(NAME)
        broken_servable = house.registry.get("classify", NAME)
        broken_servable.hold()
        house.registry.take_away(broken)
        discarding = asyncio.create_task(house.registry.discard(broken, "it fails"))
        await asyncio.sleep(0)
        await house.manager.load(NAME)
        broken_servable.free()
        await discarding
        assert house.states == {1: "ready"}
        (entry,) = house.registry.ready(NAME)
        assert house.registry.find(entry.key) is entry

    scenario(tmp_path, play)
