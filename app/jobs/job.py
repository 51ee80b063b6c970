"""What is known of one background job, and what bounds all of them."""

from dataclasses import dataclass
from typing import Final

ARRIVING, WAITING, RUNNING, DONE, FAILED = "arriving", "waiting", "running", "done", "failed"
ENDED: Final = (DONE, FAILED)
"""States that nothing follows but the end of the time that jobs are kept."""


@dataclass(frozen=True)
class Bounds:
    """What bounds the jobs of a service."""

    pictures: int
    """In one job."""
    bytes: int
    """Of one job: as sent, unpacked, and of its results."""
    kept: int
    """Jobs at the same time, ended or not."""
    disk_bytes: int
    """Of all jobs."""
    keep_seconds: float
    """For which a job that has ended is kept."""


@dataclass(frozen=True)
class BackgroundJob:
    """One job, as it was when it was looked up. Times are in seconds since the epoch."""

    id: str
    owner: str | None
    """The id of the key that it was sent with."""
    task: str
    model: str | None
    version: int | str | None
    """A number, or an alias."""
    options: str
    """JSON, in the words of the task."""
    created: float
    state: str = ARRIVING
    every: bool = False
    """Whether every member of its zip is a picture; else those that are by their names."""
    pictures: int = 0
    answered: int = 0
    failed: int = 0
    bytes: int = 0
    """On the disk."""
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    """Code of what ended it before its end, and the sentence that says so."""
    detail: str | None = None
