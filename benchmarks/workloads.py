"""What is asked of a server: which picture, which model, how many clients.

Pixels are given as width x height. The three random-weight networks (`benchmarks.networks`) span what a server meets:
one where HTTP costs more than inference, one where inference costs most, one where nothing else is seen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.forms import Body, Multipart, Request, raw


@dataclass(frozen=True)
class Workload:
    """One kind of request."""

    name: str
    what: str
    path: str
    """Path and query at imago."""
    models: str
    """Folder below the work folder's `models/` that imago serves: it holds one model only."""
    model: str
    picture: str | None
    """File in the work folder's `pictures/`; none where the task takes no picture."""
    clients: tuple[int, ...]
    seconds: float
    """Length of one load: longer where answers are few."""
    batches: tuple[int, ...]
    """Batch sizes tried for the limit."""
    network: str | None = None
    """The network that every peer runs; none where imago alone has the task."""
    form: Body = raw
    options: Mapping[str, str | int] | None = None
    """JSON body of a task that takes no picture."""
    accept: str | None = None
    same_as: str | None = None
    """Another workload, of which this one is a variation."""

    @property
    def for_all(self) -> bool:
        """Whether peers can be asked, too."""
        return self.network is not None and self.form is raw

    def request(self, picture: bytes | None) -> Request:
        """What imago is sent."""
        if picture is None:
            headers, body = {"Content-Type": "application/json"}, json.dumps(self.options).encode()
        else:
            headers, body = self.form(picture, media_type(self.picture))
        return Request(self.path, headers | ({"Accept": self.accept} if self.accept else {}), body)


def media_type(file: str | None) -> str:
    """The media type of a picture file."""
    return "image/png" if file is not None and file.endswith(".png") else "image/jpeg"


_ALL: Final = (
    Workload(
        name="tiny", what="28x28 grey PNG, a CNN of 5.6 MFLOP", path="/classify?model=tiny", models="tiny",
        model="tiny", picture="grey28.png", clients=(1, 8, 32, 64), seconds=5, batches=(8, 16, 32), network="tiny",
    ),
    Workload(
        name="tiny-multipart", what="the same picture as `multipart/form-data`", path="/classify?model=tiny",
        models="tiny", model="tiny", picture="grey28.png", clients=(32,), seconds=5, batches=(16, 32), network="tiny",
        form=Multipart("file"), same_as="tiny",
    ),
    Workload(
        name="cifar", what="32x32 JPEG, a ResNet-9 of 0.57 GFLOP", path="/classify?model=cifar", models="cifar",
        model="cifar", picture="rgb32.jpg", clients=(1, 8, 32, 64), seconds=5, batches=(1, 4, 16), network="cifar",
    ),
    Workload(
        name="resnet50", what="500x375 JPEG, a ResNet-50 of 8.2 GFLOP", path="/classify?model=resnet50",
        models="resnet50", model="resnet50", picture="photo500.jpg", clients=(1, 8, 32, 64), seconds=10,
        batches=(1, 4), network="resnet50",
    ),
    Workload(
        name="12mp", what="4000x3000 JPEG, the same ResNet-50", path="/classify?model=resnet50", models="resnet50",
        model="resnet50", picture="photo12mp.jpg", clients=(8,), seconds=10, batches=(1, 4), network="resnet50",
    ),
    Workload(
        name="segment", what="480x360 JPEG to a PNG mask, the shipped camvid-segmenter", path="/segment",
        models="segment", model="camvid-segmenter", picture="photo480.jpg", clients=(8,), seconds=5, batches=(1, 4),
        accept="image/png",
    ),
    Workload(
        name="generate", what="one 32x32 picture as PNG, the shipped cifar10-generator", path="/generate",
        models="generate", model="cifar10-generator", picture=None, clients=(8,), seconds=5, batches=(1, 8, 16),
        options={"class": "ship", "seed": 7}, accept="image/png",
    ),
)  # fmt: skip

WORKLOADS: Final = {workload.name: workload for workload in _ALL}
