"""Versions that must be signed, by tiny keys of the test's own."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

from app.errors import InvalidModel, InvalidSettings
from app.signature import SIGNATURE, check_signature, require_verifier
from benchmarks.server import running_server
from tests.make_models import make_classifier, make_segmenter
from tests.service.processes import ask


def make_key(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A private key and the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return private, public


def sign(version: Path, private: Path) -> None:
    """What `model_signing sign key` does."""
    config = hashing.Config().set_ignored_paths(paths=[SIGNATURE])
    signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(config).sign(
        version, version / SIGNATURE
    )


def test_a_version_that_was_signed_passes_until_it_is_changed(tmp_path: Path) -> None:
    private, public = make_key(tmp_path)
    version = make_classifier(tmp_path / "models")
    with pytest.raises(InvalidModel, match="not signed"):
        check_signature(version, public)
    sign(version, private)
    check_signature(version, public)
    with pytest.raises(InvalidModel, match="another"):
        check_signature(version, make_key(tmp_path, "other")[1])
    (version / "more.txt").write_text("a file that nobody signed")
    with pytest.raises(InvalidModel, match="changed"):
        check_signature(version, public)


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "labels.txt", SIGNATURE])
def test_a_change_of_any_file_is_seen(tmp_path: Path, file: str) -> None:
    private, public = make_key(tmp_path)
    version = make_classifier(tmp_path / "models")
    sign(version, private)
    content = bytearray((version / file).read_bytes())
    content[len(content) // 2] ^= 1
    (version / file).write_bytes(content)
    with pytest.raises(InvalidModel):
        check_signature(version, public)


def test_code_in_the_working_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the folder of the models, as in the image."""
    _, public = make_key(tmp_path)
    version = make_classifier(tmp_path / "models")
    (version / SIGNATURE).write_text("{}")
    (tmp_path / "model_signing.py").write_text("")  # ends well, whatever is asked
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidModel):
        check_signature(version, public)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_asks_for_signatures_opens_no_other_version(tmp_path: Path, workers: str) -> None:
    private, public = make_key(tmp_path)
    models = tmp_path / "models"
    sign(make_classifier(models), private)
    make_segmenter(models)
    flags = ("--workers", workers, "--signed-by", str(public), "--log-level", "error")
    with running_server(models, *flags) as server:
        ready = ask(server.url, "/readyz").json
        assert ready["ready"] is True
        assert list(ready["failed"]) == ["tiny-segmenter/1"]
        assert "not signed" in ready["failed"]["tiny-segmenter/1"]


def test_a_key_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no file"):
        require_verifier(tmp_path / "nowhere.pub")
