"""Plans are remembered between starts, and nothing in the folder can hinder one."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from app.runtime.plan import Choices, Plan
from app.runtime.plan_cache import PlanCache, plan_key

PLAN = Plan(2, 1, 2, 4, 0.001, {1: 0.001, 4: 0.002})
KEY = plan_key("0" * 64, "cpu", 2, Choices())


def written(folder: Path, change: dict[str, Any], **plan: Any) -> None:
    entry = {"key": KEY, "plan": {**json.loads(json.dumps(asdict(PLAN))), **plan}, **change}
    (folder / f"{KEY}.json").write_text(json.dumps(entry))


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    PlanCache(folder).put(KEY, PLAN)
    assert PlanCache(folder).get(KEY) == PLAN
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.json"]


def test_a_plan_measured_anew_takes_the_place_of_the_old(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    cache.put(KEY, PLAN)
    cache.put(KEY, replace(PLAN, concurrency=1))
    assert cache.get(KEY) == replace(PLAN, concurrency=1)


def test_without_a_folder_nothing_is_remembered() -> None:
    cache = PlanCache(None)
    cache.put(KEY, PLAN)
    assert cache.get(KEY) is None


def test_a_key_never_put_is_unknown(tmp_path: Path) -> None:
    assert PlanCache(tmp_path).get(KEY) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"key": 3, "plan": {}}'])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{KEY}.json").write_bytes(content)
    assert PlanCache(tmp_path).get(KEY) is None


@pytest.mark.parametrize(
    "plan",
    [
        {"threads": 0},
        {"threads": 10**6},
        {"concurrency": -1},
        {"lone_seconds": 0},
        {"max_batch_size": 8},
        {"batch_seconds": {}},
        {"batch_seconds": {"4": "soon"}},
        {"batch_seconds": {"4": -1.0}},
        {"max_batch_size": None},
    ],
)
def test_an_impossible_plan_is_as_good_as_none(tmp_path: Path, plan: dict[str, Any]) -> None:
    written(tmp_path, {})
    assert PlanCache(tmp_path).get(KEY) == PLAN
    written(tmp_path, {}, **plan)
    assert PlanCache(tmp_path).get(KEY) is None


def test_a_file_renamed_from_another_key_is_not_taken(tmp_path: Path) -> None:
    written(tmp_path, {"key": "another"})
    assert PlanCache(tmp_path).get(KEY) is None


def test_a_folder_that_cannot_be_written_is_logged_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PlanCache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.INFO, "imago.runtime"):
        cache.put(KEY, PLAN)
    assert "The measured plan is not remembered" in caplog.text
    assert cache.get(KEY) is None


def test_a_plan_that_cannot_take_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / f"{KEY}.json" / "full").mkdir(parents=True)
    PlanCache(tmp_path).put(KEY, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.json"]


def test_each_fact_that_a_plan_depends_on_is_in_its_key() -> None:
    keys = {
        KEY,
        plan_key("1" * 64, "cpu", 2, Choices()),
        plan_key("0" * 64, "cuda", 2, Choices()),
        plan_key("0" * 64, "cpu", 4, Choices()),
        plan_key("0" * 64, "cpu", 2, Choices(threads=1)),
        plan_key("0" * 64, "cpu", 2, Choices(concurrency=1)),
        plan_key("0" * 64, "cpu", 2, Choices(max_batch_size=1)),
    }
    assert len(keys) == 7
    assert plan_key("0" * 64, "cpu", 2, Choices()) == KEY
