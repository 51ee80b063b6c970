"""`imago keys create | list | revoke` as an operator types them."""

import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.__main__ import cli
from app.errors import InvalidKeys
from app.security.key_file import KeyFile
from app.security.keys import Limits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments], env={"IMAGO_KEYS": str(path), "COLUMNS": "200"})


def test_a_secret_is_printed_alone_so_that_a_script_may_take_it(path: Path) -> None:
    made = run(path, "create", "--scope", "infer")
    assert made.exit_code == 0
    assert re.fullmatch(r"imago_[0-9a-f]{8}_[\w-]{43}\n", made.stdout)
    assert "shown only now" in made.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_has_what_it_was_given(path: Path) -> None:
    run(path, "create", "--scope", "infer:cat", "--scope", "metrics", "--name", "ci", "--days", "2",
        "--concurrency", "3", "--requests-per-second", "1.5", "--pixels-per-second", "1e6")  # fmt: skip
    (key,) = KeyFile(path).read()
    assert (key.scopes, key.name) == (("infer:cat", "metrics"), "ci")
    assert key.limits == Limits(requests_per_second=1.5, concurrency=3, pixels_per_second=1e6)
    assert key.expires is not None
    assert (key.expires - key.created).days == 2


def test_the_list_shows_keys_and_no_secrets(path: Path) -> None:
    made = run(path, "create", "--scope", "infer", "--name", "[red]ci", "--concurrency", "3")
    _, identity, rest = made.stdout.strip().split("_", 2)
    listed = run(path, "list").output
    assert identity in listed
    assert "[red]ci" in listed
    assert "concurrency 3" in listed
    assert rest not in listed


def test_a_revoked_key_is_gone(path: Path) -> None:
    one, other = (run(path, "create", "--scope", "infer").stdout.split("_")[1] for _ in range(2))
    assert run(path, "revoke", one).exit_code == 0
    assert [key.id for key in KeyFile(path).read()] == [other]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "--scope", "infre"), "did you mean 'infer'"),
        (("create", "--scope", "infer", "--concurrency", "0"), "concurrency"),
        (("create", "--scope", "infer", "--requests-per-second", "-1"), "requests_per_second"),
        (("revoke", "nobody"), "there is no key 'nobody'"),
        (("list",), "No such file"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(path: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = run(path, *arguments)
    assert isinstance(ended.exception, InvalidKeys)
    assert told in ended.exception.detail
    assert not path.exists() or not KeyFile(path).read()


@pytest.mark.parametrize("days", ["1e7", "1e300", "inf"])
def test_a_key_that_would_live_longer_than_the_calendar_is_not_made(path: Path, days: str) -> None:
    refused = run(path, "create", "--scope", "infer", "--days", days)
    assert refused.exit_code == 2
    assert "no calendar" in refused.stderr
    assert not path.exists()


def test_a_key_without_a_scope_or_a_day_to_live_is_not_made(path: Path) -> None:
    assert run(path, "create").exit_code == 2
    assert run(path, "create", "--scope", "infer", "--days", "0").exit_code == 2
    assert not path.exists()
