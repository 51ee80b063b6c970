"""The one error of the readers."""

from pathlib import Path


class BrokenData(Exception):
    """A data set is missing, incomplete or damaged; the sentence names the file."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
