"""Closed-loop load by wrk: a number of clients, each of which sends its next request when the last was answered.

wrk keeps within a few percent of a core where a client in Python would take as much as the server.
"""

import json
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.forms import Request

_SCRIPT = """
wrk.method = "POST"
local file = io.open(%(body)s, "rb")
wrk.body = file:read("*a")
file:close()
%(headers)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'SUMMARY {"answers": %%d, "microseconds": %%d, "refused": %%d, "broken": %%d, "p50": %%.1f, "p99": %%.1f}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class WrkFailed(Exception):
    """wrk is not installed, or said nothing that can be read."""


@dataclass(frozen=True)
class Load:
    """What one load came to. Only answers with status 2xx or 3xx count for `rate`."""

    rate: float
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers with another status."""
    broken: int
    """Connections that failed, were cut, or timed out."""
    client_cpu: float
    """Cores that wrk kept busy."""


def require_wrk() -> None:
    """Raise `WrkFailed` where there is no wrk."""
    if shutil.which("wrk") is None:
        raise WrkFailed("wrk drives the load and is not installed: apt-get install wrk (or brew install wrk).")


def drive(url: str, request: Request, clients: int, seconds: float) -> Load:
    """Load a server for some seconds (wrk takes whole ones) from `clients` connections.

    Raises:
        WrkFailed: wrk printed no summary.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, lua = Path(folder) / "body", Path(folder) / "load.lua"
        body.write_bytes(request.body)
        lua.write_text(script(body, request.headers))
        length = f"-d{max(1, round(seconds))}s"
        command = ["wrk", "-t1", f"-c{clients}", length, "--timeout", "30s", "-s", str(lua), url + request.path]
        before = _children_cpu()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = _children_cpu() - before
    return parse(ended.stdout + ended.stderr, spent)


def script(body: Path, headers: Mapping[str, str]) -> str:
    """The Lua script that gives wrk its request."""
    lines = (f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    return _SCRIPT % {"body": json.dumps(str(body)), "headers": "\n".join(lines)}


def parse(printed: str, client_seconds: float) -> Load:
    """Read what the script printed; `client_seconds` is the CPU time that wrk used."""
    found = re.search(r"^SUMMARY (\{.*\})$", printed, re.MULTILINE)
    if found is None:
        raise WrkFailed(f"wrk printed no summary: {printed.strip()[-300:]}")
    summary = json.loads(found[1])
    seconds = summary["microseconds"] / 1e6
    return Load(
        rate=(summary["answers"] - summary["refused"]) / seconds,
        seconds=seconds,
        p50_ms=summary["p50"] / 1000,
        p99_ms=summary["p99"] / 1000,
        refused=summary["refused"],
        broken=summary["broken"],
        client_cpu=client_seconds / seconds,
    )


def _children_cpu() -> float:
    """CPU seconds of the children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
