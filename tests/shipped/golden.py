"""What the shipped models answer to pictures made by arithmetic: few numbers, kept in `golden.json`."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.imaging.codec import Decoder, encode_png
from benchmarks.server import running_server

MODELS = Path(__file__).parents[2] / "models"
GOLDEN = Path(__file__).with_name("golden.json")


def scene(width: int, height: int) -> bytes:
    """A blue sky over a grey ground with a red block, as PNG."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2] = (120, 170, 230)
    pixels[height // 2 :] = (95, 95, 100)
    pixels[height // 3 : 2 * height // 3, width // 3 : width // 2] = (180, 40, 40)
    return encode_png(pixels)


def cells() -> bytes:
    """Red discs and a violet one on a light ground, as a smear looks under a microscope, as PNG."""
    pixels = np.full((480, 640, 3), (225, 215, 205), np.uint8)
    rows, columns = np.mgrid[:480, :640]
    for number in range(12):
        across, down = 60 + 105 * (number % 6), 110 + 230 * (number // 6)
        inside = (rows - down) ** 2 + (columns - across) ** 2 < (70 if number == 8 else 45) ** 2
        pixels[inside] = (110, 70, 150) if number == 8 else (205, 150, 150)
    return encode_png(pixels)


def answers(client: httpx.Client) -> dict[str, Any]:
    """Probabilities, shares and scores by label, numbers of vectors, mean colours of pictures that were made, and the
    versions that answered."""
    classified = client.post("/classify?top_k=10", content=scene(32, 32)).json()
    segmented = client.post("/segment", content=scene(480, 360)).json()
    generated = client.post("/generate", json={"count": 4, "seed": 7}).json()
    detected = client.post("/detect", content=cells()).json()
    cleaned = client.post("/enhance?strength=25", content=scene(96, 64)).json()
    enlarged = client.post("/enhance?scale=2", content=scene(48, 32)).json()
    embedded = client.post("/embed", content=scene(32, 32)).json()
    repeated = client.post("/reconstruct", content=scene(32, 32)).json()
    decoded = client.post("/generate?model=cifar10-vae-generator", json={"count": 2, "seed": 7}).json()
    every = (classified, segmented, generated, detected, cleaned, enlarged, embedded, repeated, decoded)
    objects = detected["results"][0]["objects"]
    return {
        "versions": {answer["model"]: answer["version"] for answer in every},
        "detect": [[one["label"], one["score"]] for one in objects],
        "classify": {entry["label"]: entry["probability"] for entry in classified["results"][0]["labels"]},
        "segment": {entry["label"]: entry["share"] for entry in segmented["results"][0]["classes"]},
        "generate": [_mean_colour(result["image"]["data"]) for result in generated["results"]],
        "decode": [_mean_colour(result["image"]["data"]) for result in decoded["results"]],
        "enhance": [_mean_colour(answer["results"][0]["image"]["data"]) for answer in (cleaned, enlarged)],
        "embed": [round(value, 4) for value in embedded["results"][0]["embedding"][:16]],
        "reconstruct": [repeated["results"][0]["score"], *_mean_colour(repeated["results"][0]["image"]["data"])],
    }


def _mean_colour(png: str) -> list[float]:
    image = Decoder(("png",)).open(base64.b64decode(png)).decode()
    return [round(float(value), 2) for value in image.reshape(-1, 3).mean(axis=0)]


def main() -> None:
    """Write `golden.json` from the models as they are."""
    with running_server(MODELS, "--device", "cpu") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        GOLDEN.write_text(json.dumps(answers(client), indent=2) + "\n")


if __name__ == "__main__":
    main()
