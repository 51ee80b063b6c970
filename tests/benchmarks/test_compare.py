"""What a run of the comparison is made of: names, order, forms of a request, and answers that are right."""

import argparse
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.answers import Best, Unreadable, agrees, read_imago, read_peer
from benchmarks.compare import named, turned
from benchmarks.environments import environment
from benchmarks.forms import Multipart, protocol_binary
from benchmarks.servers import Peer, servers
from benchmarks.work import ROOT, Work
from benchmarks.workloads import WORKLOADS

SERVERS = servers()
PEERS = [server for server in SERVERS.values() if isinstance(server, Peer)]


def png(value: int, share: float = 1.0) -> bytes:
    """A grey picture of 1000 pixels, a share of which have the value."""
    pixels = np.zeros(1000, np.uint8)
    pixels[: round(1000 * share)] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(20, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def test_each_pass_begins_with_the_next_server() -> None:
    a, b, c = list(SERVERS.values())[:3]
    assert [turned([a, b, c], number) for number in (1, 2, 3, 4)] == [[a, b, c], [b, c, a], [c, a, b], [a, b, c]]


def test_an_unknown_name_is_refused_and_a_near_one_named() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="did you mean 'resnet50'"):
        named("tiny,resnet", WORKLOADS, "workload")


def test_names_are_taken_in_the_order_given() -> None:
    assert [workload.name for workload in named("cifar,tiny", WORKLOADS, "workload")] == ["cifar", "tiny"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_has_a_script_and_exact_versions(peer: Peer) -> None:
    folder = ROOT / "benchmarks" / "peers" / peer.script
    assert (folder / "server.py").is_file()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert lines
    assert all("==" in line for line in lines)


def test_peers_are_asked_for_what_all_can_do_and_imago_for_everything() -> None:
    common = {"tiny", "cifar", "resnet50", "12mp"}
    assert {name for name, workload in WORKLOADS.items() if PEERS[0].serves(workload)} == common
    assert all(SERVERS["imago"].serves(workload) for workload in WORKLOADS.values())


def test_an_environment_that_was_built_elsewhere_is_taken_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "mosec"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").touch()
    assert environment("mosec", tmp_path, Work(tmp_path)) == home


def test_a_multipart_body_is_framed_by_the_boundary_of_its_header() -> None:
    headers, body = Multipart("file")(b"PICTURE", "image/png")
    boundary = headers["Content-Type"].partition("boundary=")[2].encode()
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head.startswith(b"--" + boundary + b"\r\n")
    assert b'name="file"' in head
    assert rest == b"PICTURE\r\n--" + boundary + b"--\r\n"


def test_a_binary_tensor_carries_its_length_and_the_header_says_where_it_begins() -> None:
    headers, body = protocol_binary(b"PICTURE", "image/png")
    start = int(headers["Inference-Header-Content-Length"])
    assert body[start:] == struct.pack("<I", 7) + b"PICTURE"


def test_the_best_class_is_found_in_every_wrapping() -> None:
    plain = b'{"top5":[{"class":7,"p":0.25},{"class":1,"p":0.1}]}'
    indented = b'{\n  "top5": [\n    {\n      "class": 7,\n      "p": 0.25\n    }\n  ]\n}'
    in_a_string = b'{"outputs":[{"data":["{\\"top5\\": [{\\"class\\": 7, \\"p\\": 0.25}]}"]}]}'
    assert {read_peer(body) for body in (plain, indented, in_a_string)} == {Best(7, 0.25)}


def test_imago_s_best_class_is_read_from_its_first_result() -> None:
    body = b'{"results":[{"labels":[{"label":"class 7","index":7,"probability":0.25}]}]}'
    assert read_imago(body) == Best(7, 0.25)


@pytest.mark.parametrize("read", [read_imago, read_peer])
def test_an_answer_in_another_form_is_unreadable(read: Callable[[bytes], Best]) -> None:
    with pytest.raises(Unreadable, match="oops"):
        read(b'{"detail": "oops"}')


def test_an_answer_agrees_by_class_and_probability() -> None:
    wanted = [Best(7, 0.25), Best(3, 0.30)]
    assert agrees(Best(3, 0.301), wanted)
    assert not agrees(Best(7, 0.30), wanted)
    assert not agrees(Best(1, 0.25), wanted)


def test_a_picture_agrees_where_nearly_all_pixels_are_equal() -> None:
    assert agrees(png(9, 0.999), [png(9)])
    assert not agrees(png(9, 0.9), [png(9)])
    assert not agrees(Best(7, 0.25), [png(9)])
