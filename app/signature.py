"""Who signed a version: OpenSSF model signing with a public key, checked by its own command in a process of its own.

The library brings eighty megabytes along, most of it for keyless signing, and reads what nobody vouches for yet:
neither belongs into a process that serves. It comes with the extra `sign`.
"""

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from app.errors import InvalidModel, InvalidSettings

logger = logging.getLogger("imago.signature")

SIGNATURE: Final = "model.sig"
"""Beside the manifest, as `model_signing sign key VERSION --signature VERSION/model.sig --private_key KEY` makes it."""
_SECONDS: Final = 120.0
"""For gigabytes on a slow disk."""


def require_verifier(key: Path) -> None:
    """Look whether signatures can be checked with this public key (PEM).

    Raises:
        InvalidSettings: the library is not installed, or the key cannot be read.
    """
    if find_spec("model_signing") is None:
        raise InvalidSettings("signed_by: signatures cannot be checked without pip install 'imago[sign]'.")
    if not key.is_file():
        raise InvalidSettings(f"signed_by: {str(key)!r} is no file; name a public key (PEM).")


def check_signature(folder: Path, key: Path) -> None:
    """Check that all files of a version are those that the holder of the private key signed; blocks.

    Raises:
        InvalidModel: it is not signed, by somebody else, or was changed.
    """
    if not (folder / SIGNATURE).is_file():
        raise InvalidModel(f"It is not signed: there is no {SIGNATURE}.")
    asked = ["--signature", str(folder / SIGNATURE), "--public_key", str(key)]
    # Isolated: else what lies in the working folder, which may be that of the models, would be imported.
    command = [sys.executable, "-I", "-m", "model_signing", "verify", "key", str(folder), *asked]
    try:
        checked = subprocess.run(  # noqa: S603 - of these words none is a caller's
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InvalidModel(f"Its signature could not be checked in {_SECONDS:.0f} s.") from None
    if checked.returncode != 0:
        logger.error("the signature of %s does not hold: %s", folder, checked.stdout.strip()[-500:])
        raise InvalidModel("It is not what the holder of the key signed: a file was changed, or the key is another.")
