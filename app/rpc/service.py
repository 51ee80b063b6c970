"""The methods of the service. Each call has a record, is checked for its key, counted and logged as a request is."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import grpc

from app.api.access import PUBLIC
from app.api.admin import note
from app.api.calls import timeout_seconds
from app.api.errors import problem_answer, status_of
from app.api.management_routes import Management
from app.api.middleware import Edge, Record, headers_read
from app.api.protocol_infer import LONG, UNKNOWN_TASK, Call, answered, find_model, version_number
from app.api.protocol_models import Json, Models, repository_index, server_metadata
from app.api.protocol_requests import Signature
from app.api.task_routes import Limits
from app.errors import InternalError, InvalidRequest, ModelNotFound, NotReady, RequestTimeout, ServiceError
from app.repository.registry import Registry
from app.rpc.messages import (
    SERVICE,
    Message,
    class_of,
    message_in,
    message_of,
    parameters_of,
    read_request,
    write_answer,
)
from app.security.keys import ADMIN, INFER
from app.telemetry.logs import request_id

logger = logging.getLogger("imago.rpc")

_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""What a status of HTTP is in gRPC; INVALID_ARGUMENT for those that are not here."""
SCOPES: Final = {
    "ServerLive": PUBLIC, "ServerReady": PUBLIC, "ServerMetadata": INFER, "ModelReady": INFER, "ModelMetadata": INFER,
    "ModelConfig": INFER, "ModelStatistics": INFER, "ModelInfer": INFER, "RepositoryIndex": ADMIN,
    "RepositoryModelLoad": ADMIN, "RepositoryModelUnload": ADMIN,
}  # fmt: skip
"""What each method needs, once there are keys."""

Context = Any
"""`grpc.aio.ServicerContext`."""
Tell = Callable[[Message, Record], Json]
Do = Callable[[str, Mapping[str, Any]], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Health:
    """What this process says of itself."""

    is_live: Callable[[], bool]
    is_ready: Callable[[], bool]


class Service:
    """All methods, over one registry."""

    def __init__(
        self, registry: Registry, models: Models, management: Management, health: Health, limits: Limits, edge: Edge,
        body_seconds: float,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._models = models
        self._limits = limits
        self._edge = edge
        self._body_seconds = body_seconds
        self._told: dict[str, Tell] = {
            "ServerLive": lambda message, record: {"live": health.is_live()},
            "ServerReady": lambda message, record: {"ready": health.is_ready()},
            "ServerMetadata": lambda message, record: server_metadata(),
            "ModelReady": self._ready,
            "ModelMetadata": lambda message, record: models.metadata(*_asked(message)),
            "ModelConfig": lambda message, record: {"config": models.config(*_asked(message))},
            "ModelStatistics": self._statistics,
            "RepositoryIndex": lambda message, record: {"models": repository_index(registry, message.ready)},
        }
        self._done: dict[str, Do] = {
            "RepositoryModelLoad": management.load, "RepositoryModelUnload": management.unload,
        }  # fmt: skip
        self._working: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._stopping = False

    async def finish(self, seconds: float) -> None:
        """Refuse what comes from now on, and wait so many seconds at most for what is under way."""
        self._stopping = True
        try:
            async with asyncio.timeout(seconds):
                await self._none_under_way.wait()
        except TimeoutError:
            logger.warning("%d calls are given up", self._under_way)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server of gRPC calls, by the path of each method. On the wire a stream that holds one message is that
        message; the server would wait for it for ever, and take it for a call under way."""
        handlers = {
            method.name: grpc.stream_unary_rpc_method_handler(
                partial(self._receive, method),
                request_deserializer=partial(message_in, class_of(method.input_type)),
                response_serializer=class_of(method.output_type).SerializeToString,
            )
            for method in SERVICE.methods
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)

    async def _receive(self, method: Any, _: object, context: Context) -> Message:
        """Answer a call whose message comes in the time that a body has, or abort it."""
        try:
            async with asyncio.timeout(self._body_seconds):
                message = await context.read()
        except TimeoutError:
            return await _abort(context, RequestTimeout(), Record.of(headers_read(_metadata(context))))
        return await self._call(method, None if message is grpc.aio.EOF else message, context)

    async def _call(self, method: Any, message: Message | None, context: Context) -> Message:
        """Answer one call, or abort it with the error in gRPC's words."""
        begun = self._edge.clock()
        path = f"/{SERVICE.full_name}/{method.name}"
        record = Record.of(headers_read(_metadata(context)))
        token = request_id.set(record.id)
        self._under_way += 1
        self._none_under_way.clear()
        try:
            answer = await self._answer(method, message, context, record)
            record.status = 200
            await context.send_initial_metadata(_initial(record))
            return answer
        except ServiceError as error:
            record.status = status_of(error)
            return await _abort(context, error, record)
        except asyncio.CancelledError:
            record.status = 499  # the caller left: nginx's status for logs and metrics
            raise
        finally:
            self._edge.finish(record, self._edge.clock() - begun, "gRPC", path)
            if SCOPES[method.name] == ADMIN:
                note(record, _address(context), "gRPC", path)
            request_id.reset(token)
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    async def _answer(self, method: Any, message: Message | None, context: Context, record: Record) -> Message:
        name = getattr(message, "model_name" if method.name == "ModelInfer" else "name", "")
        if self._edge.access is not None:
            self._edge.access.check(record, SCOPES[method.name], name or None, _address(context))
        if self._stopping and SCOPES[method.name] != PUBLIC:
            raise NotReady("The service is stopping: retry elsewhere.")
        if message is None:
            raise InvalidRequest(f"The bytes are no message of {method.name}.")
        try:
            if method.name == "ModelInfer":
                return await self._infer(message, context, record)
            if (do := self._done.get(method.name)) is not None:
                await self._to_its_end(do(message.model_name, parameters_of(message)))
                return class_of(method.output_type)()
            return message_of(class_of(method.output_type), self._told[method.name](message, record))
        except (ServiceError, asyncio.CancelledError):
            raise
        except Exception:  # a fault of ours: its text belongs into the log and never into the answer
            logger.exception("unexpected failure of %s", method.name)
            raise InternalError from None

    async def _infer(self, message: Message, context: Context, record: Record) -> Message:
        record.task = UNKNOWN_TASK
        begun = time.monotonic()
        servable = find_model(self._registry, message.model_name, message.model_version or None, record)
        patience = timeout_seconds(record.headers.get(b"x-request-timeout-ms"), self._limits.timeout_seconds)
        left = context.time_remaining()
        latest = begun + min(patience, math.inf if left is None else left)
        servable.admit(latest)
        signature = Signature.of(servable, self._limits.max_pictures)
        version = servable.manifest.version
        call: Call[Message] = Call(
            read=lambda: read_request(message, signature),
            is_long=not message.raw_input_contents and message.ByteSize() > LONG,
            write=lambda request, outputs: write_answer(request, version, outputs, signature),
            begun=begun,
            latest=latest,
        )
        return await answered(servable, call, record)

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await what changes the service; a caller that leaves does not stop it half way."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        await asyncio.shield(task)

    def _ready(self, message: Message, record: Record) -> Json:
        """Of an unknown model that it is not, as Triton says."""
        try:
            return {"ready": self._models.ready(*_asked(message))["ready"]}
        except (ModelNotFound, NotReady):
            return {"ready": False}

    def _statistics(self, message: Message, record: Record) -> Json:
        return self._models.stats(*_asked(message)) if message.name else self._models.all_stats(record.sees)


def _asked(message: Message) -> tuple[str, int | str | None]:
    """The model and the version that a message names."""
    return message.name, version_number(message.name, message.version or None)


def _metadata(context: Context) -> list[tuple[bytes, bytes]]:
    found = context.invocation_metadata() or ()
    return [(key.encode(), value.encode() if isinstance(value, str) else value) for key, value in found]


def _address(context: Context) -> str:
    """The caller's address without its port: `127.0.0.1` of `ipv4:127.0.0.1:5000`, `::1` of `ipv6:%5B::1%5D:5000`."""
    return str(context.peer()).partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")


def _initial(record: Record) -> tuple[tuple[str, str], ...]:
    version = () if record.version is None else (("x-model-version", str(record.version)),)
    return ("x-request-id", record.id), *version


async def _abort(context: Context, error: ServiceError, record: Record) -> NoReturn:
    """End a call with an error. A client that retries by itself waits as `grpc-retry-pushback-ms` says (gRFC A6); for
    others the same stands in seconds, as over HTTP."""
    _, headers, _ = problem_answer(error, record.id)
    trailing = [("x-request-id", record.id), ("imago-error", error.code)]
    if (seconds := headers.get("retry-after")) is not None:
        trailing += [("retry-after", seconds), ("grpc-retry-pushback-ms", f"{seconds}000")]
    code = _CODES.get(status_of(error), grpc.StatusCode.INVALID_ARGUMENT)
    await context.abort(code, error.detail, tuple(trailing))
    raise AssertionError("a call that was aborted goes on")
