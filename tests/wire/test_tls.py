"""TLS by flags: a fitting certificate, safe protocols, sentences where a file is wrong, handshakes that end."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from app.errors import InvalidSettings
from app.server import addresses, listen
from app.settings import Settings, load_settings
from app.wire.tls import server_context
from tests.api.connection import Caller, Served, make_models, request, serving, until
from tests.service.processes import Processes, starting_server
from tests.service.processes import until as until_soon
from tests.service.test_server import picture


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Path:
    """`chain.pem` and `key.pem` of 127.0.0.1, `both.pem`, and `other.pem`, the key of somebody else."""
    folder = tmp_path_factory.mktemp("tls")
    own, other = (authority.issue_cert("127.0.0.1", "localhost") for _ in range(2))
    own.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    other.private_key_pem.write_to_path(folder / "other.pem")
    (folder / "nonsense.pem").write_text("nonsense")
    return folder


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("missing.pem", None, "missing.pem': No such file"),
        ("chain.pem", "missing.pem", "missing.pem': No such file"),
        ("nonsense.pem", None, "no certificate and key in PEM form"),
        ("chain.pem", None, "no certificate and key in PEM form"),
        ("chain.pem", "other.pem", "key values mismatch"),
    ],
)
def test_a_file_that_is_wrong_is_told_in_a_sentence(folder: Path, certificate: str, key: str | None, told: str) -> None:
    with pytest.raises(InvalidSettings, match=told):
        server_context(folder / certificate, None if key is None else folder / key)


@pytest.mark.parametrize(("certificate", "key"), [("chain.pem", "key.pem"), ("both.pem", None)])
def test_nothing_older_than_tls_1_2_is_spoken(folder: Path, certificate: str, key: str | None) -> None:
    context = server_context(folder / certificate, None if key is None else folder / key)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="it needs a tls_certificate"):
        load_settings({"tls_key": "key.pem"})


@pytest.fixture(scope="module", params=["1", "2"])
def encrypted(request: pytest.FixtureRequest, model_root: Path, folder: Path) -> Iterator[Processes]:
    """A service behind TLS, of one process and of several."""
    files = ("--tls-certificate", str(folder / "chain.pem"), "--tls-key", str(folder / "key.pem"))
    with starting_server(model_root, *files, "--workers", request.param, "--log-level", "info") as server:
        yield Processes(server)


def test_a_picture_is_answered_over_tls_by_every_process(encrypted: Processes, trusting: ssl.SSLContext) -> None:
    assert encrypted.url.startswith("https://127.0.0.1:")
    with httpx.Client(base_url=encrypted.url, verify=trusting) as client:
        until_soon(lambda: client.get("/readyz").status_code == 200)
    for _ in range(8):
        with httpx.Client(base_url=encrypted.url, verify=trusting) as client:
            for body in (picture(9), picture(9, side=400)):
                answer = client.post("/classify", content=body)
                assert answer.status_code == 200
                assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_who_speaks_no_tls_is_no_trouble_to_the_others(encrypted: Processes, trusting: ssl.SSLContext) -> None:
    host, port = encrypted.url.removeprefix("https://").split(":")
    for sent in (b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"", b"\x16\x03\x01\xff\xff" + bytes(500)):
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            while received := plain.recv(1000):
                assert b"200" not in received
    assert httpx.get(f"{encrypted.url}/livez", verify=trusting).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::7"])
def test_an_address_that_others_can_reach_is_refused_unless_it_is_meant(host: str) -> None:
    with pytest.raises(InvalidSettings, match="others can reach it"):
        listen(host, 0)


def test_an_address_that_others_can_reach_is_listened_on_where_that_is_meant() -> None:
    (listener,) = listen("0.0.0.0", 0, public=True)
    with listener:
        port = listener.getsockname()[1]
        assert addresses((listener,), "https") == [f"https://localhost:{port}"]


def test_keys_and_no_keys_are_not_asked_for_at_once() -> None:
    with pytest.raises(InvalidSettings, match="there are keys"):
        load_settings({"keys": "keys.json", "insecure_no_auth": True})
    assert not Settings().insecure_no_auth


@contextmanager
def serving_tls(root: Path, folder: Path, **settings: Any) -> Iterator[Served]:
    """A server behind TLS in this process."""
    files = {"tls_certificate": folder / "chain.pem", "tls_key": folder / "key.pem"}
    with serving(make_models(root / "models"), **files, **settings) as served:
        yield served


async def asked(served: Served, trusting: ssl.SSLContext) -> int:
    """The status of an answer over TLS."""
    reader, writer = await asyncio.open_connection(*served.address, ssl=trusting)
    answer = await Caller(reader, writer).ask(request(target=b"/livez", method=b"GET"))
    writer.close()
    return answer.status


def test_a_handshake_that_does_not_begin_is_given_up_as_the_head_of_a_request_is(
    tmp_path: Path, folder: Path, trusting: ssl.SSLContext
) -> None:
    async def tell(served: Served) -> bytes:
        reader, writer = await asyncio.open_connection(*served.address)
        rest = await reader.read()
        writer.close()
        assert await asked(served, trusting) == 200
        return rest

    with serving_tls(tmp_path, folder, head_timeout_seconds=0.5) as served:
        assert served.run(tell(served)) == b""


def test_of_too_many_handshakes_under_way_the_oldest_is_given_up(
    tmp_path: Path, folder: Path, trusting: ssl.SSLContext
) -> None:
    async def tell(served: Served) -> None:
        silent = [await asyncio.open_connection(*served.address) for _ in range(20)]
        for reader, _ in silent[:-3]:
            assert await reader.read() == b""
        assert await asked(served, trusting) == 200
        assert await silent[-3][0].read() == b""
        await until(lambda: len(served.server.server_state.connections) == 0)
        for _, writer in silent:
            writer.close()

    with serving_tls(tmp_path, folder, max_connections=3, head_timeout_seconds=600) as served:
        served.run(tell(served))
        assert [line for line in served.log.lines if " INFO " not in line] == []


def test_a_stop_does_not_wait_for_handshakes_that_never_end(tmp_path: Path, folder: Path) -> None:
    async def tell(served: Served) -> bytes:
        reader, writer = await asyncio.open_connection(*served.address)
        await until(lambda: bool(served.server._connecting))
        await served.shut_down()
        rest = await reader.read()
        writer.close()
        return rest

    with serving_tls(tmp_path, folder, head_timeout_seconds=600) as served:
        assert served.run(tell(served)) == b""
