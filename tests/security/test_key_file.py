"""The file of keys: private, whole at every moment, and heeded while the service runs."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.errors import InvalidKeys
from app.security.key_file import KeyFile, KeyRing
from app.security.keys import INFER, Key, new_key

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def add(path: Path, scope: str = INFER) -> str:
    """Add a key; its secret."""
    secrets: list[str] = []

    def change(known: tuple[Key, ...]) -> tuple[Key, ...]:
        key, secret = new_key([scope], known, NOW)
        secrets.append(secret)
        return (*known, key)

    KeyFile(path).change(change)
    return secrets[-1]


def empty(path: Path) -> None:
    KeyFile(path).change(lambda known: ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def knows(ring: KeyRing, secret: str, now: float) -> bool:
    return ring.find(secret.encode(), now, 0.0) is not None


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    old = os.umask(0)
    try:
        add(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_change_keeps_the_rights_of_the_file(path: Path) -> None:
    add(path)
    path.chmod(0o640)
    add(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_file_holds_no_secret(path: Path) -> None:
    secret = add(path)
    assert secret.split("_", 2)[2] not in path.read_text()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o660, 0o777, 0o601])
def test_a_file_that_is_open_to_others_is_refused(path: Path, mode: int) -> None:
    add(path)
    path.chmod(mode)
    with pytest.raises(InvalidKeys, match="chmod 600"):
        KeyFile(path).read()


def test_a_group_may_read_it_as_where_kubernetes_mounts_it(path: Path) -> None:
    add(path)
    path.chmod(0o440)
    assert len(KeyFile(path).read()) == 1


def test_a_link_to_the_file_stays_a_link(path: Path) -> None:
    add(path)
    link = path.parent / "link.json"
    link.symlink_to(path)
    add(link)
    assert link.is_symlink()
    assert len(KeyFile(path).read()) == 2


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    with ThreadPoolExecutor(8) as crowd:
        secrets = list(crowd.map(add, [path] * 24))
    ring = KeyRing(KeyFile(path))
    assert all(knows(ring, secret, 0) for secret in secrets)
    assert sorted(key.row for key in KeyFile(path).read()) == list(range(24))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "JSON"), ("nonsense", "JSON"), ('{"kyes": []}', "kyes"), ('{"keys": [{"id": "x"}]}', "id"),
        ("[]", "object"), ('{"format": "one"}', "format"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_one_sentence(path: Path, content: str, told: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InvalidKeys, match=told) as refused:
        KeyFile(path).read()
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize("name", ["id", "row"])
def test_two_keys_that_are_one_are_refused(path: Path, name: str) -> None:
    add(path)
    add(path)
    content = json.loads(path.read_text())
    content["keys"][1][name] = content["keys"][0][name]
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidKeys, match=f"the same {name}"):
        KeyFile(path).read()


def test_a_missing_file_is_refused_at_the_start(path: Path) -> None:
    with pytest.raises(InvalidKeys, match="No such file"):
        KeyRing(KeyFile(path))


def test_a_change_is_heeded_within_a_second(path: Path) -> None:
    first = add(path)
    ring = KeyRing(KeyFile(path))
    assert knows(ring, first, 100.0)
    empty(path)
    second = add(path)
    assert knows(ring, second, 101.0)
    assert not knows(ring, first, 101.0)


def test_between_two_looks_the_file_is_not_asked(path: Path) -> None:
    first = add(path)
    ring = KeyRing(KeyFile(path))
    assert knows(ring, first, 100.0)
    empty(path)
    assert knows(ring, first, 100.4)


def test_without_the_file_nobody_gets_in_until_it_is_back(path: Path) -> None:
    secret = add(path)
    ring = KeyRing(KeyFile(path))
    path.rename(path.with_suffix(".away"))
    assert not knows(ring, secret, 100.0)
    path.with_suffix(".away").rename(path)
    assert knows(ring, secret, 101.0)


@pytest.mark.parametrize("break_it", [lambda path: path.write_text("{"), lambda path: path.chmod(0o666)])
def test_a_file_that_breaks_leaves_the_keys_as_they_were(path: Path, break_it: object) -> None:
    secret = add(path)
    ring = KeyRing(KeyFile(path))
    break_it(path)  # type: ignore[operator]
    assert knows(ring, secret, 100.0)
    path.unlink()
    second = add(path)
    assert knows(ring, second, 101.0)
    assert not knows(ring, secret, 101.0)
