"""Looks a zip through before it is trusted, by what its directory says; nothing is ever unpacked to the disk.

Members are read one by one, each no further than its length in the directory (`zipfile` stops there): so the sum of
those lengths bounds what a zip can become. Format: PKWARE APPNOTE 6.3.10, sections 4.3.12 to 4.3.16, 4.4.
"""

import stat
import struct
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from app.batch.sources import is_picture
from app.errors import InvalidRequest, JobTooLarge
from app.jobs.job import Bounds

LONGEST_NAME: Final = 255
_END: Final = b"PK\5\6"
_END_BYTES: Final = 22
_HEADER_BYTES: Final = 30
"""Of a member, at the least."""
_LOCATOR: Final = b"PK\6\7"
_LOCATOR_BYTES: Final = 20
_ENTRY_BYTES: Final = 320
"""Bytes of the directory for each file that a job may have: 46, its name, and what programs note beside it."""
_SMALL: Final = 2**16
"""Bytes of a directory that are always read."""
_PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others take memory as they please (LZMA names the size of its dictionary), and pictures are packed already."""
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000


def count_pictures(path: Path, bounds: Bounds) -> int:
    """How many pictures a zip holds, by the names of its members.

    Raises:
        InvalidRequest: it is damaged, encrypted, or has members that no folder of pictures has.
        JobTooLarge: it has too many members, or unpacks to too many bytes.
    """
    try:
        with path.open("rb") as file:
            _check_directory(file, bounds.pictures)
            with zipfile.ZipFile(file) as found:
                members = [member for member in found.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError, OSError) as error:
        raise InvalidRequest(f"The zip cannot be read: {error}.") from None
    for member in members:
        _check_member(member)
    _check_sums(members, bounds)
    return sum(is_picture(member.filename) for member in members)


def check_name(name: str) -> str:
    """The name of a picture in a job, if it may have that.

    Raises:
        InvalidRequest: it leads out of its folder, is too long, or holds what no name of a file does.
    """
    parts = name.split("/")
    if ".." in parts or not parts[0] or "\\" in name or parts[0].endswith(":"):
        raise InvalidRequest(f"The name {name[:80]!r} leads out of its folder: name files by a path below it.")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidRequest(f"The name {name[:80]!r} is longer than {LONGEST_NAME} characters, or not printable.")
    return name


def _check_directory(file: BinaryIO, most: int) -> None:
    """Refuse a directory that would fill the memory when `zipfile` reads it as a whole, found as `zipfile` finds it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES - 0xFFFF))
    tail = file.read()
    last = tail[-_END_BYTES:]
    start = len(tail) - _END_BYTES if last.startswith(_END) and last.endswith(b"\0\0") else tail.rfind(_END)
    if start < 0 or len(tail) - start < _END_BYTES:
        raise zipfile.BadZipFile("File is not a zip file")
    if tail[max(0, start - _LOCATOR_BYTES) : start].startswith(_LOCATOR):
        raise InvalidRequest("The zip is of the kind for very many or very large files (ZIP64): send several zips.")
    (length,) = struct.unpack_from("<I", tail, start + 12)
    if length > max(_SMALL, _ENTRY_BYTES * most):
        raise JobTooLarge(f"The zip lists more than {most} files: send several zips.")


def _check_member(member: zipfile.ZipInfo) -> None:
    if "\0" in member.orig_filename:
        raise InvalidRequest(f"The name {member.filename[:80]!r} goes on after a zero byte.")
    check_name(member.filename)
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise InvalidRequest(f"{member.filename!r} is a link, or another thing that is no file: leave it out.")
    if member.flag_bits & _ENCRYPTED:
        raise InvalidRequest(f"{member.filename!r} is encrypted: send a zip without a password.")
    if member.compress_type not in _PACKED:
        raise InvalidRequest(f"{member.filename!r} is packed in an unusual way: store or deflate it.")


def _check_sums(found: Sequence[zipfile.ZipInfo], bounds: Bounds) -> None:
    if len({member.filename for member in found}) < len(found):
        raise InvalidRequest("The zip has two files of one name.")
    if sum(is_picture(member.filename) for member in found) > bounds.pictures:
        raise JobTooLarge(f"The zip holds more than {bounds.pictures} pictures: send several zips.")
    placed = sorted(found, key=lambda member: member.header_offset)
    ends = ((one.header_offset + _HEADER_BYTES + one.compress_size, other) for one, other in pairwise(placed))
    if any(end > other.header_offset for end, other in ends):
        raise InvalidRequest("The files of the zip overlap: it is damaged, or made to become more than it is.")
    if sum(member.file_size for member in found) > bounds.bytes:
        raise JobTooLarge(f"The zip unpacks to more than {bounds.bytes} bytes: send several zips.")
