"""Recipe: what one shipped model needs to be fitted, exported and scored. Command line and export know only this."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from app.manifest import ImageInput
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


class Recipe(ABC, Generic[H]):
    """One shipped model: its name, its hyper-parameters, and the five things that differ between models."""

    name: ClassVar[str]
    card: ClassVar[Card]
    hyper: type[H]

    @abstractmethod
    def plan(self, hyper: H, data: Path, run: Run) -> Plan:
        """Network, loop and batches of a run. Raises BrokenData."""

    @abstractmethod
    def graph(self, hyper: H, weights: dict[str, Tensor], data: Path) -> Graph:
        """The graph to export, from a run's state dictionary."""

    @abstractmethod
    def examples(self, hyper: H, data: Path) -> Arrays:
        """Inputs of the graph made of real held-out items, for parity: at least two rows."""

    @abstractmethod
    def score(self, version: Version, data: Path) -> dict[str, float]:
        """Held-out figures of a version, through `app.tasks` and `app.runtime`, from the bytes of encoded pictures."""

    def extras(self, version: Version) -> dict[str, bytes]:
        """Further files for the version folder, by name."""
        return {}
