"""`imago batch` as an operator types it."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.__main__ import cli
from benchmarks.server import running_server
from tests.batch.pictures import make_folder, plain
from tests.client.scripted import Said, problem, said, scripted
from tests.service.processes import until


@pytest.fixture(scope="module")
def url(model_root: Path) -> Iterator[str]:
    with running_server(model_root, "--workers", "1", "--log-level", "warning") as server:
        yield server.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "in", each=10)
    return tmp_path / "in"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["batch", *map(str, arguments)], env={"COLUMNS": "200"})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def best(path: Path) -> dict[str, str]:
    return {line["file"]: line["result"]["labels"][0]["label"] for line in lines(path)}


def test_a_folder_is_answered_without_a_server_and_through_one(model_root: Path, folder: Path, url: str) -> None:
    out = folder.parent / "out.jsonl"
    expected = {
        name: name.partition("/")[0]
        for name in sorted(f"{c}/{n}.png" for c in ("red", "green", "blue") for n in range(10))
    }
    for where in (("--models", model_root), ("--url", url)):
        found = run("classify", folder, "--out", out, "--top-k", 1, *where)
        assert (found.exit_code, found.stdout) == (0, "")
        assert "30 pictures, 0 failed" in found.stderr
        assert list(best(out).items()) == list(expected.items())
        assert all(len(line["result"]["labels"]) == 1 for line in lines(out))
        assert not (folder.parent / "out.jsonl.journal").exists()
        out.unlink()


def test_what_fails_is_reported_the_rest_is_done_and_the_exit_code_says_so(model_root: Path, folder: Path) -> None:
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    (folder / "red" / "empty.png").touch()
    out = folder.parent / "out.jsonl"
    found = run("classify", folder, "--out", out, "--models", model_root)
    assert found.exit_code == 1
    assert "32 pictures, 2 failed" in found.stderr
    assert "red/broken.png: The bytes are no picture in a known format" in found.stderr
    failed = {line["file"]: line["error"]["code"] for line in lines(out) if "error" in line}
    assert failed == {"red/broken.png": "unsupported-image", "red/empty.png": "empty-body"}
    assert len(lines(out)) == 32


def test_a_run_that_was_killed_half_way_goes_on_and_has_each_picture_once(model_root: Path, tmp_path: Path) -> None:
    names = [f"{number:04}.png" for number in range(5000)]
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as packed:
        for name in names:
            packed.writestr(name, plain("green"))
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    command = [sys.executable, "-m", "app", "batch", "classify", str(tmp_path / "many.zip"), "--out", str(out)]
    command += ["--models", str(model_root), "--processes", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = journal.read_bytes().count(b"\n") - 1
    assert 0 < kept < 5000
    assert not out.exists()
    again = subprocess.run(command, stderr=subprocess.PIPE, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert [line["file"] for line in lines(out)] == names
    assert not journal.exists()


def test_a_service_that_goes_away_ends_the_run_which_goes_on_when_it_is_back(folder: Path, url: str) -> None:
    out = folder.parent / "out.jsonl"
    for path in folder.rglob("[89].png"):
        path.unlink()
    eight = said(200, {"model": "tiny", "version": 1, "results": 8 * [{"labels": [{"label": "kept"}]}]})
    with scripted(eight, problem(403, "forbidden")) as server:
        stopped = run("classify", folder, "--out", out, "--url", server.url)
    assert (stopped.exit_code, out.exists()) == (2, False)
    assert "forbidden: It is forbidden." in stopped.stderr
    assert run("classify", folder, "--out", out, "--url", url).exit_code == 0
    found = list(best(out).values())
    assert (len(found), found.count("kept") in (0, 8)) == (24, True)  # 0 where the refusal came first


def test_a_picture_that_failed_by_chance_is_tried_again(folder: Path, url: str) -> None:
    out = folder.parent / "out.jsonl"
    with scripted(problem(500, "internal-error")) as server:
        found = run("classify", folder, "--out", out, "--url", server.url)
    assert found.exit_code == 1
    assert "start again to try them" in found.stderr
    assert run("classify", folder, "--out", out, "--url", url).exit_code == 0
    assert len(best(out)) == 30
    assert not out.with_name("out.jsonl.journal").exists()


def test_results_that_are_there_are_not_overwritten(model_root: Path, folder: Path) -> None:
    out = folder.parent / "out.csv"
    out.write_text("mine")
    found = run("classify", folder, "--out", out, "--models", model_root)
    assert (found.exit_code, out.read_text()) == (2, "mine")
    assert "is there already" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "out.txt"), ".parquet"),
        (("--out", "out.csv", "--url", "http://127.0.0.1:9", "--threads", "2"), "--threads is for runs without --url"),
        (("--out", "out.csv", "--models", "none"), "is no folder"),
        (("--out", "out.csv", "--top-k", "0"), "top_k"),
        (("--out", "out.csv", "--model", "none"), "'none' is not served here"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    arguments: tuple[str, ...], said: str, folder: Path, model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("IMAGO_MODELS", str(model_root))
    found = run("classify", folder, *arguments)
    assert found.exit_code == 2
    assert said in found.stderr
    assert not list(folder.parent.glob("*.journal"))


def test_without_pyarrow_parquet_is_refused_before_the_work(model_root: Path, folder: Path) -> None:
    (folder.parent / "pyarrow.py").write_text("raise ImportError('there is none')\n")
    out = folder.parent / "out.parquet"
    command = [sys.executable, "-m", "app", "batch", "classify", str(folder), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder.parent), *sys.path])}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 2
    assert (
        ended.stderr == "invalid-batch: Parquet needs pyarrow: pip install 'imago[batch]', or write .jsonl or .csv.\n"
    )


def test_tasks_without_pictures_have_no_batch() -> None:
    found = run("--help").output
    assert "classify" in found
    assert "generate" not in found


def test_an_unreachable_service_is_told(folder: Path) -> None:
    with scripted(Said()) as server:
        url = server.url
    found = run("classify", folder, "--out", folder.parent / "out.csv", "--url", url, "--timeout", "0.3")
    assert found.exit_code == 2
    assert "unreachable" in found.stderr or "deadline-exceeded" in found.stderr
