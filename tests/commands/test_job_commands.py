"""`imago jobs`, asked of a real server."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.__main__ import cli
from app.client import Client, ServiceProblem
from benchmarks.server import running_server
from tests.batch.pictures import make_folder, make_zip
from tests.service.processes import until


@pytest.fixture(scope="module")
def url(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = str(tmp_path_factory.mktemp("jobs"))
    flags = ("--workers", "1", "--jobs-dir", folder, "--jobs-max-pictures", "6", "--log-level", "warning")
    with running_server(model_root, *flags) as server:
        yield server.url


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["jobs", *arguments, "--url", url], env={"COLUMNS": "200"})


def test_a_zip_is_left_and_its_results_are_fetched(url: str, tmp_path: Path) -> None:
    colours = make_folder(tmp_path / "pictures")
    packed = make_zip(tmp_path / "pictures.zip", tmp_path / "pictures")
    left = run(url, "submit", "classify", str(packed), "--top-k", "1")
    assert left.exit_code == 0, left.output
    job = left.stdout.strip()
    until(lambda: "done" in run(url, "status", job).stdout)
    assert "6 of 6" in run(url, "status").stdout
    out = tmp_path / "results.jsonl"
    assert run(url, "results", job, "--out", str(out)).exit_code == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["file"]: line["result"]["labels"][0]["label"] for line in found} == colours
    assert [json.loads(line) for line in run(url, "results", job).stdout.splitlines()] == found
    assert run(url, "cancel", job).exit_code == 0
    gone = run(url, "status", job)
    assert gone.exit_code == 1
    assert "job-not-found" in gone.stderr


def test_several_files_are_left_under_their_paths(url: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    with Client(url) as imago:
        job = imago.jobs.submit("classify", *(tmp_path / colour / "1.png" for colour in ("red", "blue")))
        until(lambda: imago.jobs.status(job.id).has_ended)
        lines = [json.loads(line) for line in imago.jobs.results(job.id).splitlines()]
        assert [line["file"] for line in lines] == [f"{tmp_path}/{colour}/1.png"[1:] for colour in ("blue", "red")]
        assert job.id in [found.id for found in imago.jobs.list()]
        imago.jobs.cancel(job.id)
        with pytest.raises(ServiceProblem, match="job-not-found"):
            imago.jobs.results(job.id)


def test_what_the_service_refuses_is_told(url: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as packed:
        for number in range(7):
            packed.writestr(f"{number}.png", b"")
    refused = run(url, "submit", "segment", str(tmp_path / "many.zip"))
    assert refused.exit_code == 1
    assert "job-too-large" in refused.stderr


def test_results_that_cannot_be_written_are_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    with Client(url) as imago:
        job = imago.jobs.submit("classify", tmp_path / "red" / "1.png")
        until(lambda: imago.jobs.status(job.id).has_ended)
    refused = run(url, "results", job.id, "--out", str(tmp_path / "nowhere" / "results.jsonl"))
    assert refused.exit_code == 1
    assert "No such file or directory" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--url", "http://[::1"), "is no URL"), (("--url", "http://127.0.0.1:1", "--api-key", "ä"), "the API key")],
)
def test_an_address_or_a_key_that_is_none_is_told_in_a_sentence(flags: tuple[str, ...], told: str) -> None:
    refused = CliRunner().invoke(cli, ["jobs", "status", *flags], env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert told in refused.stderr
