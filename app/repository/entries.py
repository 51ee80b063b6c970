"""The versions that were heard of, loaded or not, and which of several with one number is shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from app.manifest import Manifest
from app.repository.store import Opening
from app.servable import Servable

State = Literal["loading", "ready", "failed", "unloading", "unloaded"]

_SHOWN_FIRST: Final = ("ready", "loading", "failed", "unloading", "unloaded")


@dataclass(eq=False)
class Entry:
    """One version as it was opened once, or is to be, or the reason why it is not.

    `loading` lasts until it may answer: opened already it waits for `Registry.switch`. `unloading` it answers what it
    has accepted.
    """

    name: str
    version: int
    state: State = "loading"
    reason: str = ""
    """Why it failed; or, of a version that is ready, why it was not replaced as asked."""
    manifest: Manifest | None = None
    servable: Servable | None = None
    opening: Opening | None = None
    """What was opened, or was to be."""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else self.name

    @property
    def key(self) -> str:
        """Tells openings of one version apart, in messages between processes as well."""
        return self.opening.key if self.opening else str(self)


class Entries:
    """Entries by name. Of one version there may be several: one answers, one is to take over, one ends."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Entry]] = {}

    def __iter__(self) -> Iterator[Entry]:
        return (entry for _, entries in sorted(self._by_name.items()) for entry in entries)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._by_name)

    def of(self, name: str) -> list[Entry]:
        """All entries of one model, oldest first; none of a name that was never heard."""
        return list(self._by_name.get(name, ()))

    def add(self, entry: Entry) -> Entry:
        """Keep an entry; those of its number that are history are forgotten, and what was wrong with the model as a
        whole (number 0): it could be looked into."""
        history = (entry.version, 0)
        others = [other for other in self.of(entry.name) if other.version not in history or other.servable]
        self._by_name[entry.name] = [*others, entry]
        return entry

    def remove(self, entry: Entry) -> None:
        """Forget an entry, and a name without any."""
        left = [other for other in self.of(entry.name) if other is not entry]
        if left:
            self._by_name[entry.name] = left
        else:
            self._by_name.pop(entry.name, None)

    def shown(self, name: str) -> list[Entry]:
        """One entry of each version of a model, newest version first: the one nearest to answering."""
        best: dict[int, Entry] = {}
        for entry in sorted(self.of(name), key=lambda entry: _SHOWN_FIRST.index(entry.state)):
            best.setdefault(entry.version, entry)
        return [best[version] for version in sorted(best, reverse=True)]
