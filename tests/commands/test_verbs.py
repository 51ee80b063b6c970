"""`imago classify` and its kin, asked of a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from app.__main__ import cli
from app.imaging.codec import Decoder, encode_png
from app.tasks import TASKS
from benchmarks.server import running_server
from tests.client.scripted import problem, result, scripted


@pytest.fixture(scope="module")
def url(model_root: Path) -> Iterator[str]:
    with running_server(model_root, "--workers", "1", "--log-level", "warning") as server:
        yield server.url


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A red picture, a green one of the same name, and none."""
    found = []
    for folder, name, value in (("a", "one.png", 250), ("b", "one.png", 0)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        path.write_bytes(encode_png(np.full((20, 30, 3), (value, 100, 50), np.uint8)))
        found.append(str(path))
    (tmp_path / "notes.txt").write_text("no picture")
    return [*found, str(tmp_path / "notes.txt"), str(tmp_path / "none.png")]


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200", **environment})


def lines(found: Result) -> list[dict]:
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_has_a_verb_and_every_option_a_flag(kind: str) -> None:
    text = run(kind, "--help").output
    fields = TASKS[kind].Options.model_fields
    assert not [name for name, info in fields.items() if f"--{(info.alias or name).replace('_', '-')}" not in text]


def test_pictures_become_rows_of_a_table(url: str, files: list[str]) -> None:
    found = run("classify", *files[:2], "--url", url, "--top-k", "2")
    assert found.exit_code == 0
    header, first, second = found.stdout.splitlines()
    assert header.split() == ["file", "labels", "energy"]
    assert first.split()[:2] == [files[0], "red"]
    assert second.split()[:2] == [files[1], "green"]
    assert "index" not in found.stdout


def test_what_fails_is_reported_the_rest_is_done_and_the_exit_code_says_so(url: str, files: list[str]) -> None:
    found = run("classify", *files, "--url", url, "--json")
    assert found.exit_code == 1
    records = lines(found)
    assert [record["file"] for record in records] == files
    assert [record["result"]["labels"][0]["label"] for record in records[:2]] == ["red", "green"]
    assert [record["error"]["code"] for record in records[2:]] == ["unsupported-image", "unreadable-file"]
    assert "no picture in a known format" in run("classify", *files, "--url", url).stdout


def test_drawings_of_pictures_with_one_name_do_not_overwrite_each_other(
    url: str, files: list[str], tmp_path: Path
) -> None:
    found = run("segment", *files[:2], "--url", url, "--save", str(tmp_path / "out" / "deep"), "--render", "overlay")
    assert found.exit_code == 0
    saved = sorted((tmp_path / "out" / "deep").iterdir())
    assert [path.name for path in saved] == ["one-2.png", "one.png"]
    assert Decoder(("png",)).open(saved[0].read_bytes()).width == 30


def test_images_are_saved_by_seed_index_and_class(url: str, tmp_path: Path) -> None:
    arguments = ("--count", "2", "--seed", "7", "--class", "blue", "--save", str(tmp_path))
    found = run("generate", *arguments, "--url", url)
    assert found.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"7-0-blue.png", "7-1-blue.png"}
    assert found.stdout.splitlines()[0].split() == ["seed", "index", "class", "image"]
    assert "png 8x8" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--top-k", "0"), "top_k"), (("--top-q", "3"), "--top-k"), (("--set", "2"), "set")]
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_asked(
    arguments: tuple[str, ...], said: str, files: list[str]
) -> None:
    with scripted(result()) as server:
        found = run("classify", files[0], "--url", server.url, *arguments)
        assert (found.exit_code, server.asked) == (2, [])
    assert said in found.stderr


def test_the_service_and_the_key_may_stand_in_the_environment(files: list[str]) -> None:
    with scripted(problem(401, "unauthorized")) as server:
        found = run("classify", files[0], "--json", IMAGO_URL=server.url, IMAGO_API_KEY="secret")
        assert server.asked[0][1]["authorization"] == "Bearer secret"
    assert lines(found)[0]["error"] == {"code": "unauthorized", "detail": "It is unauthorized."}


def test_a_label_that_looks_like_markup_or_a_path_is_shown_and_saved_as_it_is(tmp_path: Path) -> None:
    image = {"encoding": "png", "width": 1, "height": 1, "data": "iVBORw=="}
    with scripted(result(**{"class": "../[red]x", "image": image})) as server:
        found = run("generate", "--url", server.url, "--save", str(tmp_path))
    assert "../[red]x" in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == [".._[red]x.png".replace("[", "_").replace("]", "_")]
