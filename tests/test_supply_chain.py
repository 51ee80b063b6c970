"""What is installed is what was locked: floors for known holes, a digest for each file, and nobody names a registry."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("build", "cpu", "gpu")
PYTHONS = ("3.11", "3.12", "3.13")
FLOORS = {
    "starlette": "1.3.1", "python-multipart": "0.0.31", "h11": "0.16", "pillow": "13.0", "onnx": "1.22",
    "onnxruntime": "1.30.1", "onnxruntime-gpu": "1.30.1", "ray": "2.54",
}  # fmt: skip
"""Older ones have known vulnerabilities that reach what is used here."""
EXACTLY = {"torch": "2.13.0", "lightning": "2.6.6"}
"""Of lightning other versions were malicious."""


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def locked(name: str) -> dict[str, list[Requirement]]:
    """The requirements of a lock by their name; one of them for each Python that wants another version."""
    found: dict[str, list[Requirement]] = {}
    for line in lock(name).splitlines():
        if line and line[0] not in " #":
            requirement = Requirement(line.removesuffix("\\").strip())
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def versions(requirements: list[Requirement]) -> list[Version]:
    return [Version(pin.version) for requirement in requirements for pin in requirement.specifier]


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(line) for group in (PROJECT["project"]["dependencies"], *extras) for line in group]


def serving(extra: str) -> list[Requirement]:
    project = PROJECT["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_no_version_with_a_known_hole_may_be_installed(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    least = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")]
    if name in FLOORS:
        assert max(least) >= Version(FLOORS[name])
    if name in EXACTLY:
        assert str(requirement.specifier) == f"=={EXACTLY[name]}"


def test_every_floor_is_asked_for_by_somebody() -> None:
    named = {canonicalize_name(requirement.name) for requirement in declared()}
    peers = (ROOT / "benchmarks/peers/ray/requirements.txt").read_text(encoding="utf-8")
    (ray,) = (Requirement(line) for line in peers.splitlines() if line.startswith("ray"))
    assert versions([ray]) >= [Version(FLOORS["ray"])]
    assert FLOORS.keys() | EXACTLY.keys() <= named | {"ray"}


@pytest.mark.parametrize("name", [*LOCKS, "constraints"])
def test_no_locked_version_has_a_known_hole(name: str) -> None:
    found = locked(name)
    for library, floor in FLOORS.items():
        assert all(version >= Version(floor) for version in versions(found.get(library, []))), library
    for library, version in EXACTLY.items():
        assert versions(found.get(library, [])) in ([], [Version(version)])


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_lock_holds_what_the_project_asks_for_on_every_python(extra: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found = locked(extra)
    for requirement in serving(extra):
        pins = [
            pin for pin in found[canonicalize_name(requirement.name)]
            if pin.marker is None or pin.marker.evaluate({**environment, "extra": ""})
        ]  # fmt: skip
        (version,) = versions(pins)
        assert version in requirement.specifier, "pyproject.toml changed: make lock"


def test_wheels_are_built_with_what_the_project_asks_for() -> None:
    (asked,) = (Requirement(line) for line in PROJECT["build-system"]["requires"])
    (version,) = versions(locked("build")["setuptools"])
    assert version in asked.specifier
    assert f"echo '{asked}'" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_file_has_its_digest(name: str) -> None:
    entries = re.split(r"\n(?=[a-z])", re.sub(r"^ *#.*\n", "", lock(name), flags=re.M))
    assert len(entries) == sum(map(len, locked(name).values()))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]


@pytest.mark.parametrize("name", [*LOCKS, "constraints"])
def test_a_lock_names_no_registry(name: str) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", lock(name))


def test_nothing_that_serves_is_installed_without_its_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", dockerfile)
    assert len(installs) == 3
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    assert "requirements/${RUNTIME}.txt" in dockerfile
    recipe = makefile.split("$(VENV)/.$(RUNTIME): ")[1].split("\n\n")[0]
    assert "--require-hashes --requirement $<" in recipe
    assert all(flag in recipe for flag in ("--no-deps", "--no-build-isolation"))


def _audit(folder: Path, answers: str) -> "subprocess.CompletedProcess[str]":
    """Run the audit with something else in the place of pip-audit."""
    stand_in = folder / "pip-audit"
    stand_in.write_text(f"#!/bin/sh\n{answers}\n")
    stand_in.chmod(0o755)
    command = [str(ROOT / ".ci" / "audit"), str(stand_in), "requirements/cpu.txt"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30, env=os.environ)


KNOWS = 'case "$*" in *no-deps*) echo "jinja2 2.4.1 PYSEC-2014-8"; exit 1;; esac\n'


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ("echo 'No known vulnerabilities found'", 3, "NOTHING WAS CHECKED"),
        ("echo ConnectionError; exit 1", 3, "NOTHING WAS CHECKED"),
        (KNOWS, 0, "asked of pypi"),
        (KNOWS + "echo pillow; exit 1", 1, "asked of pypi"),
        ('case "$*" in *pypi*) exit 1;; esac\n' + KNOWS, 0, "asked of osv"),
    ],
    ids=["a mirror that knows nothing", "no network", "sound", "vulnerable", "the second service"],
)
def test_an_audit_that_could_not_ask_does_not_look_like_a_good_one(
    tmp_path: Path, answers: str, status: int, words: str
) -> None:
    ran = _audit(tmp_path, answers)
    assert ran.returncode == status
    assert words in ran.stdout + ran.stderr
