"""Loading and unloading: the repository extension of the Open Inference Protocol, as Triton defines it.

Switched off unless the operator allows it: whoever may load models decides what code runs here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol, TypeVar

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from app.api.refusals import refusals
from app.errors import ControlOff, InvalidRequest, LoadRefused, ModelNotFound, NotReady
from app.manifest import explain
from app.serving import Versions

ParametersT = TypeVar("ParametersT", bound=BaseModel)

_REFUSALS: Final = (InvalidRequest, LoadRefused, ControlOff, ModelNotFound, NotReady)


class Manages(Protocol):
    """Who loads and unloads: here, or in the process that decides."""

    async def load(self, name: str, versions: Versions | None = None) -> None:
        """As `app.repository.manager.Manager.load`."""

    async def unload(self, name: str) -> None:
        """As `app.repository.manager.Manager.unload`."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Latest(_Strict):
    num_versions: int = Field(1, ge=1, le=1)


class _Specific(_Strict):
    versions: tuple[Annotated[int, Field(ge=1, le=999_999_999)], ...] = Field(min_length=1)


class _VersionPolicy(_Strict):
    latest: _Latest | None = None
    all: dict[str, Any] | None = None
    specific: _Specific | None = None


class _Configuration(_Strict):
    """What of Triton's model configuration can be chosen at a load."""

    name: str | None = None
    version_policy: _VersionPolicy | None = None


class LoadParameters(_Strict):
    """`config` is a JSON string: `{"version_policy": {"specific": {"versions": [2]}}}`, or `latest`, or `all`."""

    config: str | None = None


class UnloadParameters(_Strict):
    """No model depends on another here: `unload_dependents` changes nothing."""

    unload_dependents: bool = False


class _Body(_Strict):
    parameters: dict[str, Any] = {}


class Done(BaseModel):
    """What was done."""

    name: str
    load: bool | None = None
    unload: bool | None = None


class Management:
    """Does what callers ask with the models, where the operator allows it, in whichever form they ask."""

    def __init__(self, manages: Manages, allowed: bool) -> None:
        self._manages = manages
        self._allowed = allowed

    def allow(self) -> None:
        """Refuse everybody where the operator does. Raises `ControlOff`."""
        if not self._allowed:
            raise ControlOff

    async def load(self, name: str, given: Mapping[str, Any]) -> None:
        """Load a model, or what is new of it; `LoadParameters` are given.

        Raises:
            ControlOff, InvalidRequest: it is not allowed, or not what may be asked.
            LoadRefused, ModelNotFound, NotReady: as `app.repository.manager.Manager.load`.
        """
        self.allow()
        config = _read(LoadParameters, given).config
        await self._manages.load(name, None if config is None else _versions(name, config))

    async def unload(self, name: str, given: Mapping[str, Any]) -> None:
        """Unload a model, all its versions; `UnloadParameters` are given. Raises as `load`."""
        self.allow()
        _read(UnloadParameters, given)
        await self._manages.unload(name)


def management_routes(management: Management) -> APIRouter:
    """The routes that change what is loaded. They answer when every process has followed."""
    router = APIRouter(
        tags=["management"], prefix="/v2/repository/models", responses=refusals(_REFUSALS, protocol=True)
    )

    @router.post(
        "/{name}/load", summary="Load a model, or what is new of it", openapi_extra=_takes(LoadParameters),
        response_model_exclude_none=True,
    )  # fmt: skip
    async def load(name: str, request: Request) -> Done:
        management.allow()
        await management.load(name, _parameters(await request.body()))
        return Done(name=name, load=True)

    @router.post(
        "/{name}/unload", summary="Unload a model: all its versions", openapi_extra=_takes(UnloadParameters),
        response_model_exclude_none=True,
    )  # fmt: skip
    async def unload(name: str, request: Request) -> Done:
        management.allow()
        await management.unload(name, _parameters(await request.body()))
        return Done(name=name, unload=True)

    return router


def _parameters(body: bytes) -> Mapping[str, Any]:
    """The parameters in a body; clients send nothing, `{}`, or what is documented."""
    try:
        return _Body.model_validate(orjson.loads(body or b"{}")).parameters
    except orjson.JSONDecodeError:
        raise InvalidRequest("The body is not JSON: send nothing, or the parameters of a load.") from None
    except ValidationError as error:
        raise InvalidRequest(explain(error, _Body)) from None


def _read(wanted: type[ParametersT], given: Mapping[str, Any]) -> ParametersT:
    if any(key.startswith("file:") for key in given):
        raise InvalidRequest("Files are not taken: put the version into the folder of models, and load it.")
    try:
        return wanted.model_validate(given)
    except ValidationError as error:
        raise InvalidRequest(explain(error, wanted)) from None


def _versions(name: str, config: str) -> Versions | None:
    """The versions that a model configuration chooses; None where it leaves that to `serving.toml`.

    Raises:
        InvalidRequest: it is no JSON, for another model, or sets what cannot be set at a load.
    """
    try:
        chosen = _Configuration.model_validate_json(config)
    except ValidationError as error:
        raise InvalidRequest(f"config: {explain(error, _Configuration)}") from None
    if chosen.name not in (None, "", name):
        raise InvalidRequest(f"config: it is for the model {chosen.name[:64]!r}.")
    policy = chosen.version_policy
    if policy is None:
        return None
    if policy.specific is not None:
        return policy.specific.versions
    return "latest" if policy.all is None else "all"


def _takes(parameters: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of the body, which clients send with or without a media type."""
    schema = {"type": "object", "properties": {"parameters": parameters.model_json_schema()}}
    content = {"schema": schema, "example": {"parameters": {}}}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}
