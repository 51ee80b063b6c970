"""What no zip may do: lead out of a folder, link, hide, or become more than it says."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import InvalidRequest, JobTooLarge, ServiceError
from app.jobs.job import Bounds
from app.jobs.zips import count_pictures
from tests.jobs.boxes import box

BOUNDS = Bounds(pictures=3, bytes=10_000, kept=1, disk_bytes=10_000, keep_seconds=1)
ONE = {"a.png": b"x" * 50}


def packed(change: Callable[[zipfile.ZipInfo], None], name: str = "a.png") -> bytes:
    """A zip with one member, changed."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as found:
        member = zipfile.ZipInfo(name)
        change(member)
        found.writestr(member, b"x")
    return held.getvalue()


def is_link(member: zipfile.ZipInfo) -> None:
    member.external_attr = 0o120777 << 16


def is_device(member: zipfile.ZipInfo) -> None:
    member.external_attr = 0o020666 << 16


def patched(data: bytes, at: int, value: bytes) -> bytes:
    """A zip with other bytes in the first entry of its directory."""
    place = data.index(b"PK\1\2") + at
    return data[:place] + value + data[place + len(value) :]


def lying(data: bytes, entries: int) -> bytes:
    """A zip that says its directory is so long."""
    return data[:-10] + struct.pack("<I", entries) + data[-6:]


def bomb(copies: int) -> bytes:
    """Many entries of a directory for one and the same member."""
    data = box({"0.png": bytes(3000)})
    start = data.index(b"PK\1\2")
    entry = data[start:-22]
    entries = b"".join(entry.replace(b"0.png", b"%d.png" % number) for number in range(copies))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, copies, copies, len(entries), start, 0)
    return data[:start] + entries + end


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a zip"),
        (b"PK\3\4 and nothing else", "not a zip"),
        (box(ONE)[:-1], "not a zip"),
        (box(ONE) + b"PK\5\6", "not a zip"),
        (packed(is_link), "link"),
        (packed(is_device), "link"),
        (packed(lambda member: None, "../a.png"), "out of its folder"),
        (packed(lambda member: None, "a/../../a.png"), "out of its folder"),
        (packed(lambda member: None, "/etc/a.png"), "out of its folder"),
        (packed(lambda member: None, "C:/a.png"), "out of its folder"),
        (packed(lambda member: None, "a\\b.png"), "out of its folder"),
        (packed(lambda member: None, "a\nb.png"), "not printable"),
        (packed(lambda member: None, f"{'a' * 252}.png"), "255 characters"),
        (packed(lambda member: None, "a.png").replace(b"a.png", b"a\0png"), "zero byte"),
        (patched(box(ONE), 8, b"\1\0"), "encrypted"),
        (box(ONE, zipfile.ZIP_LZMA), "unusual way"),
        (box(ONE, zipfile.ZIP_BZIP2), "unusual way"),
        (box({f"{number}.png": b"" for number in range(4)}), "more than 3 pictures"),
        (box({"a.png": bytes(10_001)}), "unpacks to more"),
        (box({"a.png": bytes(6000), "notes.txt": bytes(6000)}), "unpacks to more"),
        (bomb(3), "overlap"),
        (box({f"{number}.txt": b"" for number in range(1500)}), "lists more than 3 files"),
        (lying(box(ONE), 2**31), "lists more than 3 files"),
        (box(ONE)[:-22] + b"PK\6\7" + bytes(16) + box(ONE)[-22:], "ZIP64"),
    ],
)
def test_what_is_not_to_be_trusted_is_refused_with_its_reason(data: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "sent.zip"
    path.write_bytes(data)
    with pytest.raises(ServiceError, match=sentence) as refused:
        count_pictures(path, BOUNDS)
    assert isinstance(refused.value, InvalidRequest | JobTooLarge)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sent.zip"
    path.write_bytes(packed(lambda member: None).replace(b"b.png", b"a.png"))
    with zipfile.ZipFile(path, "a") as found, pytest.warns(UserWarning, match="Duplicate"):
        found.writestr("a.png", b"y")
    with pytest.raises(InvalidRequest, match="one name"):
        count_pictures(path, BOUNDS)


@pytest.mark.parametrize("comment", [b"", b"of an archive", b"ends with zeros\0\0"])
def test_pictures_are_counted_by_their_names(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "sent.zip"
    with zipfile.ZipFile(path, "w") as found:
        found.comment = comment
        found.mkdir("photos")
        for name in ("photos/a.JPG", "b.png", "notes.txt", "__MACOSX/._b.png", "other.zip"):
            found.writestr(name, b"x")
    assert count_pictures(path, BOUNDS) == 2
