"""One picture in the forms that servers take it, and one request to try a server with."""

import base64
import http.client
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_BOUNDARY = "imago-benchmark-7d1"


@dataclass(frozen=True)
class Request:
    """What is sent, over and over: always POST."""

    path: str
    headers: Mapping[str, str]
    body: bytes


Body = Callable[[bytes, str], tuple[dict[str, str], bytes]]
"""From a picture and its media type to headers and body."""


def raw(data: bytes, media: str) -> tuple[dict[str, str], bytes]:
    """The body is the picture."""
    return {"Content-Type": media}, data


@dataclass(frozen=True)
class Multipart:
    """`multipart/form-data` (RFC 7578) with one file in `field`."""

    field: str

    def __call__(self, data: bytes, media: str) -> tuple[dict[str, str], bytes]:
        """Headers and body."""
        disposition = f'Content-Disposition: form-data; name="{self.field}"; filename="picture"'
        head = f"--{_BOUNDARY}\r\n{disposition}\r\nContent-Type: {media}\r\n\r\n"
        form = head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
        return {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}, form


def protocol_binary(data: bytes, media: str) -> tuple[dict[str, str], bytes]:
    """Open Inference Protocol v2 with the binary tensor extension: one BYTES element, its length before it."""
    tensor = struct.pack("<I", len(data)) + data
    given = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    head = _json({"inputs": [given], "outputs": [{"name": "top5", "parameters": {"binary_data": False}}]})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + tensor


def protocol_json(data: bytes, media: str) -> tuple[dict[str, str], bytes]:
    """Open Inference Protocol v2 in JSON: one BYTES element in base64."""
    text = base64.b64encode(data).decode()
    given = {
        "name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}, "data": [text],
    }  # fmt: skip
    return {"Content-Type": "application/json"}, _json({"inputs": [given]})


def post(port: int, request: Request, timeout: float) -> tuple[int, bytes]:
    """Send a request once to this machine; status and body of the answer. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
