"""What a version must have for its task, and the sentence that says what it lacks."""

from typing import Any

import numpy as np
import pytest

from app.errors import EmptyBody, InvalidModel
from app.manifest import Manifest
from app.tasks import TASKS, Graph, Task, build_task
from app.tasks.base import FittedTask
from app.tensors import TensorSpec
from tests.tasks.asked import Asked


def spec(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), (None, *shape))


IMAGE = spec("image", "uint8", 8, 8, 3)
Z, CLASS = spec("z", "float32", 4), spec("class", "int64")
PROBABILITIES, CAM = spec("probabilities", "float32", 2), spec("cam", "float32", 4, 4)
BOXES = spec("boxes", "float32", 5, 6)
EMBEDDING = spec("embedding", "float32", 16)
MASK, CONFIDENCE = spec("mask", "uint8", 8, 8), spec("confidence", "uint8", 8, 8)
SOUND = {
    "classify": ((IMAGE,), (PROBABILITIES, CAM)),
    "segment": ((IMAGE,), (MASK, CONFIDENCE)),
    "detect": ((IMAGE,), (BOXES,)),
    "enhance": ((spec("image", "uint8", None, None, 3),), (spec("enhanced", "uint8", None, None, 3),)),
    "reconstruct": (
        (IMAGE,),
        (spec("reconstruction", "uint8", 8, 8, 3), spec("error", "uint8", 8, 8), spec("score", "float32")),
    ),
    "embed": ((IMAGE,), (EMBEDDING,)),
    "generate": ((Z, CLASS), (IMAGE,)),
}
FITTED = sorted(kind for kind, task in TASKS.items() if issubclass(task, FittedTask))
LABELLED = sorted(kind for kind, task in TASKS.items() if task.labelled)


def build(task: str, inputs: Any = None, outputs: Any = None, labels: Any = ("a", "b"), **more: Any) -> Task[Any]:
    """A task of a sound model with some parts replaced."""
    sound = SOUND.get(task, ((), ()))
    values: dict[str, Any] = {
        "name": "m", "version": 1, "task": task, "description": "d", "licence": "l", "files": {}, "created": "c",
        "image": {"width": 8, "height": 8}, "tiling": {"side": 16, "overlap": 2}, **more,
    }  # fmt: skip
    graph = Graph(sound[0] if inputs is None else inputs, sound[1] if outputs is None else outputs)
    return build_task(Manifest.model_validate(values), labels, graph)


@pytest.mark.parametrize("task", TASKS)
def test_a_sound_model_is_built(task: str) -> None:
    assert build(task).kind == task


@pytest.mark.parametrize("task", TASKS)
def test_a_graph_may_leave_its_axes_open(task: str) -> None:
    inputs, outputs = SOUND[task]
    opened = [tuple(TensorSpec(s.name, s.dtype, (None,) * len(s.shape)) for s in side) for side in (inputs, outputs)]
    if task == "generate":
        opened[0] = inputs
    assert build(task, *opened).kind == task


def test_a_task_that_is_unknown_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(InvalidModel, match=f"'clasify' is unknown here; known are {', '.join(sorted(TASKS))}"):
        build("clasify")


@pytest.mark.parametrize("task", LABELLED)
def test_a_model_whose_answers_name_labels_needs_them(task: str) -> None:
    with pytest.raises(InvalidModel, match=f"A {task} model needs labels.txt, one label a line"):
        build(task, labels=())


@pytest.mark.parametrize("task", FITTED)
def test_a_model_of_pictures_says_how_large_it_takes_them(task: str) -> None:
    with pytest.raises(InvalidModel, match="needs 'image': the size that its graph takes"):
        build(task, image=None)


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (spec("picture", "uint8", 8, 8, 3),),
        (spec("image", "float32", 8, 8, 3),),
        (spec("image", "uint8", 8, 8),),
        (IMAGE, spec("mask", "uint8", 8, 8)),
    ],
)
def test_other_inputs_than_the_task_feeds_are_refused(inputs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(
        InvalidModel, match=r"The inputs of a classify graph are image: uint8 \[N,H,W,C\]; this one has "
    ):
        build("classify", inputs)


@pytest.mark.parametrize(
    ("task", "outputs", "wanted"),
    [
        (
            "classify",
            (CAM,),
            r"probabilities: float32 \[N,C\] and perhaps cam: .* energy: float32 \[N\]; this one has cam",
        ),
        ("classify", (PROBABILITIES, spec("cam", "uint8", 4, 4)), r"this one has .*cam: uint8 \[\?,4,4\]"),
        ("classify", (PROBABILITIES, spec("cam", "float32", 4)), r"this one has .*cam: float32 \[\?,4\]"),
        ("classify", (spec("probabilities", "float64", 2), CAM), r"this one has probabilities: float64 \[\?,2\]"),
        ("classify", (spec("probabilities", "float32", 2, 1), CAM), r"this one has probabilities: float32 \[\?,2,1\]"),
        ("segment", (spec("mask", "int64", 8, 8), CONFIDENCE), "this one has mask: int64"),
        ("segment", (), "this one has none"),
        ("detect", (spec("boxes", "float16", 5, 6),), "this one has boxes: float16"),
        ("detect", (spec("boxes", "float32", 6),), r"this one has boxes: float32 \[\?,6\]"),
        ("embed", (spec("embedding", "float32", 4, 4),), r"this one has embedding: float32 \[\?,4,4\]"),
        ("generate", (spec("image", "float32", 8, 8, 3),), "this one has image: float32"),
        ("generate", (spec("image", "uint8", 8, 8),), "this one has image: uint8"),
    ],
)
def test_other_outputs_than_the_task_reads_are_refused(task: str, outputs: Any, wanted: str) -> None:
    with pytest.raises(InvalidModel, match=wanted):
        build(task, outputs=outputs)


def test_a_classifier_may_lack_heat_maps() -> None:
    assert build("classify", outputs=(PROBABILITIES,)).kind == "classify"


def test_outputs_for_other_uses_do_no_harm() -> None:
    assert build("classify", outputs=(PROBABILITIES, CAM, spec("embedding", "float32", 64))).labels == ("a", "b")


@pytest.mark.parametrize(
    "image", [{"width": 16, "height": 8}, {"width": 8, "height": 9}, {"width": 8, "height": 8, "channels": 1}]
)
def test_a_graph_of_another_size_than_the_manifest_says_is_refused(image: dict[str, int]) -> None:
    with pytest.raises(InvalidModel, match=r"The graph takes image: uint8 \[\?,8,8,3\]; the manifest says "):
        build("classify", image=image)


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c")])
def test_as_many_labels_as_classes_are_needed(labels: tuple[str, ...]) -> None:
    with pytest.raises(InvalidModel, match=f"tells 2 classes apart; labels.txt has {len(labels)}"):
        build("classify", labels=labels)


def test_a_box_of_other_than_six_numbers_is_refused() -> None:
    with pytest.raises(InvalidModel, match="A box has 6 numbers; this graph gives 5"):
        build("detect", outputs=(spec("boxes", "float32", 5, 5),))


def test_an_embedding_of_no_numbers_is_refused() -> None:
    with pytest.raises(InvalidModel, match="The embeddings of this graph have no numbers"):
        build("embed", outputs=(spec("embedding", "float32", 0),))


def test_a_segmenter_that_would_not_see_all_pixels_is_refused() -> None:
    with pytest.raises(InvalidModel, match="A segment graph labels every pixel: 'fit'"):
        build("segment", image={"width": 8, "height": 8, "fit": "cover"})


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_as_many_colours_as_labels_are_needed(task: str) -> None:
    with pytest.raises(InvalidModel, match="The palette has 1 colours for 2 labels"):
        build(task, palette=[(0, 0, 0)])


@pytest.mark.parametrize("z", [spec("z", "float32", None), TensorSpec("z", np.dtype("float32"), ())])
def test_a_latent_of_open_length_is_refused(z: TensorSpec) -> None:
    with pytest.raises(InvalidModel, match="The input z of a generate graph needs a fixed length"):
        build("generate", (z, CLASS))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_what_it_is_and_describes_each_option(task: str) -> None:
    kind = TASKS[task]
    assert kind.kind == task
    assert kind.summary
    assert all(field.description for field in kind.Options.model_fields.values())


def test_a_picture_task_without_a_picture_is_an_empty_body(
    classifier: Asked, segmenter: Asked, detector: Asked
) -> None:
    for asked in (classifier, segmenter, detector):
        with pytest.raises(EmptyBody):
            asked.task.prepare(None, asked.options())


def test_a_grey_model_is_fed_one_channel() -> None:
    grey = build("classify", (spec("image", "uint8", 8, 8, 1),), image={"width": 8, "height": 8, "channels": 1})
    assert grey.kind == "classify"
