"""The tiny models of all tasks, opened."""

from pathlib import Path

import pytest

from tests.tasks.asked import Asked, opened


@pytest.fixture(scope="session")
def classifier(model_root: Path) -> Asked:
    return opened(model_root / "tiny-classifier" / "1")


@pytest.fixture(scope="session")
def segmenter(model_root: Path) -> Asked:
    return opened(model_root / "tiny-segmenter" / "1")


@pytest.fixture(scope="session")
def detector(model_root: Path) -> Asked:
    return opened(model_root / "tiny-detector" / "1")


@pytest.fixture(scope="session")
def denoiser(model_root: Path) -> Asked:
    return opened(model_root / "tiny-denoiser" / "1")


@pytest.fixture(scope="session")
def autoencoder(model_root: Path) -> Asked:
    return opened(model_root / "tiny-autoencoder" / "1")


@pytest.fixture(scope="session")
def embedder(model_root: Path) -> Asked:
    return opened(model_root / "tiny-embedder" / "1")


@pytest.fixture(scope="session")
def generator(model_root: Path) -> Asked:
    return opened(model_root / "tiny-generator" / "1")
