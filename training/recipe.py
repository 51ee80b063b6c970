"""Recipe: what one shipped model needs to be fitted, exported and scored. Command line and export know only this."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from app.manifest import Conformal, ImageInput, Tiling
from training.data import BrokenData
from training.data.held_out import Truth
from training.engine import Hyper, Plan
from training.networks.graphs import Graph
from training.onnx_file import Arrays
from training.run import Run
from training.version import Version

H = TypeVar("H", bound=Hyper)


@dataclass(frozen=True)
class Card:
    """What the manifest and the model card say beside figures."""

    task: str
    description: str
    licence: str
    data: Mapping[str, str | int]
    labels: tuple[str, ...]
    uses: str
    limits: str
    image: ImageInput | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    tiling: Tiling | None = None


class Recipe(ABC, Generic[H]):
    """One shipped model: its name, its hyper-parameters, and what differs between models."""

    name: ClassVar[str]
    run_of: ClassVar[str] = ""
    """The recipe whose runs it exports as well as its own."""
    card: ClassVar[Card]
    """What `describe` tells where it does not depend on the data."""
    headline: ClassVar[str]
    """The metric that stands for the model where there is room for one."""
    unit: ClassVar[str] = "%"
    """Of the headline: `%` for a share, else what it is counted in."""
    less_is_better: ClassVar[bool] = False
    """Whether the headline is the better, the smaller it is: an error, a distance."""
    anchor: ClassVar[str] = ""
    """What others reach on the same data, with its source."""
    tolerances: ClassVar[Mapping[str, float]] = {}
    """How far a metric may be from what was recorded, where it depends on more than the exported file."""
    hyper: type[H]

    def headline_of(self, metrics: Mapping[str, float]) -> str:
        """The name of the headline among the figures of a version: where the data had no test part, it is that of the
        validation part."""
        instead = self.headline.replace("test_", "val_", 1)
        return instead if instead in metrics and self.headline not in metrics else self.headline

    def describe(self, hyper: H, data: Path) -> Card:
        """What manifest and card say beside figures."""
        return self.card

    @abstractmethod
    def plan(self, hyper: H, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run. Raises BrokenData."""

    @abstractmethod
    def graph(self, hyper: H, weights: dict[str, Tensor], data: Path) -> Graph:
        """The graph to export, from a run's state dictionary."""

    @abstractmethod
    def examples(self, hyper: H, data: Path) -> Arrays:
        """Inputs of the graph made of real held-out items, for parity: at least two rows."""

    def training_pictures(self, data: Path) -> Iterator[bytes]:
        """Encoded training pictures in random order, for the ranges of a quantised version. Raises BrokenData."""
        raise BrokenData(data, f"has no pictures that a model of {self.name} could be calibrated on")

    def truth(self, data: Path) -> Truth:
        """Held-out pictures with what they show, for `imago-train evaluate`. Raises BrokenData."""
        raise BrokenData(data, f"has no truth that a model of {self.name} could be compared with")

    @abstractmethod
    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Held-out figures of a version, through `app.tasks` and `app.runtime`, from the bytes of encoded pictures."""

    def calibrate(self, hyper: H, version: Version, data: Path) -> Conformal | None:
        """Label sets of a classifier, from held-out training pictures."""
        return None

    def extras(self, version: Version, data: Path) -> dict[str, bytes]:
        """Further files for the version folder, by name."""
        return {}
