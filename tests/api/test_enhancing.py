"""Enhancing over HTTP: large pictures in tiles, formats of the answer, and which model answers for a scale."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.imaging.codec import Decoder
from app.settings import Settings
from tests.api.service import Service, exchange
from tests.imaging.pictures import noise, save
from tests.make_models import make_denoiser, make_upscaler

LARGE = noise(150, 90)
"""Pixels that the tiny graphs take in more than a hundred tiles, more than a hop to a thread would be worth."""


@pytest.fixture(scope="module")
def enhancing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("models")
    make_denoiser(root)
    make_upscaler(root)
    running = Service(Settings(models=root, device="cpu", threads=1, max_pixels=250_000))
    yield running
    running.close()


def shown(body: bytes) -> np.ndarray:
    return Decoder().open(body).decode()


def whole(image: np.ndarray, root: Path) -> np.ndarray:
    """What the denoiser makes of a picture that its graph takes whole."""
    make_denoiser(root, side=512)
    running = Service(Settings(models=root, device="cpu", threads=1))
    try:
        return shown(running.post("/enhance?strength=60", save(image), accept="image/png").content)
    finally:
        running.close()


def test_tiles_leave_no_seam(enhancing: Service, tmp_path: Path) -> None:
    answer = enhancing.post("/enhance?strength=60", save(LARGE), accept="image/png")
    assert answer.status_code == 200
    assert np.array_equal(shown(answer.content), whole(LARGE, tmp_path))


@pytest.mark.parametrize("size", [(4, 4), (150, 90)], ids=["small", "large"])
@pytest.mark.parametrize(("accept", "form"), [("image/webp", "webp"), ("image/jpeg", "jpeg"), ("image/*", "png")])
def test_accept_chooses_the_format(enhancing: Service, size: tuple[int, int], accept: str, form: str) -> None:
    answer = enhancing.post("/enhance?strength=0", save(noise(*size)), accept=accept)
    assert answer.headers["content-type"] == f"image/{form}"
    assert Decoder().open(answer.content).format == form


def test_where_accept_leaves_the_choice_the_option_decides(enhancing: Service) -> None:
    answer = enhancing.post("/enhance?strength=0&encoding=webp", save(noise(4, 4)), accept="image/*")
    assert answer.headers["content-type"] == "image/webp"
    files, headers = [("file", ("a.png", save(noise(4, 4))))], {"accept": "image/*"}
    answer = enhancing.ask("POST", "/enhance?strength=0", files=files, data={"encoding": "webp"}, headers=headers)
    assert answer.headers["content-type"] == "image/webp"


def test_other_tasks_draw_png_only(service: Service) -> None:
    answer = service.post("/segment", save(noise(4, 4)), accept="image/webp")
    assert answer.status_code == 406
    assert answer.json()["detail"] == "Answers are application/json or image/png: accept one of them."


def test_a_scale_chooses_the_model_that_has_it(enhancing: Service) -> None:
    names = {
        query: enhancing.post(f"/enhance{query}", save(noise(4, 4))).json()["model"]
        for query in ("", "?scale=1", "?scale=2")
    }
    assert names == {"": "tiny-denoiser", "?scale=1": "tiny-denoiser", "?scale=2": "tiny-upscaler"}


def test_a_scale_that_no_model_has_is_refused_by_the_default(enhancing: Service) -> None:
    answer = enhancing.post("/enhance?scale=3", save(noise(4, 4)))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-option")
    assert "this model's is 1" in answer.json()["detail"]


def test_a_large_picture_becomes_twice_as_large(enhancing: Service) -> None:
    answer = enhancing.post("/enhance?scale=2", save(LARGE), accept="image/png")
    assert np.array_equal(shown(answer.content), LARGE.repeat(2, 0).repeat(2, 1))


def test_a_caller_who_leaves_is_not_worked_for_any_longer(enhancing: Service) -> None:
    before = enhancing.metric("imago_batch_size_sum")
    picture = save(noise(490, 490))

    gone = enhancing.run(exchange(enhancing.app, "POST", "/enhance", b"strength=9", chunks=[picture], leave=True))
    assert gone.status in (0, 499)
    assert enhancing.post("/enhance", save(noise(4, 4))).status_code == 200
    after = enhancing.metric("imago_batch_size_sum")
    assert 0 < sum(after.values()) - sum(before.values()) < 40 * 40


def test_encoded_pictures_of_several_sizes_do_not_share_a_tensor(enhancing: Service) -> None:
    data = [base64.b64encode(save(noise(*size))).decode() for size in ((4, 4), (6, 4))]
    body = {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": data}]}
    answer = enhancing.ask("POST", "/v2/models/tiny-denoiser/infer", json=body)
    assert answer.status_code == 400
    assert "of one size" in answer.json()["error"]
