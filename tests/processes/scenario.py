"""What tests of this folder share: an event loop for one scenario, bounded in time, and a pair of sockets."""

import asyncio
import socket
from collections.abc import Awaitable, Callable


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected Unix sockets that do not block."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds; `run` bounds it."""
    while not condition():  # noqa: ASYNC110 - conditions are about state of the code under test, which has no event
        await asyncio.sleep(0)
