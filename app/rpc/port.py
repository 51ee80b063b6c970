"""The port of gRPC, kept from the start of the service to its end, whichever of its processes lives."""

import errno
import importlib.util
import socket
from collections.abc import Sequence

from app.errors import InvalidSettings


def reserve(listeners: Sequence[socket.socket], port: int) -> tuple[int, tuple[socket.socket, ...]]:
    """A port on the addresses of these sockets, a free one for 0, and sockets that keep it. They do not listen: those
    of the processes do, which the kernel lets share the port.

    Raises:
        InvalidSettings: gRPC is not installed, or the port is taken.
    """
    if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("google.protobuf") is None:
        raise InvalidSettings("grpc_port: gRPC is not installed: pip install 'imago[grpc]'.")
    kept: list[socket.socket] = []
    for listener in listeners:
        try:
            kept.append(_bound(listener, port))
        except OSError as error:
            reason = "Address already in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise InvalidSettings(f"grpc_port: {listener.getsockname()[0]}, port {port}: {reason}.") from None
        port = kept[0].getsockname()[1]
    return port, tuple(kept)


def _bound(listener: socket.socket, port: int) -> socket.socket:
    host = listener.getsockname()[0]
    with socket.create_server((host, port), family=listener.family) as alone:  # fails where somebody shares it already
        port = alone.getsockname()[1]
    shared = socket.socket(listener.family, socket.SOCK_STREAM)
    if listener.family == socket.AF_INET6:
        shared.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        shared.setsockopt(socket.SOL_SOCKET, option, 1)
    shared.bind((host, port))
    return shared
