"""The README names every setting, route, metric, error code and make target that exists, and none that does not."""

import re
from pathlib import Path

import pytest

from app.api.access import SCOPE_OF
from app.errors import ImagoError
from app.main import create_app
from app.settings import PREFIX, Settings
from app.telemetry.metrics import Metrics
from training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUOTED = set(re.findall(r"`([^`\n]+)`", README))


def leaves(error: type[ImagoError]) -> set[type[ImagoError]]:
    below = error.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {error}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(title: str) -> set[str]:
    """The first cells, in backquotes, of the tables of a section."""
    return {cell for line in section(title).splitlines() for cell in re.findall(r"^\| `([^`]+)`", line)}


def routes() -> set[str]:
    paths = create_app(Settings(device="cpu")).openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def metric_names() -> set[str]:
    return {metric.name for metric in Metrics().registry.collect() if metric.name.startswith("imago_")}


def test_every_setting_is_in_the_table_of_settings_and_no_other() -> None:
    assert first_cells("Settings") == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_shows_the_default_of_a_setting(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = ",".join(default) if isinstance(default, tuple) else "" if default in ({}, None) else str(default)
    row = next(line for line in section("Settings").splitlines() if f"`{PREFIX}{name.upper()}`" in line)
    assert f"| `{shown.lower() if isinstance(default, bool) else shown}` |" in row or (not shown and "| none |" in row)


def test_every_route_is_in_the_table_of_routes_and_no_other() -> None:
    assert first_cells("Routes") - {"GET /", "GET /docs", "GET /openapi.json"} == routes()


def test_the_table_of_routes_shows_the_scope_that_each_one_has() -> None:
    shown = dict(re.findall(r"^\| `[A-Z]+ (\S+)` \| `?(\w+)`? \|", section("Routes"), flags=re.MULTILINE))
    assert shown == {path: scope for path, scope in SCOPE_OF.items() if path != "/static/{name:path}"}


def test_every_metric_is_in_the_table_of_metrics_and_no_other() -> None:
    documented = {name.removesuffix("_total") for name in first_cells("Metrics") if name.startswith("imago_")}
    assert documented == metric_names()


def test_every_error_code_is_in_the_table_of_errors_and_no_other() -> None:
    assert first_cells("Errors") == {error.code for error in leaves(ImagoError)}


def test_every_make_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README)) <= targets


def test_every_recipe_is_named() -> None:
    assert set(RECIPES) <= QUOTED


def promises() -> list[list[str]]:
    """The rows of the table of promises: what is promised, the tests that prove it, and a figure."""
    lines = [line for line in section("Promises").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_promise_names_tests_that_exist() -> None:
    for promise, proof, *_ in promises():
        named = re.findall(r"`(tests/\S+?\.py)(?:::(\w+))?`", proof)
        assert named, promise
        for path, test in named:
            text = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {test or 'test_'}", text, flags=re.MULTILINE), (path, test)


def test_every_figure_of_a_promise_names_the_command_that_prints_it() -> None:
    for promise, _, figure in promises():
        for module in re.findall(r"`(benchmarks\.\w+)", figure):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), promise
        assert "`benchmarks." in figure or not re.search(r"\d", figure), promise


def test_every_file_of_the_tree_in_the_readme_exists() -> None:
    tree = section("Files").split("```")[1]
    folder, missing = ROOT, []
    for line in tree.splitlines():
        if not (match := re.match(r"^( *)([\w./-]+)", line)):
            continue
        indent, name = len(match[1]), match[2]
        if indent == 0:
            folder = ROOT / name
        path = folder if indent == 0 else folder / name
        if not path.exists():
            missing.append(str(path.relative_to(ROOT)))
    assert not missing
