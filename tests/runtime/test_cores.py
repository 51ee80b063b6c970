"""The cores that a process may use, from control groups written into a folder."""

import os
from pathlib import Path

import pytest

from app.runtime.cores import usable_cores

MINE = len(os.sched_getaffinity(0))


def groups(root: Path, own: str, quotas: dict[str, str]) -> int:
    for name, text in quotas.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    return usable_cores(root / "groups", root / "own")


def test_without_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "none") == MINE


@pytest.mark.parametrize(
    ("own", "quotas"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}),
        ("0::/\n", {"cpu.max": "50000 100000\n"}),
        ("0::/pod/app\n", {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "20000 100000\n"}),
        ("0::/outside/of/this/container\n", {"cpu.max": "100000 100000\n"}),
        ("4:pids:/x\n2:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "9", "cpu,cpuacct/cpu.cfs_period_us": "10"}),
        ("1:cpu:/app\n", {"cpu/app/cpu.cfs_quota_us": "100000", "cpu/app/cpu.cfs_period_us": "100000"}),
    ],
    ids=["one-core", "half-a-core", "quota-of-a-parent", "own-group-not-mounted", "version-1", "version-1-alone"],
)  # fmt: skip
def test_a_quota_of_up_to_one_core_leaves_one(tmp_path: Path, own: str, quotas: dict[str, str]) -> None:
    assert groups(tmp_path, own, quotas) == 1


@pytest.mark.parametrize(
    ("own", "quotas"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}),
        ("0::/\n", {"cpu.max": "what is this\n"}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        ("5:memory:/\n", {"memory/cpu.max": "1 100000\n"}),
    ],
    ids=["unlimited", "more-than-there-are", "unknown-words", "version-1-unlimited", "another-controller"],
)
def test_a_quota_that_does_not_bind_leaves_the_affinity(tmp_path: Path, own: str, quotas: dict[str, str]) -> None:
    assert groups(tmp_path, own, quotas) == MINE


@pytest.mark.skipif(MINE < 2, reason="there is one core only")
def test_a_quota_is_rounded_up(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n", {"cpu.max": "110000 100000\n"}) == 2


@pytest.mark.skipif(MINE < 2, reason="there is one core only")
def test_a_process_pinned_to_one_core_has_one(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path, tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)
