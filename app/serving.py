"""What an operator chose for one model, in `models/NAME/serving.toml`: how versions run, and which answer whom."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from app.errors import InvalidModel
from app.manifest import Contract, Manifest, explain, nearest, short

SERVING = "serving.toml"
ALIAS = r"[a-z][a-z0-9_-]{0,31}"
"""Names of versions; none can be taken for a number."""
STABLE = "stable"
"""The alias whose version answers where a request names none."""
Alias = Annotated[str, StringConstraints(pattern=f"^{ALIAS}$")]
Number = Annotated[int, Field(ge=1)]
Sticky = Literal["request", "key"]
"""By what chance is replaced: the request's id, or the API key."""
Versions = Literal["latest", "all"] | tuple[int, ...]
"""Which versions of a model are loaded: the newest, all, or these."""


class Canary(Contract):
    """A version that answers a share of the requests that name none."""

    version: Number | Alias
    percent: float = Field(ge=0, le=100)
    sticky: Sticky | None = None


class Shadow(Contract):
    """A version that is given a share of what the stable one has answered, to be compared; nobody gets its answers."""

    version: Number | Alias
    percent: float = Field(100.0, ge=0, le=100)


class Traffic(Contract):
    """Which of the versions loaded answer which requests."""

    aliases: dict[Alias, Number] = Field(default_factory=dict)
    canary: Canary | None = None
    shadow: Shadow | None = None

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for chosen in (self.canary, self.shadow):
            if chosen is None:
                continue
            if STABLE not in self.aliases:
                raise ValueError("a canary or shadow needs the alias 'stable': the version that answers the others")
            if self.number(chosen.version) is None:
                raise ValueError(f"{chosen.version!r} is not in aliases{nearest(str(chosen.version), self.aliases)}")
        return self

    def number(self, version: int | str) -> int | None:
        """The number of a version that is given by number or name; None for a name that is unknown."""
        return self.aliases.get(version) if isinstance(version, str) else version

    @property
    def stable(self) -> int | None:
        """The version that answers where a request names none; None where that is the newest."""
        return self.aliases.get(STABLE)

    @property
    def shadowing(self) -> int | None:
        """The version that shadows the stable one."""
        number = None if self.shadow is None else self.number(self.shadow.version)
        return None if number == self.stable else number

    @property
    def named(self) -> frozenset[int]:
        """All versions that have to be loaded for this."""
        chosen = [self.number(one.version) for one in (self.canary, self.shadow) if one is not None]
        return frozenset(number for number in (*self.aliases.values(), *chosen) if number is not None)


class ServingConfig(Traffic):
    """All of `serving.toml`; every key has a default.

    Without `max_batch_size`, `threads` and `concurrency` those that answered most rows a second at warm-up are chosen.
    """

    versions: Versions = "latest"
    max_batch_size: int | None = Field(None, ge=1, le=1024)
    max_queue_delay_ms: float = Field(0.0, ge=0, le=10_000)
    threads: int | None = Field(None, ge=1, le=1024)
    concurrency: int | None = Field(None, ge=1, le=64)
    backend: str = "onnxruntime"

    def choosing(self, versions: Versions) -> "ServingConfig":
        """The same with other versions."""
        return self.model_copy(update={"versions": versions})

    @property
    def traffic(self) -> Traffic:
        """What of it decides who answers, and changes nothing in how versions are opened."""
        return Traffic(aliases=self.aliases, canary=self.canary, shadow=self.shadow)


def read_serving(folder: Path) -> ServingConfig:
    """Read the operator's choices for the model in `folder`; without a file all defaults hold.

    Raises:
        InvalidModel: no TOML, an unknown key (the nearest known one is named) or a bad value.
    """
    path = folder / SERVING
    try:
        return ServingConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ServingConfig()
    except OSError as error:
        raise InvalidModel(f"{short(path)} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        raise InvalidModel(f"{short(path)}: {explain(error, _part(error))}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{short(path)} is not TOML: {error}") from error


def _part(error: ValidationError) -> type[Contract]:
    """The table whose keys an error is about."""
    place = error.errors()[0]["loc"]
    parts: dict[str, type[Contract]] = {"canary": Canary, "shadow": Shadow}
    return parts.get(str(place[0]) if place else "", ServingConfig)


def mark_of(manifest: Manifest, serving: ServingConfig) -> str:
    """A short digest of what a version is and how it is to be opened: equal where opening it again changes nothing."""
    opening = serving.model_dump(mode="json", exclude={"versions", *Traffic.model_fields})
    shadows = manifest.version == serving.shadowing
    facts = json.dumps([manifest.model_dump(mode="json"), opening, shadows], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]
