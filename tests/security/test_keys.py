"""Keys: what their secrets are, whom they let in, what they open."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from app.security.keys import ADMIN, INFER, METRICS, MOST_KEYS, Callers, Key, new_key

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def make(*scopes: str, taken: tuple[Key, ...] = (), expires: datetime | None = None) -> tuple[Key, str]:
    return new_key(scopes, taken, NOW, expires)


def test_a_secret_has_256_random_bits_and_names_its_key() -> None:
    made = [make(INFER) for _ in range(100)]
    assert len({secret for _, secret in made}) == 100
    for key, secret in made:
        prefix, identity, rest = secret.split("_", 2)
        assert (prefix, identity, len(rest)) == ("imago", key.id, 43)


def test_what_is_kept_of_a_key_does_not_hold_its_secret() -> None:
    key, secret = make(INFER)
    kept = key.model_dump_json()
    assert secret.split("_", 2)[2] not in kept
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()


def test_a_secret_is_its_own_key_s_and_nobody_else_s() -> None:
    keys: tuple[Key, ...] = ()
    secrets = []
    for _ in range(5):
        key, secret = make(INFER, taken=keys)
        keys, secrets = (*keys, key), [*secrets, secret]
    callers = Callers(keys)
    for key, secret in zip(keys, secrets, strict=True):
        caller = callers.find(secret.encode(), 0)
        assert caller is not None
        assert caller.key == key.id
    assert Callers(keys[1:]).find(secrets[0].encode(), 0) is None


def test_what_is_nearly_a_secret_lets_nobody_in() -> None:
    key, secret = make(INFER)
    callers = Callers([key])
    other = "b" if secret[-1] == "a" else "a"
    for wrong in (
        secret[:-1], secret + "a", secret[:-1] + other, secret.upper(), " " + secret, secret + "\n", "", "imago_",
        secret.replace(key.id, "00000000"), secret.replace("imago", "maas"), secret.split("_", 2)[2], key.digest,
        key.id, f"imago_{key.id}_", secret + "\0",
    ):  # fmt: skip
        assert callers.find(wrong.encode(), 0) is None


def test_a_key_lets_its_caller_in_until_it_expires() -> None:
    key, secret = make(INFER, expires=NOW + timedelta(seconds=1))
    callers = Callers([key])
    assert callers.find(secret.encode(), NOW.timestamp() + 0.9) is not None
    assert callers.find(secret.encode(), NOW.timestamp() + 1) is None


@pytest.mark.parametrize(
    ("scopes", "opens", "models"),
    [
        ((INFER,), {INFER}, None),
        (("infer:cat",), {INFER}, {"cat"}),
        (("infer:cat", "infer:dog.v1"), {INFER}, {"cat", "dog.v1"}),
        (("infer:cat", INFER), {INFER}, None),
        ((METRICS,), {METRICS}, set()),
        ((METRICS, "infer:cat"), {METRICS, INFER}, {"cat"}),
        ((ADMIN,), {ADMIN, INFER, METRICS}, None),
    ],
)
def test_a_key_opens_what_its_scopes_say(scopes: tuple[str, ...], opens: set[str], models: set[str] | None) -> None:
    key, _ = make(*scopes)
    assert key.opens == opens
    assert key.models == models


@pytest.mark.parametrize("scope", ["", "infre", "infer:", "infer:../x", "infer: cat", "admin:cat", "*", "infer:a\n"])
def test_a_scope_that_does_not_exist_is_refused(scope: str) -> None:
    with pytest.raises(ValidationError, match="is no scope"):
        make(scope)


def test_every_key_has_a_row_of_its_own_and_there_is_an_end_of_them() -> None:
    keys: tuple[Key, ...] = ()
    for _ in range(3):
        keys = (*keys, make(INFER, taken=keys)[0])
    assert [key.row for key in keys] == [0, 1, 2]
    assert make(INFER, taken=(keys[0], keys[2]))[0].row == 1
    full = tuple(keys[0].model_copy(update={"id": f"{row:08x}", "row": row}) for row in range(MOST_KEYS))
    with pytest.raises(ValueError, match="revoke some"):
        make(INFER, taken=full)
