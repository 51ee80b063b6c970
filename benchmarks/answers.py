"""Whether a server answers what the model says: its first answer is compared with one made in this process.

Random weights make no sense of a picture, but their probabilities depend on every pixel of it: a server that decodes,
resizes or normalises differently is found out.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from PIL import Image

_PEER_BEST = re.compile(rb'class\\*":\s*(\d+),\s*(?:\\n)?\s*\\*"p\\*":\s*([0-9.e-]+)')
_PROBABILITY = 0.05
"""Share of a probability by which two correct servers may differ."""
_PIXELS = 0.995
"""Share of equal pixels: two batch sizes may round differently where two labels are as likely."""


@dataclass(frozen=True)
class Best:
    """The most probable class of a picture."""

    index: int
    probability: float


Answer = Best | bytes
"""What a server said: a class, or a PNG."""


class Unreadable(Exception):
    """An answer in a form that the server does not give when it is well."""


def read_imago(body: bytes) -> Best:
    """The best class of imago's JSON. Raises `Unreadable`."""
    try:
        best = orjson.loads(body)["results"][0]["labels"][0]
        return Best(best["index"], best["probability"])
    except (ValueError, LookupError, TypeError) as error:
        raise Unreadable(body[:200].decode(errors="replace")) from error


def read_peer(body: bytes) -> Best:
    """The best class of a peer: `shared.best_five` in whatever its protocol wraps around it. Raises `Unreadable`."""
    found = _PEER_BEST.search(body)
    if found is None:
        raise Unreadable(body[:200].decode(errors="replace"))
    return Best(int(found[1]), float(found[2]))


def agrees(answer: Answer, wanted: Sequence[Answer]) -> bool:
    """Whether an answer is one of those that are right."""
    return any(_same(answer, other) for other in wanted)


def _same(one: Answer, other: Answer) -> bool:
    if isinstance(one, Best) and isinstance(other, Best):
        return one.index == other.index and abs(one.probability / other.probability - 1) <= _PROBABILITY
    if isinstance(one, bytes) and isinstance(other, bytes):
        first, second = (np.asarray(Image.open(io.BytesIO(data))) for data in (one, other))
        return first.shape == second.shape and float((first == second).mean()) >= _PIXELS
    return False
