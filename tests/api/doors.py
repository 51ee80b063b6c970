"""An application with keys, and one caller for each kind of key."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.security.key_file import KeyFile
from app.security.keys import NO_LIMITS, Key, Limits, new_key

MODEL = "tiny-classifier"
OTHER = "tiny-segmenter"


@dataclass
class Keys:
    """A file of keys, and their secrets, which it does not hold."""

    path: Path

    def add(self, *scopes: str, limits: Limits = NO_LIMITS, expires: datetime | None = None) -> str:
        """Make a key; its secret."""
        secrets: list[str] = []

        def change(known: tuple[Key, ...]) -> tuple[Key, ...]:
            key, secret = new_key(scopes, known, datetime.now(UTC), expires, "", limits)
            secrets.append(secret)
            return (*known, key)

        KeyFile(self.path).change(change)
        return secrets[-1]

    def revoke(self, secret: str) -> None:
        identity = secret.split("_")[1]
        KeyFile(self.path).change(lambda known: tuple(key for key in known if key.id != identity))


def bearer(secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {secret}".encode())]
