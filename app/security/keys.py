"""API keys: how a secret is made, what the file keeps of it, and who it is when it comes back.

The secret itself is shown once and stored nowhere: the file holds its SHA-256, which suffices for 256 random bits (slow
hashes protect secrets that people choose). Reading and changing the file is left to `app.security.key_file`.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.manifest import NAME, nearest

INFER: Final = "infer"
METRICS: Final = "metrics"
ADMIN: Final = "admin"
SCOPES: Final = (INFER, METRICS, ADMIN)
MOST_KEYS: Final = 1024
"""Keys in one file: each has a row in memory that is made before anything is known of them."""

_FORM: Final = re.compile(rb"imago_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_ONE_MODEL: Final = re.compile(f"{INFER}:({NAME})")
_NOBODY: Final = bytes(32)


def check_scope(scope: str) -> str:
    """The scope, if there is one of this name: `infer`, `infer:MODEL`, `metrics`, `admin`.

    Raises:
        ValueError: there is not; the nearest one is named.
    """
    if scope not in SCOPES and not _ONE_MODEL.fullmatch(scope):
        raise ValueError(f"{scope[:80]!r} is no scope{nearest(scope[:80], dict.fromkeys((*SCOPES, 'infer:MODEL')))}")
    return scope


class Limits(BaseModel):
    """How much one key may ask for; what is not given is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: float | None = Field(None, gt=0)
    concurrency: int | None = Field(None, ge=1)
    pixels_per_second: float | None = Field(None, gt=0)


NO_LIMITS: Final = Limits()


class Key(BaseModel):
    """One key as the file keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: str = Field("", max_length=200)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Annotated[str, AfterValidator(check_scope)], ...] = Field(min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    row: int = Field(ge=0, lt=MOST_KEYS)
    """Its row of the accounts that all processes share: `app.security.limits`."""
    limits: Limits = NO_LIMITS

    @property
    def models(self) -> frozenset[str] | None:
        """The only models that it may see; None for all."""
        if INFER in self.scopes or ADMIN in self.scopes:
            return None
        return frozenset(found[1] for scope in self.scopes if (found := _ONE_MODEL.fullmatch(scope)))

    @property
    def opens(self) -> frozenset[str]:
        """The scopes whose routes it opens: its own, `infer` with any of its models, all of them with `admin`."""
        if ADMIN in self.scopes:
            return frozenset(SCOPES)
        return frozenset(scope.partition(":")[0] for scope in self.scopes)


def new_key(
    scopes: Iterable[str], taken: Collection[Key], created: datetime, expires: datetime | None = None, name: str = "",
    limits: Limits = NO_LIMITS,
) -> tuple[Key, str]:  # fmt: skip
    """A new key, different from those `taken`, and its secret.

    Raises:
        ValueError: there is no room for another, or a scope is unknown.
    """
    ids, rows = {key.id for key in taken}, {key.row for key in taken}
    if len(taken) >= MOST_KEYS:
        raise ValueError(f"there are {MOST_KEYS} keys already: revoke some")
    while (identity := secrets.token_hex(4)) in ids:
        pass
    secret = f"imago_{identity}_{secrets.token_urlsafe(32)}"
    return Key(
        id=identity, name=name, digest=hashlib.sha256(secret.encode()).hexdigest(), scopes=tuple(scopes),
        created=created, expires=expires, row=min(set(range(MOST_KEYS)) - rows), limits=limits,
    ), secret  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a secret belongs to, ready for the checks of a request."""

    key: str
    """The key's id, which may be logged."""
    opens: frozenset[str]
    models: frozenset[str] | None
    expires: float
    """Seconds since the epoch, infinite where it never does."""
    row: int
    limits: Limits | None

    @classmethod
    def of(cls, key: Key) -> "Caller":
        """The caller with this key."""
        expires = math.inf if key.expires is None else key.expires.timestamp()
        return cls(key.id, key.opens, key.models, expires, key.row, None if key.limits == NO_LIMITS else key.limits)


class Callers:
    """All whom the keys of one reading of the file let in, by the id of their key."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._callers = {key.id.encode(): (Caller.of(key), bytes.fromhex(key.digest)) for key in keys}

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the keys."""
        return frozenset(identity.decode() for identity in self._callers)

    def get(self, identity: str, now: float) -> Caller | None:
        """The caller with the key of this id, unless it has expired at `now`."""
        caller, _ = self._callers.get(identity.encode(), (None, _NOBODY))
        return caller if caller is not None and now < caller.expires else None

    def find(self, secret: bytes, now: float) -> Caller | None:
        """Whose secret this is at `now`, in seconds since the epoch; None where it is unknown, wrong or has expired."""
        if (form := _FORM.fullmatch(secret)) is None:
            return None
        caller, digest = self._callers.get(form[1], (None, _NOBODY))
        known = hmac.compare_digest(hashlib.sha256(secret).digest(), digest)
        return caller if known and caller is not None and now < caller.expires else None
