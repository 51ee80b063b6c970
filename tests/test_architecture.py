"""The directions of section "layers" in the README: who may import whom, and where each large library lives."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {"errors", "tensors", "manifest", "serving"}
MAY_IMPORT = {
    "errors": set(),
    "tensors": {"errors"},
    "manifest": {"errors"},
    "serving": {"errors", "manifest"},
    "settings": {"errors", "manifest"},
    "imaging": FLOOR,
    "telemetry": FLOOR,
    "tasks": FLOOR | {"imaging"},
    "scheduling": FLOOR | {"telemetry"},
    "runtime": FLOOR,
    "security": {"errors", "manifest"},
    "servable": FLOOR | {"imaging", "telemetry", "tasks", "scheduling", "runtime", "mending", "signature"},
    "mending": {"scheduling", "runtime"},
    "galleries": {"errors", "manifest"},
    "repository": FLOOR | {"tasks", "servable"},
    "processes": FLOOR | {"telemetry", "security", "scheduling", "runtime", "servable", "repository"},
    "api": FLOOR
    | {"settings", "imaging", "telemetry", "tasks", "scheduling", "servable", "repository", "security", "galleries"}
    | {"jobs"},
    "wire": {"errors", "api", "drain"},
    "server": {"errors", "settings", "processes", "wire", "drain"},
    "rpc": FLOOR | {"settings", "api", "security", "telemetry", "repository"},
    "flags": {"settings"},
    "drain": set(),
    "signature": {"errors"},
    "client": set(),
    "batch": FLOOR
    | {"settings", "telemetry", "tasks", "scheduling", "runtime", "servable", "repository", "processes", "client"},
    "jobs": FLOOR | {"batch", "scheduling", "servable", "repository", "tasks", "telemetry"},
    "commands": {"errors", "manifest", "security", "settings", "flags", "tasks", "client", "batch"},
}
JOINS = {"main", "__main__", "__init__"}
TRAINING_MAY_IMPORT = FLOOR | {"tasks", "runtime", "imaging"}
HOME = {
    "fastapi": {"api", "main", "server"},
    "starlette": {"api", "main"},
    "uvicorn": {"server", "wire"},
    "onnxruntime": {"runtime"},
    "PIL": {"imaging"},
    "prometheus_client": {"telemetry"},
    "grpc": {"rpc"},
    "google": {"rpc"},
    "typer": {"__main__", "flags", "commands"},
    "rich": {"__main__", "commands"},
    "httpx": {"client"},
    "pyarrow": {"batch"},
    "faiss": {"galleries"},
    "sqlite3": {"galleries", "jobs"},
    "torch": set(),
    "training": set(),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "app" else str(node.module) for alias in node.names
            }
    return found


def parts_of_app(modules: set[str]) -> set[str]:
    return {module.split(".")[1] for module in modules if module.startswith("app.")}


def unit(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


APP = sorted((ROOT / "app").rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))


@pytest.mark.parametrize("path", APP, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_app_imports_only_layers_below_it(path: Path) -> None:
    layer = unit(path, ROOT / "app")
    if layer in JOINS:
        return
    above = parts_of_app(imports(path)) - MAY_IMPORT[layer] - {layer, "__version__"}
    assert not above, f"{layer} may not import {above}"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: str(path.relative_to(ROOT)))
def test_training_imports_only_what_it_shares_with_serving(path: Path) -> None:
    assert not parts_of_app(imports(path)) - TRAINING_MAY_IMPORT


@pytest.mark.parametrize("path", APP, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_large_library_is_imported_in_its_home_only(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)} & HOME.keys()
    strangers = {library for library in used if unit(path, ROOT / "app") not in HOME[library]}
    assert not strangers


def test_every_layer_of_the_table_exists_and_every_unit_is_in_the_table() -> None:
    assert {unit(path, ROOT / "app") for path in APP} == set(MAY_IMPORT) | JOINS
