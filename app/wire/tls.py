"""TLS: the certificate that a service shows, and which protocols it speaks. Who listens is left to `app.server`."""

import ssl
from pathlib import Path

from app.errors import InvalidSettings


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer with the certificate chain in a PEM file, and its private key in another or the same one.

    Raises:
        InvalidSettings: a file cannot be read, holds something else, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With an empty password, so that nobody is asked for one: a service has no terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise InvalidSettings(f"tls_certificate, tls_key: {_reason(error)}.") from None
    except OSError as error:
        missing = certificate if key is None or not certificate.exists() else key
        raise InvalidSettings(f"tls_certificate, tls_key: {str(missing)!r}: {error.strerror}.") from None
    return context


def _reason(error: ssl.SSLError) -> str:
    """What OpenSSL found, in lower case: `key values mismatch`, or `no certificate and key in PEM form`."""
    return error.reason.replace("_", " ").lower() if error.reason else "no certificate and key in PEM form"
