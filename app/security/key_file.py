"""The file of API keys: read, changed under a lock, replaced as a whole, read again when it has changed.

What a key is, is left to `app.security.keys`.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from app.errors import InvalidKeys
from app.manifest import explain
from app.security.keys import Caller, Callers, Key

logger = logging.getLogger("imago.audit")

_LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the file: what is revoked is refused within a second."""

Stamp = tuple[int, ...]


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> "_Content":
        for name in ("id", "row"):
            if len({getattr(key, name) for key in self.keys}) < len(self.keys):
                raise ValueError(f"two keys have the same {name}")
        return self


class KeyFile:
    """A file that nobody but its owner may write, and others may not read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<KeyFile {self.path}>"

    def read(self) -> tuple[Key, ...]:
        """All keys.

        Raises:
            InvalidKeys: it is missing, unreadable, broken, or open to others.
        """
        try:
            with self.path.open("rb") as file:
                _refuse_if_open_to_others(os.fstat(file.fileno()))
                return _Content.model_validate_json(file.read()).keys
        except OSError as error:
            raise InvalidKeys(f"{str(self.path)!r}: {error.strerror}; `imago keys create` makes one.") from None
        except ValidationError as error:
            raise InvalidKeys(f"{str(self.path)!r}: {explain(error, Key)}") from None
        except ValueError as error:
            raise InvalidKeys(f"{str(self.path)!r} {error}.") from None

    def change(self, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
        """Replace the file by what `change` makes of its keys, of none where it does not exist yet. Whoever changes it
        at the same time waits.

        Raises:
            InvalidKeys: as `read`, or the file cannot be written.
        """
        try:
            with _locked(self.path.resolve()) as path:
                keys = change(self.read() if path.exists() else ())
                _replace(path, _Content(keys=keys).model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise InvalidKeys(f"{str(self.path)!r} cannot be written: {error.strerror}.") from None

    def stamp(self) -> Stamp | None:
        """What changes whenever the file does; None where there is none."""
        try:
            seen = self.path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino, seen.st_size, seen.st_mode


class KeyRing:
    """The keys of a file as they are now; used from one event loop."""

    def __init__(self, file: KeyFile) -> None:
        """Read the file. Raises `InvalidKeys` as `KeyFile.read`."""
        self._file = file
        self._stamp = file.stamp()
        self._callers = Callers(file.read())
        self._due = 0.0

    def find(self, secret: bytes, now: float, date: float) -> Caller | None:
        """Whose secret this is at `now`, in seconds of a clock that never goes back, and `date`, since the epoch."""
        if now >= self._due:
            self._look_at(now)
        return self._callers.find(secret, date)

    def get(self, identity: str, now: float, date: float) -> Caller | None:
        """Whose key has this id, at the times of `find`."""
        if now >= self._due:
            self._look_at(now)
        return self._callers.get(identity, date)

    def look(self) -> None:
        """Read the file again if it has changed. Without a file nobody gets in; a broken one changes nothing, because a
        slip of the editor is no reason to turn everybody away."""
        if (stamp := self._file.stamp()) == self._stamp:
            return
        self._stamp = stamp
        before = self._callers.ids
        try:
            self._callers = Callers(self._file.read() if stamp is not None else ())
        except InvalidKeys as error:
            logger.error("the keys stay as they were: %s", error.detail)
            return
        after = self._callers.ids
        logger.info("keys were read: %d, new %s, gone %s", len(after), sorted(after - before), sorted(before - after))

    def _look_at(self, now: float) -> None:
        self._due = now + _LOOK_EVERY
        self.look()


def _refuse_if_open_to_others(seen: os.stat_result) -> None:
    """A group may read it: so Kubernetes mounts secrets for a user that is not root."""
    if seen.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise ValueError("is open to others (chmod 600)")


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold a lock on the file's folder: the file itself is replaced. The kernel gives it back whatever happens."""
    import fcntl  # here and not above: serving asks for nothing of Unix

    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(handle)


def _replace(path: Path, content: bytes) -> None:
    """Write a new file beside the old one, with its owner and rights or 0600, and rename it into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if path.exists():
                old = path.stat()
                os.fchmod(handle, stat.S_IMODE(old.st_mode))
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(handle, old.st_uid, old.st_gid)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
