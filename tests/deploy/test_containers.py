"""The image and the compose file: what they promise of users, ports and rights, and that they name what exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trustme
import yaml

from app.imaging.codec import encode_png
from app.settings import PREFIX, Settings
from benchmarks.server import running_server
from tests.service.processes import starting_server, until

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments; comments dropped, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


DOCKERFILE = instructions()
FINAL = DOCKERFILE[[index for index, (word, _) in enumerate(DOCKERFILE) if word == "FROM"][-1] :]


def final(word: str) -> str:
    """The one such instruction of the final stage."""
    (argument,) = (argument for found, argument in FINAL if found == word)
    return argument


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml"])
def test_every_variable_of_ours_is_a_setting(file: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+", (ROOT / file).read_text(encoding="utf-8")))
    assert named
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    user, group = final("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_starts_the_service_without_a_shell_so_that_it_gets_the_signals() -> None:
    assert json.loads(final("ENTRYPOINT")) + json.loads(final("CMD")) == ["imago", "serve"]


def test_the_health_check_passes_on_a_ready_server_and_fails_on_one_without_models(
    model_root: Path, tmp_path: Path
) -> None:
    python, *arguments = json.loads(final("HEALTHCHECK").partition("CMD")[2])
    assert python == "python3"
    for root, status in ((model_root, 0), (tmp_path, 1)):
        with running_server(root, "--log-level", "error") as server:
            port = server.url.rpartition(":")[2]
            checked = subprocess.run([sys.executable, *arguments], env={**os.environ, "IMAGO_PORT": port})
        assert checked.returncode == status


def test_the_health_check_speaks_tls_where_the_service_does(model_root: Path, tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    _, *arguments = json.loads(final("HEALTHCHECK").partition("CMD")[2])
    with starting_server(model_root, "--tls-certificate", str(pem), "--log-level", "error") as server:
        port = server.url.rpartition(":")[2]
        environment = {**os.environ, "IMAGO_PORT": port, "IMAGO_TLS_CERTIFICATE": str(pem)}
        until(lambda: subprocess.run([sys.executable, *arguments], env=environment).returncode == 0)


def test_nothing_is_built_in_the_final_stage() -> None:
    assert "RUN" not in {word for word, _ in FINAL}
    assert [argument.split() for word, argument in FINAL if word == "COPY"] == [
        ["--from=build", "/venv", "/venv"],
        ["--from=build", f"--chown={final('USER')}", "/keys", "/keys"],
        ["--from=build", f"--chown={final('USER')}", "/cache", "/cache"],
        ["models", "/models"],
    ]


def test_the_base_is_pinned_and_satisfies_the_project() -> None:
    (base,) = (argument for word, argument in DOCKERFILE if word == "ARG" and argument.startswith("BASE="))
    major, minor = map(int, re.fullmatch(r"BASE=python:(\d+)\.(\d+)-slim-\w+", base).groups())
    floor = re.search(r'requires-python = ">=(\d+)\.(\d+)"', PROJECT).groups()
    assert (major, minor) >= tuple(map(int, floor))


@pytest.mark.parametrize("name", ["imago", "imago-gpu"])
def test_a_service_installs_an_extra_that_exists(name: str) -> None:
    (default,) = (argument for word, argument in DOCKERFILE if word == "ARG" and argument.startswith("RUNTIME="))
    build = SERVICES[name]["build"]
    runtime = build["args"]["RUNTIME"] if isinstance(build, dict) else default.removeprefix("RUNTIME=")
    assert re.search(rf"^{runtime} = \[", PROJECT, flags=re.M)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = {
        path for word, argument in DOCKERFILE if word == "COPY" and "--from" not in argument
        for path in argument.split()[:-1]
    }  # fmt: skip
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert [path for path in copied if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "user"} & set(service)


def test_the_image_lets_nobody_in_by_itself() -> None:
    assert "IMAGO_HOST=0.0.0.0" in final("ENV")
    assert not {"IMAGO_KEYS", "IMAGO_INSECURE_NO_AUTH"} & set(re.findall(r"IMAGO_[A-Z_]+", final("ENV")))


@pytest.mark.parametrize("name", ["imago", "imago-gpu"])
def test_everybody_may_call_where_only_this_machine_can(name: str) -> None:
    open_to_all = SERVICES[name]["environment"].get("IMAGO_INSECURE_NO_AUTH") == "true"
    assert open_to_all != ("IMAGO_KEYS" in SERVICES[name]["environment"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_published_on_the_loopback_interface_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists_and_is_read_only(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, _, *mode = volume.split(":")
        if source.startswith("."):
            assert (ROOT / source).is_dir()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_of_others_is_pinned(name: str) -> None:
    assert "build" in SERVICES[name] or re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", ["imago", "imago-gpu"])
def test_ports_models_and_patience_are_those_of_the_image(name: str) -> None:
    service, environment = SERVICES[name], final("ENV")
    assert service["ports"][0].endswith(f":{final('EXPOSE')}")
    assert f"IMAGO_PORT={final('EXPOSE')}" in environment
    assert "./models:/models:ro" in service["volumes"]
    assert "IMAGO_MODELS=/models" in environment
    assert "cache:/cache" in service["volumes"]
    assert "IMAGO_CACHE=/cache" in environment
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_only_the_gpu_service_asks_for_a_gpu_and_only_when_it_is_named() -> None:
    (device,) = SERVICES["imago-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert {name: service.get("profiles") for name, service in SERVICES.items() if "deploy" in service} == {
        "imago-gpu": ["gpu"]
    }
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["imago-gpu"]


def test_prometheus_scrapes_the_port_of_a_service_of_that_name() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"imago:{final('EXPOSE')}"
    assert "imago" in SERVICES
    assert SERVICES["imago-gpu"]["networks"]["default"]["aliases"] == ["imago"]
    assert _mounts("prometheus")["/etc/prometheus"] == "./deploy/prometheus"
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    assert _mounts("grafana")["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].split(':')[-1]}"
    (provider,) = yaml.safe_load((provisioning / "dashboards/imago.yml").read_text())["providers"]
    folder = ROOT / _mounts("grafana")[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    dashboard = json.loads((folder / home.name).read_text(encoding="utf-8"))
    (variable,) = (v for v in dashboard["templating"]["list"] if v["type"] == "datasource")
    assert variable["query"] == source["type"]
    assert variable["current"]["value"] == source["uid"]


def test_a_server_writes_nothing_into_its_home(
    model_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's telemetry would keep an identifier there, and fail on a read-only root file system."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):  # each would keep it quiet, or move it
        monkeypatch.delenv(variable, raising=False)
    with running_server(model_root, "--log-level", "error") as server:
        answer = httpx.post(f"{server.url}/classify", content=encode_png(np.zeros((8, 8, 3), np.uint8)))
        assert answer.status_code == 200
    assert list(tmp_path.iterdir()) == []


def _mounts(service: str) -> dict[str, str]:
    return {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES[service]["volumes"]}
