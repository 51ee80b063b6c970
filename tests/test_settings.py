"""Settings come from flags and `IMAGO_*`, and what is unknown is refused by name."""

from pathlib import Path

import pytest

from app.errors import InvalidSettings
from app.main import worker_count
from app.runtime.cores import usable_cores
from app.settings import FORMATS, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMAGO_PORT", "IMAGO_WORKERS", "IMAGO_FORMATS", "IMAGO_DEFAULT_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_a_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_PORT", "8199")
    assert load_settings({}).port == 8199


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_PORT", "8199")
    assert load_settings({"port": "8300"}).port == 8300


def test_an_unknown_variable_is_refused_and_the_nearest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_PROT", "1")
    with pytest.raises(InvalidSettings, match="IMAGO_PROT in the environment is unknown; did you mean 'IMAGO_PORT'"):
        load_settings({})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"port": "x"}, "port: Input should be a valid integer"),
        ({"port": "70000"}, "port: Input should be less than or equal to 65535"),
        ({"workers": "65"}, "workers: Input should be less than or equal to 64"),
        ({"workers": "-1"}, "workers: Input should be greater than or equal to 0"),
        ({"workers": "many"}, "workers: Input should be a valid integer"),
        ({"workers": ""}, "workers: Input should be a valid integer"),
        ({"workers": "1.5"}, "workers: Input should be a valid integer"),
        ({"device": "gpu"}, "device: Input should be 'auto', 'cpu' or 'cuda'"),
        ({"formats": "png,jpg"}, "formats: 'jpg' is no format; did you mean 'jpeg'"),
        ({"default_models": "classify"}, "default_models: write task=model"),
        ({"max_pixels": "100000000"}, "max_pixels: Input should be less than or equal to 89478485"),
        ({"jobs_keep_seconds": "1e12"}, "jobs_keep_seconds: Input should be less than or equal to"),
        ({"jobs_keep_seconds": "inf"}, "jobs_keep_seconds: Input should be less than or equal to"),
        ({"prot": "1"}, "'prot' is unknown; did you mean 'port'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_setting(flags: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidSettings, match=sentence):
        load_settings(flags)


def test_lists_are_separated_by_commas() -> None:
    settings = load_settings({"formats": "png, GIF", "default_models": "classify=a, segment=b"})
    assert settings.formats == ("png", "gif")
    assert settings.default_models == {"classify": "a", "segment": "b"}


@pytest.mark.parametrize(("given", "workers"), [("auto", 0), ("0", 0), ("1", 1), ("64", 64)])
def test_workers_are_a_number_or_chosen_here(monkeypatch: pytest.MonkeyPatch, given: str, workers: int) -> None:
    assert load_settings({"workers": given}).workers == workers
    monkeypatch.setenv("IMAGO_WORKERS", given)
    assert load_settings({}).workers == workers


def test_one_worker_a_core_is_what_is_chosen_here() -> None:
    assert load_settings({}).workers == 0
    assert worker_count(load_settings({})) == min(usable_cores(), 16)
    assert worker_count(load_settings({"workers": "3"})) == 3


def test_all_formats_can_be_switched_on() -> None:
    assert load_settings({"formats": ",".join(FORMATS)}).formats == FORMATS


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}).port = 1


@pytest.mark.parametrize(
    ("base", "chosen", "cache"),
    [("/var/cache/me", None, "/var/cache/me/imago"), ("", None, "~/.cache/imago"), ("here", None, "~/.cache/imago"),
     ("/var/cache/me", "/tmp/plans", "/tmp/plans"), ("/var/cache/me", "", None)],
)  # fmt: skip
def test_what_was_measured_lies_where_the_user_s_caches_do(
    monkeypatch: pytest.MonkeyPatch, base: str, chosen: str | None, cache: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.delenv("IMAGO_CACHE", raising=False)
    settings = Settings(**({} if chosen is None else {"cache": chosen}))  # type: ignore[arg-type]
    assert settings.cache == (None if cache is None else Path(cache))
