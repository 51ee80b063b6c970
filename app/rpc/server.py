"""The gRPC server of one process. Several processes listen on one port, and the kernel shares connections out."""

import logging
import socket
from collections.abc import Sequence

import grpc

from app.errors import InvalidSettings
from app.rpc.service import Service
from app.settings import Settings

logger = logging.getLogger("imago.rpc")

_IDLE_MILLISECONDS = 300_000
_LAST_SECONDS = 1.0
"""For answers to leave, once no call is under way."""
_IDENTITY_ONLY = 1
"""gRPC unpacks a compressed message to its end before it looks how long it is."""


class RpcServer:
    """Serves the methods from `start` to `stop`."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._server: grpc.aio.Server | None = None

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Listen on the addresses that HTTP listens on.

        Raises:
            InvalidSettings: the port is taken.
        """
        server = self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", self._settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_allowed_incoming_connections", self._settings.max_connections),
                ("grpc.server_handshake_timeout_ms", max(1, int(self._settings.head_timeout_seconds * 1e3))),
                ("grpc.max_connection_idle_ms", _IDLE_MILLISECONDS),
                ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
            ],
            maximum_concurrent_rpcs=self._settings.max_connections,
        )
        server.add_generic_rpc_handlers((self._service.handlers(),))
        for host in {listener.getsockname()[0] for listener in listeners}:
            self._listen(server, f"[{host}]" if ":" in host else host)
        await server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and give those under way so many seconds. gRPC alone would cancel a call that it has
        accepted and not handed on yet."""
        if self._server is not None:
            await self._service.finish(seconds)
            await self._server.stop(min(seconds, _LAST_SECONDS))

    def _listen(self, server: grpc.aio.Server, host: str) -> None:
        address = f"{host}:{self._settings.grpc_port}"
        try:
            if (credentials := _credentials(self._settings)) is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError:
            raise InvalidSettings(f"grpc_port: {address} cannot be listened on.") from None


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The certificate of the service; it was looked at when HTTP began to listen."""
    if settings.tls_certificate is None:
        return None
    key = (settings.tls_key or settings.tls_certificate).read_bytes()
    return grpc.ssl_server_credentials([(key, settings.tls_certificate.read_bytes())])
