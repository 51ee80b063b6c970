"""Who answers which question: by name and version, by an alias, and for a share of requests by chance (a canary)."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.servable import Servable
from app.serving import Sticky, Traffic

Asked = tuple[str | None, str | None, int | str | None]
"""Task, name and version of a request, as far as it names them."""
Chance = Callable[[], float]
"""A number from 0 to below 1, evenly."""
Ready = Mapping[int, Servable]
"""The versions of one model that answer, by number."""


class Asker(Protocol):
    """Whoever asks."""

    def identity(self, by: Sticky) -> str | None:
        """What is the same whenever the same asks; None where nothing is known of that kind."""


@dataclass(frozen=True)
class Split:
    """A version that answers instead, in a share of cases."""

    canary: Servable
    percent: float
    sticky: Sticky | None
    chance: Chance

    def takes(self, asker: Asker | None) -> bool:
        """Whether it answers now. With a larger share it keeps those whom it answered with a smaller one."""
        identity = asker.identity(self.sticky) if asker is not None and self.sticky is not None else None
        if identity is None:
            return 100 * self.chance() < self.percent
        return 100 * evenly(f"{self.canary.manifest.name}:{identity}") < self.percent


def evenly(text: str) -> float:
    """A number from 0 to below 1 that is always the same for a text, and even over many, in every process."""
    drawn = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / 2**53


class Routes(NamedTuple):
    """Written down anew whenever something changes, so that a request costs one look-up."""

    serving: Mapping[Asked, Servable]
    splits: Mapping[Asked, Split]


def routes(models: Mapping[str, tuple[Ready, Traffic]], defaults: Mapping[str, str], chance: Chance) -> Routes:
    """Who answers, where these versions are ready. Of several models for one task the `defaults` decide who answers
    where none is named, or else the order."""
    serving: dict[Asked, Servable] = {}
    splits: dict[Asked, Split] = {}
    for name, (ready, traffic) in models.items():
        serving |= _by_version(name, ready, traffic)
        unnamed: list[tuple[Asked, Servable]] = []
        for kind, servable in _answering(ready, traffic).items():
            unnamed.append(((kind, name, None), servable))
            if kind is not None and defaults.get(kind, name) == name and (kind, None, None) not in serving:
                unnamed.append(((kind, None, None), servable))
        serving |= unnamed
        if (canary := _canary(ready, traffic)) is not None:
            split = Split(*canary, chance)
            splits |= {asked: split for asked, servable in unnamed if _may_replace(split.canary, servable)}
    return Routes(serving, splits)


def stable_of(ready: Ready, traffic: Traffic) -> Servable | None:
    """The version that answers where none is named: `stable` and no other, or else the newest."""
    number = max(ready, default=0) if traffic.stable is None else traffic.stable
    return ready.get(number)


def _by_version(name: str, ready: Ready, traffic: Traffic) -> dict[Asked, Servable]:
    versions: list[tuple[int | str, Servable]] = [*ready.items()]
    versions += [(alias, ready[number]) for alias, number in traffic.aliases.items() if number in ready]
    found: dict[Asked, Servable] = {}
    for version, servable in versions:
        for kind in (servable.task.kind, None):
            found[kind, name, version] = servable
    return found


def _answering(ready: Ready, traffic: Traffic) -> dict[str | None, Servable]:
    """Who answers where no version is named, by task (versions may differ in theirs), and by None for any."""
    stable = stable_of(ready, traffic)
    if stable is None:
        return {}
    found: dict[str | None, Servable] = {}
    if traffic.stable is None:
        found = {ready[number].task.kind: ready[number] for number in sorted(ready)}
    return found | {stable.task.kind: stable, None: stable}


def _canary(ready: Ready, traffic: Traffic) -> tuple[Servable, float, Sticky | None] | None:
    chosen = traffic.canary
    if chosen is None or not chosen.percent:
        return None
    found = ready.get(traffic.number(chosen.version) or 0)
    return None if found is None else (found, chosen.percent, chosen.sticky)


def _may_replace(canary: Servable, servable: Servable) -> bool:
    return canary is not servable and canary.task.kind == servable.task.kind
