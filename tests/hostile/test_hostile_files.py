"""Files that should not have been sent, and odd ones that are welcome, through HTTP: each has its one right answer."""

import pytest

from app.settings import FORMATS
from tests.api.connection import request
from tests.hostile.asking import GOOD, MEBIBYTE, Watched, check
from tests.hostile.files import File, catalogue
from tests.imaging.pictures import noise, save

DEFAULT = ("jpeg", "png", "webp")
FILES = list(catalogue())


def name(file: File) -> str:
    return f"{file.form} {file.what}".strip()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_has_its_answer(lone: Watched, file: File) -> None:
    lone.watch_memory()
    before = lone.memory()
    check(lone, request(file.data), file.expected_by(DEFAULT))
    if not file.expected.startswith("200"):
        assert lone.peak() - before <= 16 * MEBIBYTE + 2 * len(file.data)
    lone.check_unharmed()


@pytest.mark.parametrize("model", [b"near", b"far"])
@pytest.mark.parametrize("file", [file for file in FILES if file.form], ids=name)
def test_a_file_has_its_answer_from_workers_and_engine_with_every_format_on(
    several: Watched, file: File, model: bytes
) -> None:
    check(several, request(file.data, b"/classify?model=" + model), file.expected_by(FORMATS))
    several.check_unharmed()


@pytest.mark.parametrize("kind", [b"image/jpeg", b"image/svg+xml", b"text/html", b"application/pdf", b"image/*", b"x"])
def test_what_a_file_is_said_to_be_does_not_matter(lone: Watched, kind: bytes) -> None:
    check(lone, request(GOOD, headers=[(b"content-type", kind)]), "200 red")
    check(lone, request(b"<html>", headers=[(b"content-type", kind)]), "415 unsupported-image")
    lone.check_unharmed()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("rows", "expected"), [(499, "200"), (500, "200"), (501, "413 image-too-large")])
def test_the_limit_of_pixels_is_where_it_is_said_to_be(several: Watched, form: str, rows: int, expected: str) -> None:
    picture = save(noise(50, 5).repeat(10, 1).repeat(101, 0)[:rows], form)
    reply = check(several, request(picture, b"/classify?model=near"), f"{expected} | 200 red | 200 green | 200 blue")
    assert reply is not None
    assert reply.status == int(expected[:3])
    several.check_unharmed()
