"""What was measured, one JSON object a line: a run can be stopped at any time, and several files joined."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.wrk import Load


@dataclass(frozen=True)
class Where:
    """Which pass of which run a row belongs to: rows of one pass were measured one after the other."""

    run: str
    number: int


@dataclass(frozen=True)
class MachineRow:
    """The machine and the command of one run."""

    run: str
    date: str
    command: str
    machine: dict[str, str]


@dataclass(frozen=True)
class ServerRow:
    """What a server installs."""

    run: str
    server: str
    megabytes: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Cores:
    """Cores that were kept busy during a load."""

    server: float
    client: float
    foreign: float
    """For neither server nor client."""
    stolen: float
    """That the host gave to others."""


@dataclass(frozen=True)
class Memory:
    """Megabytes of all processes of a server."""

    resident: float
    """Most during the load, summed over processes."""
    proportional: float
    """At the end of the load, pages that processes share counted once."""
    processes: int


@dataclass(frozen=True)
class LoadRow:
    """One load of one server."""

    where: Where
    workload: str
    server: str
    clients: int
    load: Load
    cores: Cores
    memory: Memory
    right: bool
    """Whether the first answer was that of the model."""
    start_seconds: float
    """From the start of the process to its first answer."""
    limit: float
    """Answers a second without HTTP: the mean of just before the start and just after the end."""
    way: str
    """How the limit was reached."""


@dataclass(frozen=True)
class FailedRow:
    """A server that could not be built, started or loaded."""

    where: Where
    workload: str
    server: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of the requests of an open-loop load."""

    answered: int
    refused: int
    """Answers with status 429 or 503."""
    failed: int
    """Other answers, and none."""
    p50_ms: float | None
    """From when a request was due to the end of its answer; answers with status 200 alone count."""
    p99_ms: float | None
    late_p99_ms: float
    """From when a request was due until the client wrote it."""

    @property
    def refused_share(self) -> float:
        """Share of the requests that were refused."""
        return self.refused / (self.answered + self.refused + self.failed)


@dataclass(frozen=True)
class OpenRow:
    """One open-loop load: requests sent when they were due, at a share of what the server answered in a closed loop."""

    where: Where
    workload: str
    server: str
    arrivals: str
    """`poisson` or `constant`."""
    share: float
    """Of the peak."""
    peak: float
    """Answers a second in a closed loop, just before."""
    outcome: Outcome
    cores: Cores


Row = MachineRow | ServerRow | LoadRow | FailedRow | OpenRow

_KINDS: dict[str, Callable[..., Row]] = {
    "machine": MachineRow, "server": ServerRow, "load": LoadRow, "failed": FailedRow, "open": OpenRow,
}  # fmt: skip
_PARTS: dict[str, Callable[..., object]] = {
    "where": Where, "load": Load, "cores": Cores, "memory": Memory, "outcome": Outcome,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


def append(file: Path, row: Row) -> None:
    """Add a row to a file."""
    line = {"kind": _NAMES[type(row)], **asdict(row)}
    with file.open("a", encoding="utf-8") as output:
        output.write(json.dumps(line) + "\n")


def read(files: Iterable[Path]) -> list[Row]:
    """All rows of some files."""
    return [row for file in files for row in _rows(file.read_text(encoding="utf-8").splitlines())]


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    for line in lines:
        values: dict[str, Any] = json.loads(line)
        kind = _KINDS[values.pop("kind")]
        yield kind(**{name: _PARTS[name](**value) if name in _PARTS else value for name, value in values.items()})
