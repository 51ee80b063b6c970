"""A server process for a benchmark or a test: started on a free loopback port, stopped by its id."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_LISTENS = re.compile(r"listens on (http://[^\s,]+)")


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and its process."""

    url: str
    process: "subprocess.Popen[str]"


@contextmanager
def running_server(models: Path, *flags: str, ready_within: float = 60.0, module: str = "app") -> Iterator[Server]:
    """Start `imago serve`, or another module that takes its flags, on the models in a folder, wait until its models are
    loaded, and stop it at the end.

    Raises:
        RuntimeError: the process ended, or its models were not loaded in time.
    """
    command = [sys.executable, "-m", module, "serve", "--models", str(models), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = _announced(process)
            _wait_until_loaded(url, ready_within)
            yield Server(url, process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _announced(process: "subprocess.Popen[str]") -> str:
    for line in process.stdout or ():
        if found := _LISTENS.search(line):
            return found[1]
    raise RuntimeError(f"the server ended with {process.wait()} before it listened")


def _wait_until_loaded(url: str, seconds: float) -> None:
    """`/readyz` names what is still loading; a broken model is no reason to wait."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = httpx.get(f"{url}/readyz").json()
        if state["settled"]:
            return
        time.sleep(0.05)
    raise RuntimeError(f"the models were not loaded within {seconds:.0f} s")
