"""The memory for decoding: shared, waited for, given back; and enough for what is counted."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from app.errors import CorruptImage, Overloaded
from app.imaging.budget import Budget
from app.imaging.codec import Decoder
from app.settings import FORMATS
from tests.imaging.memory import memory_of
from tests.imaging.pictures import exif, save

MEBI = 1 << 20


def test_pictures_are_decoded_side_by_side_while_all_fit() -> None:
    budget = Budget(10 * MEBI, patience=0)
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(budget.take(2 * MEBI))
        with pytest.raises(Overloaded), budget.take(MEBI):
            pass
    assert repr(budget) == "<Budget: 0 of 10485760 bytes>"


def test_a_single_picture_is_let_through_whatever_it_takes() -> None:
    budget = Budget(MEBI, patience=0)
    with budget.take(500 * MEBI), pytest.raises(Overloaded), budget.take(MEBI):
        pass
    with budget.take(MEBI):
        pass


def test_who_waits_goes_on_when_there_is_room() -> None:
    budget = Budget(2 * MEBI, patience=20)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with budget.take(2 * MEBI):
            begun.set()
            assert go_on.wait(20)

    def follow() -> str:
        with budget.take(2 * MEBI):
            return repr(budget)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert begun.wait(20)
        following = pool.submit(follow)
        go_on.set()
        assert following.result(20) == "<Budget: 2097152 of 2097152 bytes>"
        holding.result(20)


def test_a_picture_that_fails_gives_its_memory_back() -> None:
    decoder = Decoder(FORMATS, budget=Budget(MEBI))
    data = save(np.zeros((1000, 1000, 3), np.uint8))
    for _ in range(3):
        with pytest.raises(CorruptImage):
            decoder.open(data[:-100]).decode()
    assert decoder.open(data).decode().shape == (1000, 1000, 3)


SIDE = 2000
PLAIN = Image.new("RGB", (SIDE, SIDE), (10, 200, 30))
KINDS = {
    "RGB": save(PLAIN),
    "RGBA": save(Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 100))),
    "LA": save(Image.new("LA", (SIDE, SIDE), (3, 100))),
    "16 bits": save(Image.fromarray(np.full((SIDE, SIDE), 30_000, np.uint16))),
    "palette": save(PLAIN.quantize(8), transparency=0),
    "JPEG": save(PLAIN, "JPEG"),
    "JPEG, progressive": save(PLAIN, "JPEG", progressive=True, subsampling=0),
    "JPEG, CMYK": save(PLAIN.convert("CMYK"), "JPEG"),
    "JPEG, turned": save(PLAIN, "JPEG", exif=exif(6)),
    "WebP": save(PLAIN, "WEBP"),
    "WebP, lossless": save(Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 100)), "WEBP", lossless=True),
    "GIF": save(PLAIN.quantize(8), "GIF"),
    "BMP": save(PLAIN, "BMP"),
    "TIFF": save(PLAIN, "TIFF"),
    "AVIF": save(PLAIN, "AVIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_takes_no_more_than_is_counted(kind: str) -> None:
    picture = Decoder(FORMATS).open(KINDS[kind])
    counted = picture.bytes_needed(SIDE, SIDE)
    with memory_of(mebibytes=counted // MEBI + 4, seconds=60):
        picture.raster()


def test_a_large_jpeg_that_is_decoded_small_counts_little() -> None:
    picture = Decoder(FORMATS, budget=Budget(MEBI)).open(KINDS["JPEG"])
    assert picture.raster(at_least=(32, 32)).size == (SIDE // 8, SIDE // 8)
    assert picture.bytes_needed(SIDE // 8, SIDE // 8) < MEBI


def test_a_small_picture_waits_for_nobody() -> None:
    """It is decoded on the event loop's thread."""
    budget = Budget(MEBI, patience=0)
    decoder = Decoder(FORMATS, budget=budget)
    kinds = [save(Image.new(mode, (128, 256)), form, **options) for form, mode, options in (
        ("PNG", "RGBA", {}), ("WEBP", "RGBA", {"lossless": True}), ("JPEG", "RGB", {"progressive": True}),
    )]  # fmt: skip
    with budget.take(500 * MEBI):
        with pytest.raises(Overloaded):
            decoder.open(KINDS["RGB"]).raster()
        for data in kinds:
            picture = decoder.open(data)
            assert picture.bytes_needed(128, 256) < MEBI
            assert picture.raster().size == (128, 256)
