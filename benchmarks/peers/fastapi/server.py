"""FastAPI as most people write it: a synchronous endpoint, a multipart upload, one picture a run."""

from typing import Any

import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.peers.shared import Classifier, Settings, best_five

app = FastAPI()
classifier = Classifier.from_environment()


@app.post("/predict")
def predict(file: UploadFile = File()) -> dict[str, Any]:  # noqa: B008 - FastAPI's way to name a form field
    """The five best classes of one picture."""
    return best_five(classifier.run(classifier.prepare(file.file.read())[None])[0])


def main() -> None:
    """Serve with uvicorn; several workers are several processes."""
    settings = Settings.from_environment()
    uvicorn.run(
        "benchmarks.peers.fastapi.server:app", port=settings.port, workers=settings.workers, access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
