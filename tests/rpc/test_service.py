"""Calls over gRPC, to a server in this process: keys, deadlines, callers that leave, stops, hostile messages."""

import asyncio
import base64
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from app.rpc.messages import SERVICE, class_of, message_of
from app.rpc.port import reserve
from app.runtime import BACKENDS
from app.security.keys import ADMIN, INFER
from app.settings import Settings
from tests.api.doors import Keys
from tests.api.held import Held
from tests.api.service import Service
from tests.imaging.pictures import noise, save
from tests.make_models import make_classifier, make_versions
from tests.make_plain import doubled, put
from tests.processes.scenario import until

PICTURE = save(noise(9, 9))
Ask = Callable[..., Awaitable[Any]]


class Rpc:
    """A running service, and a client of it."""

    def __init__(self, service: Service, address: str) -> None:
        self.service = service
        self.address = address

    def run(self, use: Callable[[Ask], Awaitable[Any]]) -> Any:
        """Run a scenario that is given what asks: method, fields, and the metadata and timeout of the call."""

        async def scenario() -> Any:
            async with grpc.aio.insecure_channel(self.address) as channel:

                def ask(method_name: str, /, metadata: Any = None, timeout: float | None = 20, **fields: Any) -> Any:
                    method = SERVICE.methods_by_name[method_name]
                    request, answer = class_of(method.input_type), class_of(method.output_type)
                    call = channel.unary_unary(
                        f"/{SERVICE.full_name}/{method_name}", request.SerializeToString, answer.FromString
                    )
                    return call(message_of(request, fields), metadata=metadata, timeout=timeout)

                return await use(ask)

        return self.service.run(scenario())

    def ask(self, method_name: str, /, **rest: Any) -> Any:
        """One call, and its answer."""

        async def use(ask: Ask) -> Any:
            return await ask(method_name, **rest)

        return self.run(use)

    def refused(self, method_name: str, /, **rest: Any) -> tuple[str, str]:
        """The code and the sentence of a call that fails."""
        with pytest.raises(grpc.aio.AioRpcError) as told:
            self.ask(method_name, **rest)
        return told.value.code().name, told.value.details() or ""


@contextmanager
def serving(**settings: Any) -> Iterator[Rpc]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, kept = reserve([listener], 0)
        service = Service(Settings(device="cpu", threads=1, grpc_port=port, **settings))
        service.run(service.app.state.rpc.start([listener]))
        try:
            yield Rpc(service, f"127.0.0.1:{port}")
        finally:
            service.close()
            for end in kept:
                end.close()


@pytest.fixture(scope="module")
def rpc(model_root: Path) -> Iterator[Rpc]:
    with serving(models=model_root, max_pictures=4) as running:
        yield running


def picture(**rest: Any) -> dict[str, Any]:
    """A request for the classifier with one encoded picture."""
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [base64_of(PICTURE)]}}
    return {"model_name": "tiny-classifier", "inputs": [image], **rest}


def base64_of(data: bytes) -> str:
    """Bytes as messages have them in JSON."""
    return base64.b64encode(data).decode()


def latent(**rest: Any) -> dict[str, Any]:
    """A request for a generator, in typed contents."""
    inputs = [
        {"name": "class", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [0]}},
        {"name": "z", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [0, 0, 0, 0]}},
    ]
    return {"model_name": "held-generator", "inputs": inputs, **rest}


def test_contents_may_be_typed(rpc: Rpc) -> None:
    answer = rpc.ask("ModelInfer", **picture(id="mine"))
    assert (answer.id, [output.name for output in answer.outputs]) == (
        "mine",
        ["probabilities", "embedding", "cam", "energy"],
    )
    assert [len(data) for data in answer.raw_output_contents] == [12, 12, 256, 4]
    assert rpc.ask("ModelInfer", **latent(model_name="tiny-generator")).outputs[0].shape == [1, 8, 8, 3]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inputs": []}, "'image' is missing"),
        ({"raw_input_contents": ["AA=="]}, "both contents and raw_input_contents"),
        ({"raw_input_contents": ["AA==", "AA=="]}, "2 raw_input_contents for 1 inputs"),
        ({"parameters": {"timeout": {"string_param": "1"}}}, "unsigned integer"),
        ({"parameters": {"timeout": {"int64_param": -1}}}, "unsigned integer"),
        ({"parameters": {"timeout": {}}}, "unsigned integer"),
        ({"outputs": [{"name": "nothing"}]}, "no output 'nothing'"),
        ({"outputs": [{"name": "cam"}, {"name": "cam"}]}, "asked for twice"),
        (
            {"outputs": [{"name": "cam", "parameters": {"shared_memory_region": {"string_param": "r"}}}]},
            "Shared memory",
        ),
    ],
)
def test_what_a_request_may_not_say_is_refused(rpc: Rpc, change: dict[str, Any], sentence: str) -> None:
    code, told = rpc.refused("ModelInfer", **picture(**change))
    assert code == "INVALID_ARGUMENT"
    assert sentence in told


@pytest.mark.parametrize(
    "entry",
    [
        {"datatype": "UINT8", "shape": [1, 8, 8, 3], "contents": {"uint_contents": [300] * 192}},
        {"datatype": "UINT8", "shape": [1, 8, 8, 3], "contents": {"uint_contents": [1] * 191}},
        {"datatype": "UINT8", "shape": [1, 8, 8, 3], "contents": {"fp32_contents": [1] * 192}},
        {"datatype": "UINT8", "shape": [1, 8, 8, 3]},
        {"datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": ["AA=="]}},
        {"datatype": "BYTES", "shape": [-1]},
        {"datatype": "UINT8", "shape": [2**31, 2**31, 4, 4]},
        {"datatype": "UINT8", "shape": [5, 8, 8, 3]},
        {"datatype": "FP16", "shape": [1, 8, 8, 3]},
        {"datatype": "", "shape": []},
    ],
)
def test_data_that_are_not_the_shape_s_are_refused(rpc: Rpc, entry: dict[str, Any]) -> None:
    most = rpc.service.registry.get(None, "tiny-classifier").running.max_batch_size
    if entry["shape"][:1] == [5]:
        entry = entry | {"shape": [max(4, most) + 1, 8, 8, 3]}
    code, told = rpc.refused("ModelInfer", **picture(inputs=[{"name": "image", **entry}]))
    assert code == "INVALID_ARGUMENT", told


def test_a_call_is_a_request_in_metrics_and_headers(rpc: Rpc) -> None:
    def count(status: int) -> float:
        found = rpc.service.metric("imago_requests_total")
        return found.get(f'{{model="tiny-classifier",status="{status}",task="classify"}}', 0.0)

    async def use(ask: Ask) -> None:
        call = ask("ModelInfer", metadata=(("x-request-id", "abc"),), **picture())
        metadata = dict(await call.initial_metadata())
        assert (metadata["x-request-id"], metadata["x-model-version"]) == ("abc", "1")
        failing = ask("ModelInfer", metadata=(("x-request-id", "abc"),), **picture(outputs=[{"name": "no"}]))
        trailing = dict(await failing.trailing_metadata())
        assert (trailing["x-request-id"], trailing["imago-error"]) == ("abc", "invalid-request")

    before = count(200), count(400)
    rpc.run(use)
    assert (count(200), count(400)) == (before[0] + 1, before[1] + 1)


def test_bytes_that_are_no_message_are_refused(rpc: Rpc) -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel(rpc.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await channel.unary_unary(f"/{SERVICE.full_name}/ModelInfer")(b"\xff" * 100, timeout=20)
        assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    rpc.service.run(scenario())


def test_a_call_whose_message_does_not_come_is_given_up_and_makes_room(model_root: Path) -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    with serving(models=model_root, body_timeout_seconds=0.5, max_connections=2) as rpc:

        async def use(ask: Ask) -> None:
            async with grpc.aio.insecure_channel(rpc.address) as channel:
                call = channel.stream_unary(f"/{SERVICE.full_name}/ServerLive")
                for given_up in [call(silent()) for _ in range(2)]:
                    with pytest.raises(grpc.aio.AioRpcError, match="took too long to come"):
                        await given_up
            assert (await ask("ServerLive")).live

        rpc.run(use)


def test_connections_are_bounded_and_those_that_say_nothing_make_room(model_root: Path) -> None:
    with serving(models=model_root, max_connections=2, head_timeout_seconds=1) as rpc:
        host, port = rpc.address.split(":")

        async def use(ask: Ask) -> None:
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
            assert [bool(await reader.read(9)) for reader, _ in silent] == [True, True, False, False]
            for reader, _ in silent:
                await reader.read()
            assert (await ask("ServerLive")).live
            for _, writer in silent:
                writer.close()

        rpc.run(use)


def test_keys_are_asked_for_as_over_http(tmp_path: Path, model_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(tmp_path / "keys.json")
    one, admin = keys.add("infer:tiny-classifier"), keys.add(ADMIN)
    infer = keys.add(INFER)
    with serving(models=model_root, keys=keys.path) as rpc:
        assert rpc.ask("ServerLive").live
        assert rpc.refused("ModelInfer", **picture())[0] == "UNAUTHENTICATED"
        wrong = (("authorization", "Bearer imago_00000000_" + 43 * "x"),)
        assert rpc.refused("ServerMetadata", metadata=wrong)[0] == "UNAUTHENTICATED"
        mine = (("authorization", f"Bearer {one}"),)
        assert rpc.ask("ModelInfer", metadata=mine, **picture()).model_name == "tiny-classifier"
        assert rpc.ask("ModelInfer", metadata=(("x-api-key", one),), **picture()).model_name == "tiny-classifier"
        for hidden in ("tiny-segmenter", "unknown"):
            code, told = rpc.refused("ModelMetadata", metadata=mine, name=hidden)
            assert (code, told.replace(hidden, "M")) == (
                "NOT_FOUND",
                "Model 'M' is not served here: GET /models lists what is.",
            )
        seen = rpc.ask("ModelStatistics", metadata=mine).model_stats
        assert [entry.name for entry in seen] == ["tiny-classifier"]
        assert rpc.refused("RepositoryIndex", metadata=(("x-api-key", infer),))[0] == "PERMISSION_DENIED"
        with caplog.at_level("INFO", "imago.audit"):
            assert rpc.ask("RepositoryIndex", metadata=(("x-api-key", admin),)).models
        assert "RepositoryIndex" in caplog.text


@contextmanager
def holding(root: Path, **settings: Any) -> Iterator[tuple[Held, Rpc]]:
    """A generator that answers when it is let."""
    model = Held()
    BACKENDS[model.name] = model.open  # type: ignore[index]
    model.model(root)
    model.may_open.set()
    try:
        with serving(models=root, **settings) as rpc:
            model.hold()
            try:
                yield model, rpc
            finally:
                model.may_run.set()
    finally:
        del BACKENDS[model.name]  # type: ignore[attr-defined]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Held, Rpc]]:
    with holding(tmp_path) as both:
        yield both


def test_a_caller_that_leaves_is_forgotten(held: tuple[Held, Rpc]) -> None:
    model, rpc = held

    async def use(ask: Ask) -> None:
        first = ask("ModelInfer", **latent())
        await asyncio.to_thread(model.running.wait, 10)
        second = ask("ModelInfer", **latent())
        lane = rpc.service.app.state.registry.get(None, "held-generator").jobs.lane
        await until(lambda: lane.waiting == 1)
        second.cancel()  # type: ignore[attr-defined]
        await until(lambda: lane.waiting == 0)
        model.may_run.set()
        await first

    rpc.run(use)
    assert model.rows == [1]
    assert sum(rpc.service.metric("imago_cancelled_total").values()) == 1


@pytest.mark.parametrize("by", ["call", "parameter", "header"])
def test_a_call_that_waits_too_long_expires(held: tuple[Held, Rpc], by: str) -> None:
    model, rpc = held
    rest: dict[str, Any] = {
        "call": {"timeout": 0.2},
        "parameter": {"parameters": {"timeout": {"int64_param": 200_000}}},
        "header": {"metadata": (("x-request-timeout-ms", "200"),)},
    }[by]

    async def use(ask: Ask) -> str:
        first = ask("ModelInfer", **latent())
        await asyncio.to_thread(model.running.wait, 10)
        second = ask("ModelInfer", **latent(), **rest)
        asyncio.get_running_loop().call_later(0.4, model.may_run.set)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await second
        await first
        return str(told.value.code().name)

    assert rpc.run(use) == "DEADLINE_EXCEEDED"


def test_an_overload_is_told_with_the_seconds_to_wait(tmp_path: Path) -> None:
    with holding(tmp_path, max_queue_seconds=1e-9) as (model, rpc):

        async def use(ask: Ask) -> dict[str, str]:
            first = ask("ModelInfer", **latent())
            await asyncio.to_thread(model.running.wait, 10)
            others = [asyncio.ensure_future(ask("ModelInfer", **latent())) for _ in range(2)]
            (refused,), (waiting,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            model.may_run.set()
            await asyncio.gather(first, waiting)
            error = refused.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return dict(error.trailing_metadata())

        told = rpc.run(use)
        assert told["imago-error"] == "overloaded"
        assert int(told["retry-after"]) >= 1
        assert int(told["grpc-retry-pushback-ms"]) == 1000 * int(told["retry-after"])


def test_models_are_loaded_and_unloaded_only_where_the_operator_allows_it(tmp_path: Path, rpc: Rpc) -> None:
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        assert rpc.refused(method, model_name="tiny-classifier")[0] == "PERMISSION_DENIED"
    make_classifier(tmp_path)
    keys = Keys(tmp_path / "keys.json")
    infer, admin = ((("x-api-key", keys.add(scope)),) for scope in (INFER, ADMIN))
    with serving(models=tmp_path, model_control=True, keys=keys.path) as allowed:
        make_classifier(tmp_path, version=2)
        asked = {"model_name": "tiny-classifier"}
        assert allowed.refused("RepositoryModelLoad", metadata=infer, **asked)[0] == "PERMISSION_DENIED"
        allowed.ask("RepositoryModelLoad", metadata=admin, **asked)
        assert allowed.ask("ModelReady", metadata=infer, name="tiny-classifier", version="2").ready
        allowed.ask("RepositoryModelUnload", metadata=admin, **asked)
        assert not allowed.ask("ModelReady", metadata=infer, name="tiny-classifier").ready
        wrong = {"parameters": {"unload_dependents": {"int64_param": 7}}}
        assert allowed.refused("RepositoryModelUnload", metadata=admin, **asked, **wrong)[0] == "INVALID_ARGUMENT"


def test_without_a_port_there_is_no_grpc_and_it_is_not_even_imported() -> None:
    program = (
        "import sys; from app.main import create_app; from app.settings import Settings;"
        "assert create_app(Settings(device='cpu')).state.rpc is None; assert 'grpc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def keep_asking(ask: Ask) -> None:
    """Ask until that is refused."""
    while True:
        await ask("ServerMetadata")


def test_certificates_are_those_of_http(tmp_path: Path, model_root: Path) -> None:
    authority = trustme.CA()
    files = tmp_path / "service.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(files[0])
    issued.private_key_pem.write_to_path(files[1])
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    async def is_live(address: str) -> bool:
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(address, trusted, options) as channel:
            answer = await channel.unary_unary(f"/{SERVICE.full_name}/ServerLive")(b"", timeout=20)
        return bool(answer == b"\x08\x01")

    for key in (None, files[1]):
        with serving(models=model_root, tls_certificate=files[0], tls_key=key) as rpc:
            assert rpc.service.run(is_live(rpc.address))
            assert rpc.refused("ServerLive")[0] == "UNAVAILABLE"


def test_a_stop_waits_for_the_calls_under_way(held: tuple[Held, Rpc]) -> None:
    model, rpc = held

    async def use(ask: Ask) -> None:
        first = ask("ModelInfer", **latent())
        await asyncio.to_thread(model.running.wait, 10)
        stopping = asyncio.create_task(rpc.service.app.state.rpc.stop(20))
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await keep_asking(ask)
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await ask("ServerLive")).live
        model.may_run.set()
        assert len((await first).raw_output_contents) == 1  # type: ignore[attr-defined]
        await stopping

    rpc.run(use)


def test_a_model_that_fails_says_nothing_of_why(held: tuple[Held, Rpc]) -> None:
    model, rpc = held
    model.failure = RuntimeError("secret")
    model.may_run.set()
    code, told = rpc.refused("ModelInfer", **latent())
    assert code == "INTERNAL"
    assert "secret" not in told


def test_a_version_goes_by_its_alias_and_plain_tensors_by_their_own_shapes(tmp_path: Path) -> None:
    make_versions(tmp_path, "aliases = { stable = 1, next = 2 }\n")
    put(tmp_path, "fixed", doubled(2, 3))
    with serving(models=tmp_path, plain_models=True) as rpc:
        versions = [rpc.ask("ModelInfer", **picture(model_version=name)).model_version for name in ("", "next", "1")]
        assert versions == ["1", "2", "1"]
        code, _ = rpc.refused("ModelInfer", **picture(model_version="old"))
        assert code == "NOT_FOUND"
        x = {"name": "x", "datatype": "FP32", "shape": [2, 3], "contents": {"fp32_contents": [1] * 6}}
        answer = rpc.ask("ModelInfer", model_name="fixed", inputs=[x])
        assert (answer.outputs[0].shape, answer.raw_output_contents[0]) == ([2, 3], np.full(6, 2, np.float32).tobytes())
