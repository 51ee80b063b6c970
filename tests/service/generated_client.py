"""A client generated from the OpenAPI document: run by `test_openapi.py` with an interpreter that has
`openapi-python-client`.

Arguments: the base URL of the server, and an empty folder. Prints `all well` at its end.
"""

import base64
import compileall
import importlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")


def generate(url: str, folder: Path) -> None:
    """Write the package `sdk` into a folder, and compile it; nothing but a body's `image/*` may be passed over."""
    (folder / "config.yml").write_text("post_hooks: []\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{url}/openapi.json"]
    command += ["--meta", "none", "--output-path", str(folder / "sdk"), "--config", str(folder / "config.yml")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    warnings = [line for line in told.splitlines() if line.startswith("WARNING") and "image/*" not in line]
    assert not warnings, told
    assert compileall.compile_dir(folder / "sdk", quiet=1)


def sdk(name: str) -> Any:
    """A module of the package."""
    return importlib.import_module(f"sdk.{name}")


def ask(url: str) -> None:
    """Ask every kind of route through the package."""
    client = sdk("client").Client(base_url=url)
    models, types = sdk("models"), sdk("types")
    found = sdk("api.models.get_models").sync(client=client)
    assert {"camvid-segmenter", "cifar10-classifier", "cifar10-generator"} <= {model.name for model in found.models}
    assert sdk("api.models.get_models_name").sync("cifar10-classifier", client=client).labels == [
        "red",
        "green",
        "blue",
    ]

    classify = sdk("api.tasks.classify")
    several = models.ClassifyJsonBody(images=[base64.b64encode(DOT).decode()] * 2)
    answer = classify.sync(client=client, body=several, top_k=1)
    assert [result.labels[0].label for result in answer.results] == ["red", "red"]
    assert classify.sync(client=client, body=types.File(payload=io.BytesIO(DOT)), top_k=2).results[0].labels[1].index
    parts = models.ClassifyFilesBody(file=[types.File(payload=io.BytesIO(DOT), file_name="dot.png")])
    assert classify.sync(client=client, body=parts).model == "cifar10-classifier"
    refused = classify.sync(client=client, body=types.File(payload=io.BytesIO(b"no picture")))
    assert (refused.status, refused.code) == (415, "unsupported-image")

    drawn = sdk("api.tasks.generate").sync(client=client, seed=7, count=2)
    assert [(image.seed, image.index) for image in drawn.results] == [(7, 0), (7, 1)]
    assert sdk("api.protocol_v2.get_v2_models_name_ready").sync("cifar10-classifier", client=client).ready
    assert sdk("api.system.get_readyz").sync(client=client).ready


if __name__ == "__main__":
    target, scratch = sys.argv[1], Path(sys.argv[2])
    generate(target, scratch)
    sys.path.insert(0, str(scratch))
    ask(target)
    sys.stdout.write("all well\n")
