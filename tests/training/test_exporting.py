"""Exporting: version folders that keep the contract, from real tiny runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny import TINY

from app.manifest import digest_files, read_labels, read_manifest, write_manifest
from app.runtime.ort import OrtSession
from app.tasks import TASKS
from training.data import camvid
from training.export import ExportRefused, draft, export, next_version
from training.networks.graphs import Graph, scaled
from training.onnx_file import parity
from training.recipes import RECIPES
from training.run import Run
from training.verify import ScoreDiffers, verify

CONTRACT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "cifar10-classifier": (
        {"image": "uint8 [?,32,32,3]"},
        {"probabilities": "float32 [?,10]", "embedding": "float32 [?,8]", "cam": "float32 [?,4,4]",
         "energy": "float32 [?]"},
    ),
    "cifar10-embedder": ({"image": "uint8 [?,32,32,3]"}, {"embedding": "float32 [?,8]"}),
    "camvid-segmenter": (
        {"image": "uint8 [?,360,480,3]"},
        {"mask": "uint8 [?,360,480]", "confidence": "uint8 [?,360,480]"},
    ),
    "cifar10-autoencoder": (
        {"image": "uint8 [?,32,32,3]"},
        {"reconstruction": "uint8 [?,32,32,3]", "error": "uint8 [?,32,32]", "score": "float32 [?]"},
    ),
    "bsds-denoiser": (
        {"image": "uint8 [?,?,?,3]", "strength": "float32 [?]"}, {"enhanced": "uint8 [?,?,?,3]"},
    ),
    "bsds-upscaler": ({"image": "uint8 [?,?,?,3]"}, {"enhanced": "uint8 [?,?,?,3]"}),
    "cifar10-generator": ({"z": "float32 [?,8]", "class": "int64 [?]"}, {"image": "uint8 [?,32,32,3]"}),
    "bccd-detector": ({"image": "uint8 [?,64,64,3]"}, {"boxes": "float32 [?,100,6]"}),
}  # fmt: skip
"""Inputs and outputs of the tiny graphs: names, dtypes, shapes."""


def open_graph(models: Path, name: str) -> OrtSession:
    newest = max((models / name).glob("[0-9]*"), key=lambda version: int(version.name))
    return OrtSession((newest / "model.onnx").read_bytes(), threads=2)


def tiny_graph(name: str, run: Run, data: Path) -> Graph:
    recipe = RECIPES[name]
    return recipe.graph(recipe.hyper(**run.read()["hyper"]), run.weights(), data)


def some_images(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", TINY)
def test_an_exported_graph_keeps_the_contract_of_its_task(name: str, models: Path) -> None:
    session = open_graph(models, name)
    inputs, outputs = CONTRACT[name]
    assert {spec.name: str(spec).removeprefix(f"{spec.name}: ") for spec in session.inputs} == inputs
    assert {spec.name: str(spec).removeprefix(f"{spec.name}: ") for spec in session.outputs} == outputs


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_an_exported_graph_takes_any_number_of_rows(rows: int, models: Path) -> None:
    outputs = open_graph(models, "cifar10-classifier").run({"image": some_images(rows)})
    assert {len(array) for array in outputs.values()} == {rows}


@pytest.mark.parametrize("name", TINY)
def test_an_exported_file_tells_nothing_of_the_machine_that_wrote_it(name: str, models: Path) -> None:
    content = (models / name / "1" / "model.onnx").read_bytes()
    proto = onnx.load_from_string(content)
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content
    assert not any(tensor.external_data for tensor in proto.graph.initializer)


@pytest.mark.parametrize("name", TINY)
def test_resizes_stay_in_the_blocked_layout(name: str, models: Path) -> None:
    nodes = onnx.load(models / name / "1" / "model.onnx").graph.node
    for node in nodes:
        modes = {attribute.name: attribute.s for attribute in node.attribute}
        if node.op_type == "Resize":
            assert modes["coordinate_transformation_mode"] in (b"half_pixel", b"asymmetric")
            assert len(node.input) == 3, "a sizes input breaks the layout"
        assert node.op_type != "ConvTranspose"


@pytest.mark.parametrize("name", TINY)
def test_a_manifest_has_the_digest_of_every_file_and_the_facts_of_the_run(
    name: str, models: Path, tiny_runs: dict[str, Run], data: Path
) -> None:
    folder = models / name / "1"
    manifest = read_manifest(folder)
    assert manifest.files == digest_files(folder)
    assert {"model.onnx", "README.md"} <= set(manifest.files)
    assert ("labels.txt" in manifest.files) == TASKS[manifest.task].labelled
    assert manifest.training["hyper"] == tiny_runs[name].read()["hyper"]
    assert manifest.training["seed"] == 0
    recipe = RECIPES[name]
    card = recipe.describe(recipe.hyper(**tiny_runs[name].read()["hyper"]), data)
    assert read_labels(folder, read_manifest(folder)) == card.labels
    assert all(value > 0.995 for key, value in manifest.parity.items() if key.endswith("agreement"))


@pytest.mark.parametrize("name", TINY)
def test_a_card_names_score_data_and_commands(name: str, models: Path) -> None:
    card = (models / name / "1" / "README.md").read_text()
    manifest = read_manifest(models / name / "1")
    for word in (*manifest.metrics, str(manifest.data["terms"]), f"imago-train verify models/{name}/1", "Limits"):
        assert word in card


def test_the_class_activation_map_is_the_head_weights_times_the_features(
    models: Path, tiny_runs: dict[str, Run], data: Path
) -> None:
    images = some_images(5)
    network: Any = tiny_graph("cifar10-classifier", tiny_runs["cifar10-classifier"], data).network
    with torch.no_grad():
        maps = network.features(scaled(torch.from_numpy(images)))
        logits = network.head(maps.mean((2, 3)))
        evidence = torch.einsum("nd,ndhw->nhw", network.head.weight[logits.argmax(1)], maps)
    heights = evidence.clamp_min(0)
    expected = heights / heights.amax((1, 2), keepdim=True).clamp_min(1e-6)
    found = open_graph(models, "cifar10-classifier").run({"image": images})["cam"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    # Exact: pooled over the picture, the evidence is the logit without its bias.
    bias = network.head.bias.detach()[logits.argmax(1)]
    torch.testing.assert_close(evidence.mean((1, 2)), logits.amax(1) - bias, atol=1e-4, rtol=1e-4)


def test_embeddings_have_length_one_and_energy_is_minus_logsumexp(
    models: Path, tiny_runs: dict[str, Run], data: Path
) -> None:
    images = some_images(4)
    outputs = open_graph(models, "cifar10-classifier").run({"image": images})
    network: Any = tiny_graph("cifar10-classifier", tiny_runs["cifar10-classifier"], data).network
    with torch.no_grad():
        energy = -torch.logsumexp(network(scaled(torch.from_numpy(images))), 1)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"].astype(np.float64), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(outputs["energy"], energy.numpy(), atol=1e-4)


def test_a_segmenter_is_as_sure_as_its_softmax(models: Path, tiny_runs: dict[str, Run], data: Path) -> None:
    images = camvid.arrays(data, "test")[0]
    outputs = open_graph(models, "camvid-segmenter").run({"image": images})
    graph: Any = tiny_graph("camvid-segmenter", tiny_runs["camvid-segmenter"], data)
    with torch.no_grad():
        sure, mask = torch.softmax(graph.logits(scaled(torch.from_numpy(images))), 1).max(1)
    assert (outputs["mask"] == mask.numpy()).mean() > 0.999
    assert np.abs(outputs["confidence"].astype(int) - (255 * sure).round().int().numpy()).max() <= 1


SHIPPED = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize("source", ["tiny", "shipped"])
def test_a_generated_image_does_not_depend_on_its_neighbours(source: str, models: Path) -> None:
    session = open_graph(models if source == "tiny" else SHIPPED, "cifar10-generator")
    latent = session.inputs[0].shape[1]
    z = np.random.default_rng(3).standard_normal((16, latent or 0), np.float32)
    classes = np.arange(16) % 10
    alone = np.concatenate([session.run({"z": z[i : i + 1], "class": classes[i : i + 1]})["image"] for i in range(16)])
    for size in range(2, 17):
        together = session.run({"z": z[:size], "class": classes[:size]})["image"]
        np.testing.assert_array_equal(together, alone[:size], err_msg=f"batch of {size}")


def test_the_contact_sheet_is_beside_the_generators_card(models: Path) -> None:
    assert (models / "cifar10-generator" / "1" / "samples.png").stat().st_size > 1000
    assert "![samples.png](samples.png)" in (models / "cifar10-generator" / "1" / "README.md").read_text()


@pytest.mark.parametrize("name", TINY)
def test_verify_finds_the_score_of_the_manifest(name: str, models: Path, data: Path) -> None:
    assert verify(models / name / "1", data) == read_manifest(models / name / "1").metrics


def test_verify_fails_where_the_manifest_says_otherwise(tiny_runs: dict[str, Run], data: Path, tmp_path: Path) -> None:
    folder = export(RECIPES["cifar10-classifier"], tiny_runs["cifar10-classifier"], data, tmp_path)
    manifest = read_manifest(folder)
    boasting = {"test_accuracy": manifest.metrics["test_accuracy"] + 0.002}
    write_manifest(folder, manifest.model_copy(update={"metrics": boasting}))
    with pytest.raises(ScoreDiffers, match="test_accuracy is"):
        verify(folder, data)


def test_a_version_that_is_there_is_never_changed(models: Path, tiny_runs: dict[str, Run], data: Path) -> None:
    name = "cifar10-classifier"
    before = digest_files(models / name / "1")
    with pytest.raises(ExportRefused, match="is there already"):
        export(RECIPES[name], tiny_runs[name], data, models, 1)
    assert digest_files(models / name / "1") == before
    assert not [path for path in (models / name).iterdir() if not path.name.isdecimal()]


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with draft(tmp_path / "some-model", 1) as folder:
            (folder / "model.onnx").write_bytes(b"half a graph")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "some-model").iterdir()) == []


def test_the_next_version_follows_the_largest(tmp_path: Path) -> None:
    assert next_version(tmp_path) == 1
    for name in ("2", "10", ".11.tmp-5", "notes"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11


def test_a_name_that_no_model_may_have_is_refused(tiny_runs: dict[str, Run], data: Path, tmp_path: Path) -> None:
    name = "camvid-segmenter"
    with pytest.raises(ExportRefused, match="name: String should match"):
        export(RECIPES[name], tiny_runs[name], data, tmp_path / "models", name="my model")
    assert not (tmp_path / "models").exists()


def test_a_run_of_another_recipe_is_refused(tiny_runs: dict[str, Run], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="is a run of camvid-segmenter"):
        export(RECIPES["cifar10-classifier"], tiny_runs["camvid-segmenter"], data, tmp_path)


def test_a_recipe_without_a_training_of_its_own_exports_from_anothers_run(
    tiny_runs: dict[str, Run], models: Path, data: Path
) -> None:
    folder = export(RECIPES["cifar10-vae-generator"], tiny_runs["cifar10-autoencoder"], data, models)
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.task) == ("cifar10-vae-generator", "generate")
    assert read_labels(folder, manifest) == ("picture",)
    assert verify(folder, data) == manifest.metrics
    assert "export cifar10-vae-generator --run runs/cifar10-autoencoder" in str(manifest.training["export"])


def test_a_classifiers_run_is_exported_as_an_embedder_that_does_not_tell_a_picture_from_its_mirror_image(
    tiny_runs: dict[str, Run], data: Path, tmp_path: Path
) -> None:
    folder = export(RECIPES["cifar10-embedder"], tiny_runs["cifar10-classifier"], data, tmp_path)
    manifest = read_manifest(folder)
    assert manifest.training["recipe"] == "cifar10-embedder"
    assert "--run runs/cifar10-classifier " in str(manifest.training["export"])
    assert verify(folder, data) == manifest.metrics
    images = some_images(4)
    session = OrtSession((folder / "model.onnx").read_bytes())
    found, mirrored = (session.run({"image": each})["embedding"] for each in (images, images[:, :, ::-1].copy()))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, mirrored, atol=1e-5)
    assert np.abs(found - found[0])[1:].max() > 0.01


def test_parity_counts_what_differs() -> None:
    found = parity({"mask": np.array([1, 2, 3, 4], np.uint8)}, {"mask": np.array([1, 2, 3, 9], np.uint8)})
    assert found == {"mask_max_abs_diff": 5, "mask_agreement": 0.75}


def test_parity_of_boxes_does_not_depend_on_their_order() -> None:
    ours = np.array([[[0, 0, 9, 9, 0.9, 1], [5, 5, 9, 9, 0.8, 0], [0, 0, 1, 1, 0, 0]]], np.float32)
    theirs = ours[:, ::-1].copy()
    assert parity({"boxes": ours}, {"boxes": theirs}) == {"boxes_agreement": 1}
    for column, value in ((0, 5.6), (4, 0.79), (5, 2)):
        other = theirs.copy()
        other[0, 1, column] = value
        assert parity({"boxes": ours}, {"boxes": other}) == {"boxes_agreement": 0.5}


def test_a_manifest_is_plain_json_without_paths_of_this_machine(models: Path, data: Path) -> None:
    for name in TINY:
        text = (models / name / "1" / "manifest.json").read_text()
        json.loads(text)
        assert str(data) not in text
        assert str(models) not in text
