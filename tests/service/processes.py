"""What a test sees of the processes behind one port, through /proc, and the connections that it opens to them."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.server import Server

_LISTEN = "0A"
_PATIENCE = 30.0


def until(condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    """Wait for what another process does: there is no event to await."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


class Answer(NamedTuple):
    """Status, headers by lower-case name, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=_PATIENCE)
        self._connection.connect()
        self.port = self._connection.sock.getsockname()[1]

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None, {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        return self._ask("POST", path, body, headers or {})

    def put(self, path: str, body: bytes) -> Answer:
        return self._ask("PUT", path, body, {})

    def delete(self, path: str) -> Answer:
        return self._ask("DELETE", path, None, {})

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, path, body, dict(headers))
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def ask(url: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask over a connection of its own; a POST where there is a body."""
    client = Client(url)
    try:
        return client.get(path) if body is None else client.post(path, body, headers)
    finally:
        client.close()


class Processes:
    """The processes of a running server."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.supervisor = server.process.pid
        self._port = int(server.url.rpartition(":")[2])
        self._clients: list[Client] = []

    def children(self) -> list[int]:
        """All children of the supervisor, zombies among them."""
        return [
            int(pid) for pid in Path(f"/proc/{self.supervisor}/task/{self.supervisor}/children").read_text().split()
        ]

    def workers(self) -> list[int]:
        """The children that accept connections."""
        listening = {inode for port, _, state, inode in _sockets() if port == self._port and state == _LISTEN}
        return [pid for pid in self.children() if listening & _inodes(pid)]

    def engine(self) -> int:
        """The child that accepts none."""
        (engine,) = set(self.children()) - set(self.workers())
        return engine

    def connections(self, pid: int) -> int:
        """Connections of clients that a worker has."""
        ours = {inode for port, _, state, inode in _sockets() if port == self._port and state != _LISTEN}
        return len(ours & _inodes(pid))

    def owner(self, client: Client) -> int:
        """The worker that serves a client."""
        (inode,) = {inode for port, peer, _, inode in _sockets() if (port, peer) == (self._port, client.port)}
        (owner,) = [pid for pid in self.children() if inode in _inodes(pid)]
        return owner

    def handles(self, pid: int) -> int:
        """Open files of one process."""
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def clients(self, count: int) -> list[Client]:
        """So many connections that are kept, each of which was answered."""
        clients = [Client(self.url) for _ in range(count)]
        self._clients += clients
        for client in clients:
            assert client.get("/livez").status == 200
        return clients

    def close_clients(self) -> None:
        """Close all that were opened here, and wait until the workers heard it."""
        while self._clients:
            self._clients.pop().close()
        until(lambda: all(self.connections(pid) == 0 for pid in self.workers()))

    def one_client_each(self) -> list[Client]:
        """A connection to each worker, as soon as all of them accept some."""
        clients: list[Client] = []

        def one_each() -> bool:
            self.close_clients()
            clients[:] = self.clients(len(self.workers()))
            return {self.owner(client) for client in clients} == set(self.workers())

        until(one_each)
        return clients

    def wait_until_ready(self, workers: int) -> None:
        """Wait until so many workers and an engine have all models that they can have."""
        until(lambda: len(self.workers()) == workers and len(self.children()) == workers + 1)
        for client in self.one_client_each():
            until(lambda client=client: client.get("/readyz").json["loading"] == [])  # type: ignore[misc]
        self.close_clients()


@contextmanager
def starting_server(models: Path, *flags: str) -> Iterator[Server]:
    """A server that listens, whether its models are loaded or not."""
    command = [sys.executable, "-m", "app", "serve", "--models", str(models), "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"listens on (https?://[^\s,]+)", process.stdout.readline())
        assert found is not None
        try:
            yield Server(found[1], process)
        finally:
            process.terminate()
            process.communicate(timeout=_PATIENCE)


def alive(pid: int) -> bool:
    """Whether a process, of whatever parent, still runs."""
    try:
        return re.search(r"^State:\s+[ZX]", Path(f"/proc/{pid}/status").read_text(), re.M) is None
    except (FileNotFoundError, ProcessLookupError):
        return False


def _inodes(pid: int) -> set[str]:
    """The sockets that a process has open; none if it has just ended."""
    found = set()
    try:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found |= set(re.findall(r"socket:\[(\d+)\]", str(handle.readlink())))
            except FileNotFoundError:
                continue
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
    return found


def _sockets() -> list[tuple[int, int, str, str]]:
    """Own port, the peer's, state and inode of each TCP socket over IPv4."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16), row[3], row[9]) for row in rows]
