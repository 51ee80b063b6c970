"""What all processes share: made once, before the first fork."""

import socket
from dataclasses import dataclass

from app.processes.arena import Arena
from app.processes.connections import Connections, inbox
from app.processes.loads import Loads
from app.security.limits import Accounts
from app.telemetry.board import Board

_ARENA_BYTES = 128 * 2**20
"""Memory for the tensors of one worker's jobs, and as much for their answers: 890 pictures of 224x224. Pages that no
tensor ever touched cost nothing."""


@dataclass(frozen=True)
class Channel:
    """The memory between one worker and the engine: the worker gives out that of jobs, the engine that of answers."""

    jobs: Arena
    answers: Arena


@dataclass(frozen=True)
class Shared:
    """Listening sockets, metrics, queue lengths, tensors, connections, what keys have used."""

    workers: int
    listeners: tuple[socket.socket, ...]
    board: Board
    loads: Loads
    channels: tuple[Channel, ...]
    connections: Connections
    inboxes: tuple[tuple[socket.socket, socket.socket], ...]
    accounts: Accounts

    @property
    def engine_slot(self) -> int:
        """The engine's slot of the metrics board; workers have those before it, the supervisor the one after."""
        return self.workers


def share(workers: int, listeners: tuple[socket.socket, ...]) -> Shared:
    """Make what `workers` HTTP workers, one engine and one supervisor share."""
    return Shared(
        workers,
        listeners,
        Board(workers + 2),
        Loads(workers),
        tuple(Channel(Arena(_ARENA_BYTES), Arena(_ARENA_BYTES)) for _ in range(workers)),
        Connections(workers),
        tuple(inbox() for _ in range(workers)),
        Accounts(workers),
    )
