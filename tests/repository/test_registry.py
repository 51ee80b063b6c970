"""`Registry` loads what it can, says why it cannot load the rest, and answers who serves."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from app.errors import ModelNotFound, NotReady, WrongTask
from app.imaging.codec import Decoder
from app.repository.registry import Registry
from app.servable import Resources, open_servable
from app.telemetry.metrics import Metrics
from tests.make_models import make_classifier, make_denoiser, make_generator, make_segmenter


def with_registry(
    root: Path, check: Callable[[Registry], Awaitable[None] | None], defaults: dict[str, str] | None = None
) -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            metrics = Metrics()
            opener = partial(open_servable, resources=Resources(Decoder(), pool, metrics, threads=1))
            registry = Registry(root, opener, defaults or {}, metrics.models_loaded.set)
            await registry.load_all()
            try:
                outcome = check(registry)
                if outcome is not None:
                    await outcome
            finally:
                await registry.close()

    asyncio.run(scenario())


def test_each_task_finds_its_model(tmp_path: Path) -> None:
    for make in (make_classifier, make_segmenter, make_generator):
        make(tmp_path)

    def check(registry: Registry) -> None:
        assert [registry.get(kind).task.kind for kind in ("classify", "segment", "generate")] == [
            "classify", "segment", "generate",
        ]  # fmt: skip

    with_registry(tmp_path, check)


def test_without_a_name_the_first_model_by_name_answers(tmp_path: Path) -> None:
    make_classifier(tmp_path, name="beta")
    make_classifier(tmp_path, name="alpha")
    with_registry(tmp_path, lambda registry: _named(registry, "alpha"))


def test_the_operator_s_default_answers_instead(tmp_path: Path) -> None:
    make_classifier(tmp_path, name="beta")
    make_classifier(tmp_path, name="alpha")
    with_registry(tmp_path, lambda registry: _named(registry, "beta"), {"classify": "beta"})


@pytest.mark.parametrize(("name", "told"), [("seg", "of another task"), ("nobody", "not below")])
def test_a_default_that_cannot_answer_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, told: str
) -> None:
    make_segmenter(tmp_path, name="seg")
    with_registry(tmp_path, lambda _: None, {"classify": name})
    assert [told in record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [True]


def test_the_quickest_models_are_loaded_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_denoiser(tmp_path, name="a-large-tile", side=128)
    make_segmenter(tmp_path, name="b-small-picture")
    caplog.set_level(logging.INFO, "imago.repository")
    with_registry(tmp_path, lambda _: None)
    assert [record.getMessage() for record in caplog.records] == [
        "b-small-picture/1 is ready",
        "a-large-tile/1 is ready",
    ]


def test_a_default_that_is_not_there_is_not_found_though_another_model_could_answer(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    def check(registry: Registry) -> None:
        with pytest.raises(ModelNotFound, match="'gone'"):
            registry.get("classify")

    with_registry(tmp_path, check, {"classify": "gone"})


def _named(registry: Registry, name: str) -> None:
    assert registry.get("classify").manifest.name == name
    default = registry.default("classify")
    assert default is not None
    assert default.manifest.name == name


def test_the_newest_version_answers_and_older_ones_by_number(tmp_path: Path) -> None:
    for version in (1, 2):
        make_classifier(tmp_path, version=version)
    (tmp_path / "tiny-classifier" / "serving.toml").write_text('versions = "all"\n')

    def check(registry: Registry) -> None:
        assert registry.get("classify", "tiny-classifier").manifest.version == 2
        assert registry.get("classify", "tiny-classifier", 1).manifest.version == 1
        assert registry.get("classify", None, 1).manifest.version == 1

    with_registry(tmp_path, check)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    def check(registry: Registry) -> None:
        for name, version in (("nobody", None), ("tiny-classifier", 9)):
            with pytest.raises(ModelNotFound):
                registry.get("classify", name, version)
        with pytest.raises(ModelNotFound):
            registry.get("segment")

    with_registry(tmp_path, check)


def test_a_model_of_another_task_says_which(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    def check(registry: Registry) -> None:
        with pytest.raises(WrongTask, match="is for the task 'classify'"):
            registry.get("segment", "tiny-classifier")

    with_registry(tmp_path, check)


def test_before_loading_ended_nobody_answers_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            opener = partial(open_servable, resources=Resources(Decoder(), pool, Metrics()))
            registry = Registry(tmp_path, opener, {}, lambda _: None)
            with pytest.raises(NotReady, match="being loaded"):
                registry.get("classify")

    asyncio.run(scenario())


def damage_graph(version: Path) -> None:
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes()[:-10])


def damage_labels(version: Path) -> None:
    (version / "labels.txt").write_text("forged\n")


def damage_manifest(version: Path) -> None:
    (version / "manifest.json").write_text("{")


def rename_model(version: Path) -> None:
    path = version / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "somebody-else"}))


def unknown_task(version: Path) -> None:
    path = version / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task": "juggle"}))


def remove_graph(version: Path) -> None:
    (version / "model.onnx").unlink()


UNREADABLE = (damage_manifest, rename_model, unknown_task)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_graph, "is not the file that was exported"),
        (damage_labels, "labels.txt is not the file that was exported"),
        (damage_manifest, "is not JSON"),
        (rename_model, "holds the manifest of somebody-else/1"),
        (unknown_task, "Task 'juggle' is unknown"),
        (remove_graph, "model.onnx cannot be read"),
    ],
)
def test_a_damaged_version_is_kept_with_its_reason_and_the_others_serve(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    make_segmenter(tmp_path)
    damage(make_classifier(tmp_path))

    def check(registry: Registry) -> None:
        broken, whole = registry.entries()
        assert (broken.state, whole.state) == ("failed", "ready")
        assert sentence in broken.reason
        assert str(tmp_path) not in broken.reason
        for name in ("tiny-classifier", None):
            with pytest.raises((NotReady, ModelNotFound)) as refused:
                registry.get("classify", name)
            # A version whose manifest cannot be read may be for any task.
            assert isinstance(refused.value, NotReady) or (name is None and damage in UNREADABLE)

    with_registry(tmp_path, check)


def test_loaded_models_are_counted(tmp_path: Path) -> None:
    make_segmenter(tmp_path)
    damage_graph(make_classifier(tmp_path))
    metrics = Metrics()

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as pool:
            opener = partial(open_servable, resources=Resources(Decoder(), pool, metrics, threads=1))
            registry = Registry(tmp_path, opener, {}, metrics.models_loaded.set)
            await registry.load_all()
            assert metrics.registry.get_sample_value("imago_models_loaded") == 1
            await registry.close()
            assert metrics.registry.get_sample_value("imago_models_loaded") == 0

    asyncio.run(scenario())


def test_a_registry_says_its_state(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    def check(registry: Registry) -> None:
        assert repr(registry) == f"<Registry {tmp_path.name}: tiny-classifier/1 ready>"

    with_registry(tmp_path, check)


def test_labels_that_the_manifest_does_not_list_are_not_trusted(tmp_path: Path) -> None:
    path = make_classifier(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["labels.txt"]
    path.write_text(json.dumps(manifest))

    def check(registry: Registry) -> None:
        assert "labels.txt is not listed" in registry.entries()[0].reason

    with_registry(tmp_path, check)
