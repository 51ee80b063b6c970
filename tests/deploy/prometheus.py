"""A Prometheus process for a test: the shipped configuration, sped up, on a free loopback port, stopped by its id."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_LISTENS = re.compile(r'msg="Listening on".* address=(127\.0\.0\.1:\d+)')


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer; an error of the API fails the test with its text."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now, without those that are no number."""
        found = self.get("query", query=expression)["result"]
        return [series for series in found if series["value"][1] != "NaN"]

    def wait_for(self, expression: str, seconds: float = 20.0) -> list[dict[str, Any]]:
        """The series of an expression as soon as there are any; none where none came in time."""
        deadline = time.monotonic() + seconds
        while not (found := self.query(expression)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found


@contextmanager
def running_prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Start Prometheus with the shipped configuration, scraping `target` every second."""
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(sped_up(target)), encoding="utf-8")
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("w") as lines, subprocess.Popen(command, stderr=lines) as process:
        try:
            yield Prometheus(f"http://{_announced(process, log)}")
        finally:
            process.terminate()


def sped_up(target: str) -> dict[str, Any]:
    """The shipped configuration with another target, and seconds where it says many."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [target]}]
    return config


def _announced(process: "subprocess.Popen[bytes]", log: Path, seconds: float = 20.0) -> str:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if found := _LISTENS.search(log.read_text(encoding="utf-8")):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"Prometheus does not listen: {log.read_text(encoding='utf-8')[-2000:]}")
