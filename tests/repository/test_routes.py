"""Names of versions, and a share of requests for a new one."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from app.errors import InvalidModel, LoadRefused, ModelNotFound, NotReady
from app.repository.routes import evenly
from app.serving import Sticky, read_serving
from tests.make_models import make_versions
from tests.repository.house import NAME, House, scenario

NAMES = "aliases = { stable = 1, canary = 2 }"


def asked(house: House, version: int | str | None = None) -> int:
    return house.registry.get("classify", NAME, version).manifest.version


def test_a_version_answers_to_its_names_and_the_stable_one_where_none_is_named(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1, next = 2, old = 1 }\n", count=3)

    async def play(house: House) -> None:
        assert [asked(house, name) for name in ("stable", "next", "old", None, 2, 3)] == [1, 2, 1, 1, 2, 3]
        assert house.registry.get("classify").manifest.version == 1
        assert house.registry.get("classify", None, "next").manifest.version == 2
        assert house.registry.get(None, NAME).manifest.version == 1
        for unknown in ("newest", "Stable", "3x"):
            with pytest.raises(ModelNotFound, match=unknown):
                asked(house, unknown)

    scenario(tmp_path, play)


def test_other_names_for_the_same_versions_open_nothing(tmp_path: Path) -> None:
    make_versions(tmp_path, 'versions = "all"\naliases = { stable = 1 }\n')

    async def play(house: House) -> None:
        assert asked(house) == 1
        house.choose('versions = "all"\naliases = { stable = 2 }\ncanary = { version = 1, percent = 50 }\n')
        await house.manager.load(NAME)
        assert asked(house, "stable") == 2
        assert len(house.opened) == 2

    scenario(tmp_path, play)


def test_a_name_for_a_version_that_is_not_there_refuses_the_load(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1 }\n")

    async def play(house: House) -> None:
        house.choose("aliases = { stable = 7 }\n")
        with pytest.raises(LoadRefused, match="names version 7"):
            await house.manager.load(NAME)
        assert asked(house) == 1

    scenario(tmp_path, play)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("aliases = { 2 = 1 }", "aliases"),
        ("aliases = { Stable = 1 }", "aliases"),
        ("aliases = { next = 0 }", "aliases"),
        ("canary = { version = 2, percent = 10 }", "needs the alias 'stable'"),
        ("shadow = { version = 2 }", "needs the alias 'stable'"),
        ('aliases = { stable = 1, nxt = 1 }\nshadow = { version = "next" }', "did you mean 'nxt'"),
        ('aliases = { stable = 1 }\ncanary = { version = 2, percent = 5, sticky = "ip" }', "canary.sticky"),
        ("aliases = { stable = 1 }\ncanary = { version = 2, percent = 150 }", "canary.percent"),
        ("aliases = { stable = 1 }\ncanary = { version = 2, precent = 5 }", "canary.precent.*did you mean .percent"),
        ("aliases = { stable = 1 }\nshadow = { version = 2, percent = -1 }", "shadow.percent"),
    ],
)
def test_choices_that_make_no_sense_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "serving.toml").write_text(text)
    with pytest.raises(InvalidModel, match=sentence):
        read_serving(tmp_path)


@pytest.mark.parametrize("percent", [2, 30, 90])
def test_a_canary_answers_its_share_of_the_requests_that_name_no_version(tmp_path: Path, percent: int) -> None:
    make_versions(tmp_path, f'{NAMES}\ncanary = {{ version = "canary", percent = {percent} }}\n')

    async def play(house: House) -> None:
        count, share = 5000, percent / 100
        for name in (NAME, None):
            found = sum(house.registry.get("classify", name).manifest.version == 2 for _ in range(count))
            assert abs(found - share * count) < 4 * math.sqrt(count * share * (1 - share))
        assert {asked(house, 1) for _ in range(200)} == {1}
        assert {asked(house, "stable") for _ in range(200)} == {1}
        assert {asked(house, "canary") for _ in range(200)} == {2}

    scenario(tmp_path, play)


@pytest.mark.parametrize("percent", [0, 100])
def test_a_share_of_nothing_or_all_leaves_nothing_to_chance(tmp_path: Path, percent: int) -> None:
    make_versions(tmp_path, f"{NAMES}\ncanary = {{ version = 2, percent = {percent} }}\n")

    async def play(house: House) -> None:
        assert {asked(house) for _ in range(500)} == {2 if percent else 1}

    scenario(tmp_path, play)


@dataclass
class Somebody:
    """Whoever asks."""

    request: str | None = None
    key: str | None = None

    def identity(self, by: Sticky) -> str | None:
        return self.request if by == "request" else self.key


@pytest.mark.parametrize("by", ["request", "key"])
def test_a_canary_that_sticks_answers_the_same_ones_always_and_more_with_a_larger_share(
    tmp_path: Path, by: Sticky
) -> None:
    make_versions(tmp_path, f'{NAMES}\ncanary = {{ version = 2, percent = 20, sticky = "{by}" }}\n')
    crowd = [Somebody(**{by: f"{by}-{number}"}) for number in range(2000)]

    def chosen(house: House) -> set[int]:
        found = (house.registry.get("classify", NAME, None, one).manifest.version for one in crowd)
        return {place for place, version in enumerate(found) if version == 2}

    async def play(house: House) -> None:
        few = chosen(house)
        assert abs(len(few) - 400) < 4 * math.sqrt(2000 * 0.2 * 0.8)
        assert chosen(house) == few
        house.choose(f'{NAMES}\ncanary = {{ version = 2, percent = 50, sticky = "{by}" }}\n')
        await house.manager.load(NAME)
        assert few < chosen(house)
        versions = {house.registry.get("classify", NAME, None, Somebody()).manifest.version for _ in range(200)}
        assert versions == {1, 2}  # of whom nothing is known chance decides

    scenario(tmp_path, play)


def test_a_text_has_one_number_and_many_are_even() -> None:
    """The first is written down: every process, and every release, has to draw the same."""
    assert evenly("classifier:abc") == pytest.approx(0.7812217617866, abs=1e-12)
    counts = np.histogram([evenly(str(number)) for number in range(10_000)], bins=10, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 4 * math.sqrt(10_000 * 0.1 * 0.9)


def test_while_the_canary_cannot_answer_the_stable_version_answers_all(tmp_path: Path) -> None:
    make_versions(tmp_path, f"{NAMES}\ncanary = {{ version = 2, percent = 100 }}\n")
    (tmp_path / NAME / "2" / "model.onnx").write_bytes(b"no graph")

    async def play(house: House) -> None:
        assert {asked(house) for _ in range(100)} == {1}

    scenario(tmp_path, play)


def test_while_the_stable_version_cannot_answer_no_other_takes_its_place(tmp_path: Path) -> None:
    """Whoever names a stable version does so because another is not to answer everybody."""
    make_versions(tmp_path, f"{NAMES}\ncanary = {{ version = 2, percent = 50 }}\n")
    (tmp_path / NAME / "1" / "model.onnx").write_bytes(b"no graph")

    async def play(house: House) -> None:
        for name in (NAME, None):
            with pytest.raises(NotReady, match="cannot answer"):
                house.registry.get("classify", name)
        assert asked(house, 2) == asked(house, "canary") == 2

    scenario(tmp_path, play)


def test_a_broken_file_of_choices_leaves_the_old_ones_in_force(tmp_path: Path) -> None:
    make_versions(tmp_path, NAMES)

    async def play(house: House) -> None:
        house.choose("aliases = { stable = 2")
        with pytest.raises(LoadRefused, match="is not TOML"):
            await house.manager.load(NAME)
        assert (asked(house), asked(house, "canary")) == (1, 2)
        assert "is not TOML" in house.reason(1)

    scenario(tmp_path, play)
