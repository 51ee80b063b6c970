"""imago with a leak, which `benchmarks.soak --plant-leak` has to notice: each batch of a backend leaves 64 KiB behind.

    python -m benchmarks.leaky serve --models FOLDER

Models whose `serving.toml` says `backend = "leaking"` leak; nothing else differs from `python -m app`.
"""

from typing import cast

from app.__main__ import main
from app.runtime import BACKENDS
from app.runtime.ort import OrtSession
from app.tensors import Tensors

BACKEND = "leaking"
_LOST = 65_536

_kept: list[bytes] = []


class LeakingSession(OrtSession):
    """Never gives back what it took for a batch."""

    def run(self, tensors: Tensors) -> Tensors:
        """As `OrtSession.run`."""
        _kept.append(b"x" * _LOST)
        return super().run(tensors)


if __name__ == "__main__":
    cast(dict[str, type[OrtSession]], BACKENDS)[BACKEND] = LeakingSession
    main()
