"""bccd-detector: blood cells, found from scratch.

    claim     mAP50 0.894 (0.872 to 0.917), mAP 0.553 on the 72 test pictures (version 1)
    time      27 minutes on one CPU core with bfloat16 arithmetic, beside other work
    seed      0
    command   imago-train fit bccd-detector --data DIR

A small residual network and one map at an eighth of the size; two heads, of which the exported one answers for each
object at one place, so that nothing is suppressed after it (Wang et al. 2024, arXiv 2405.14458). Windows turned
any way up (smears have no upper side), mosaics of four, and an average of the weights. The pictures are 640x480; the
network sees them at six tenths of that.
"""

from dataclasses import replace
from pathlib import Path

from training.data.voc import Scenes, read_voc
from training.detecting import DetectHyper
from training.engine import Count
from training.recipe import Card
from training.recipes.voc_detector import VocDetector

_PLACES = ("bccd.zip", "BCCD", "BCCD_Dataset/BCCD")
"""Where the data set lies in the folder that was named: as one archive, or as its authors publish it."""


class BccdHyper(DetectHyper):
    """What was chosen."""

    epochs: Count = 120
    size: tuple[int, int] = (288, 384)
    turn: bool = True
    validate_every: Count = 20


class BccdDetector(VocDetector):
    """The shipped detector."""

    name = "bccd-detector"
    hyper = BccdHyper
    anchor = "92.3 % YOLOv5x, 89.6 % YOLOv7 on the same split (Kang et al. 2023, arXiv 2306.14590)"

    def read(self, data: Path) -> Scenes:
        """BCCD, in the folder named or below it. Raises BrokenData."""
        return read_voc(next((data / place for place in _PLACES if (data / place).exists()), data))

    def describe(self, hyper: DetectHyper, data: Path) -> Card:
        """What is known of BCCD."""
        return replace(
            super().describe(hyper, data),
            description="Finds red and white blood cells (RBC, WBC) and platelets in pictures of stained smears.",
            licence="Weights: MIT, as the data they were learned from.",
            data={
                "name": "BCCD",
                "pictures": "205 for training, 87 for validation, 72 for testing, 640x480 RGB, 4,886 boxes",
                "source": "Shenggan and contributors, BCCD_Dataset",
                "terms": "MIT",
            },
            uses="Demonstration, teaching and load tests.",
            limits="It learned from 205 pictures of one microscope, in which not every cell is marked. It must not be"
            " used for diagnosis.",
        )
