"""`imago serve | check | list` as an operator types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app import __version__
from app.__main__ import cli
from app.settings import Settings
from tests.make_models import make_classifier, make_segmenter


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200"})


def text_of(result: Result) -> str:
    """What was printed, without the line breaks of the table."""
    return " ".join(result.output.split())


def test_every_setting_is_a_flag_of_every_command() -> None:
    for command in ("serve", "check", "list"):
        text = run(command, "--help").output
        assert not [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in text]


def test_an_unknown_flag_is_refused_and_a_near_one_named() -> None:
    result = run("serve", "--prot", "1")
    assert result.exit_code == 2
    assert "--port" in result.output


def test_the_version_is_printed() -> None:
    assert run("--version").output.strip() == f"imago {__version__}"


def test_an_operator_s_error_is_one_line_without_a_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "serve", "--models", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("invalid-settings: models: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--host", "0.0.0.0"), "invalid-settings: host '0.0.0.0', port 0: others can reach it"),
        (("--host", "0.0.0.0", "--keys", "none.json"), "invalid-keys: 'none.json': No such file"),
        (("--keys", "none.json", "--insecure-no-auth"), "invalid-settings: insecure_no_auth: there are keys"),
        (("--tls-certificate", "none.pem"), "invalid-settings: tls_certificate, tls_key: 'none.pem': No such file"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_would_be_open_by_mistake_does_not_start(
    tmp_path: Path, flags: tuple[str, ...], told: str, workers: str
) -> None:
    command = [sys.executable, "-m", "app", "serve", "--models", str(tmp_path), "--port", "0", "--workers", workers]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(told)
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_list_shows_what_lies_on_disk_without_loading_it(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path)
    (folder / "model.onnx").unlink()
    result = run("list", "--models", str(tmp_path))
    assert result.exit_code == 0
    assert "tiny-classifier" in result.output
    assert "classify" in result.output


def test_check_reports_every_model_and_exits_with_0(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    make_segmenter(tmp_path)
    result = run("check", "--models", str(tmp_path))
    assert result.exit_code == 0
    assert "tiny-classifier" in result.output
    assert "tiny-segmenter" in result.output


def test_check_names_a_truncated_graph_and_exits_with_1(tmp_path: Path) -> None:
    make_segmenter(tmp_path)
    graph = make_classifier(tmp_path) / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    result = run("check", "--models", str(tmp_path))
    assert result.exit_code == 1
    assert "tiny-classifier/1/model.onnx is not the file that was exported: 100 bytes" in text_of(result)


def test_check_of_an_empty_folder_exits_with_1(tmp_path: Path) -> None:
    assert run("check", "--models", str(tmp_path)).exit_code == 1


def test_list_names_a_broken_configuration(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text("max_batchsize = 3\n")
    assert "did you mean 'max_batch_size'" in text_of(run("list", "--models", str(tmp_path)))


def test_list_names_a_broken_manifest(tmp_path: Path) -> None:
    path = make_classifier(tmp_path) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "taks": "classify"}))
    assert "'taks' is unknown; did you mean 'task'" in text_of(run("list", "--models", str(tmp_path)))


def test_a_default_for_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    make_classifier(tmp_path)
    result = run("check", "--models", str(tmp_path), "--default-models", "clasify=tiny-classifier")
    assert result.exit_code != 0
    assert "did you mean 'classify'" in str(result.exception)
