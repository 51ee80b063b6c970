"""What the supervisor hands to a running child: numbered sockets, over the one socket that ties the two together."""

import asyncio
import socket
from collections.abc import Callable


def send_socket(control: socket.socket, number: int, end: socket.socket) -> None:
    """Hand a socket over, with a number from 0 to 255 that says what it is for. A child that is gone gets nothing, and
    where `control` does not block neither does one that never reads."""
    try:
        socket.send_fds(control, [bytes([number])], [end.fileno()])
    except OSError:
        return  # its end is reaped and replaced in a moment, and its successor is handed sockets of its own


class Control:
    """The child's end: calls `on_socket` for each socket that comes, and `on_closed` when the supervisor is gone or
    has closed its end: the child is to stop. So it is where there is no room for a socket that came."""

    def __init__(
        self, end: socket.socket, on_socket: Callable[[int, socket.socket], None], on_closed: Callable[[], None]
    ) -> None:
        self._end = end
        self._on_socket = on_socket
        self._on_closed = on_closed
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            number, handles, _, _ = socket.recv_fds(self._end, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            number, handles = b"", []
        if not (number and handles):  # a child that was not handed its socket would never talk to the other one
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._on_closed()
            return
        received = socket.socket(fileno=handles[0])
        received.setblocking(False)
        self._on_socket(number[0], received)
