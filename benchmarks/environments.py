"""One virtual environment for each peer, from the versions that `benchmarks/peers/NAME/requirements.txt` pins.

An environment that is there is used as it is; one whose requirements have changed since it was built here is built
again. imago has one, too, of what it depends on: to weigh it, since it runs from the environment of the benchmark.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.work import ROOT, Work

IMAGO = "imago"

_STAMP = "built-from.txt"
_PYTHON_OF_DEBIAN = Path("/usr/bin/python3.11")
_PEERS = ROOT / "benchmarks" / "peers"


class EnvironmentFailed(Exception):
    """An environment cannot be built; the sentence says where its log is."""


def environment(name: str, folder: Path, work: Work) -> Path:
    """The environment of a peer (or of imago) below a folder, built where it is missing.

    Raises:
        EnvironmentFailed: pip ended with an error.
    """
    home, wanted = folder / name, _requirements(name)
    stamp = home / _STAMP
    if (home / "bin" / "python").exists() and (not stamp.exists() or stamp.read_text() == "\n".join(wanted)):
        return home
    print(f"building the environment of {name}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    log = work.folder("logs") / f"environment-{name}.log"
    with log.open("w") as output:
        for command in _build(name, home, wanted):
            if subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                shutil.rmtree(home, ignore_errors=True)
                raise EnvironmentFailed(f"the environment cannot be built: see {log.relative_to(ROOT)}")
    stamp.write_text("\n".join(wanted))
    return home


def megabytes(home: Path) -> int:
    """What an environment takes on disk, as `du` counts."""
    blocks = sum(path.lstat().st_blocks for path in home.rglob("*"))
    return round(blocks * 512 / 2**20)


def versions(home: Path) -> dict[str, str]:
    """The version of each pinned package that lies in an environment."""
    packages = [str(path) for path in home.glob("lib/python3*/site-packages")]
    found = {_normal(each.metadata["Name"]): each.version for each in metadata.distributions(path=packages)}
    names = [_normal(re.split(r"[\[=<>;]", line)[0]) for line in _requirements(home.name)]
    return {name: found[name] for name in names if name in found}


def _requirements(name: str) -> list[str]:
    if name == IMAGO:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    lines = (_PEERS / name / "requirements.txt").read_text().splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def _build(name: str, home: Path, wanted: Sequence[str]) -> list[list[str]]:
    # PyTriton brings a Python stub that dies in 3.11.7 and later ("RLock has no attribute '_recursion_count'").
    old = name == "pytriton" and _PYTHON_OF_DEBIAN.exists()
    python = str(_PYTHON_OF_DEBIAN) if old else sys.executable
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    return [[python, "-m", "venv", str(home)], [*pip, *wanted]]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
