"""What the operator chooses at start: flags, or `IMAGO_*` in the environment. Read by `main` and `api` only."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import InvalidSettings
from app.manifest import explain, nearest

PREFIX = "IMAGO_"
CLIENT_VARIABLES = ("IMAGO_URL", "IMAGO_API_KEY")
"""What commands that ask a service read: no settings, and nothing that a server on the same machine refuses."""
FORMATS = ("jpeg", "png", "webp", "bmp", "gif", "tiff", "avif")


_CACHE = Path("~/.cache/imago")


class Settings(BaseSettings):
    """The settings of one process. Each is a flag (`--max-pixels`) and a variable (`IMAGO_MAX_PIXELS`)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="Port for gRPC; 0 takes a free one, none is off.")
    keys: Path | None = Field(None, description="File of API keys (`imago keys create`); none to ask nobody for one.")
    insecure_no_auth: bool = Field(False, description="Let everybody call who reaches an address that is not loopback.")
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate chain; none for plain HTTP.")
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; none where the certificate's holds it."
    )
    models: Path = Field(Path("models"), description="Folder of models: NAME/VERSION/manifest.json.")
    signed_by: Path | None = Field(
        None, description="Public key (PEM) that versions must be signed with; none for any."
    )
    workers: int = Field(0, ge=0, le=64, description="HTTP processes; 0 or auto for one a core, at most 16.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where sessions run.")
    threads: int = Field(0, ge=0, le=1024, description="Threads of one session; 0 for what measures best.")
    concurrency: int = Field(0, ge=0, le=64, description="Batches of one model in flight; 0 for what measures best.")
    cache: Path | None = Field(
        _CACHE,
        validate_default=True,
        description="Folder for what was measured, below $XDG_CACHE_HOME; empty for none.",
    )
    default_models: Annotated[Mapping[str, str], NoDecode] = Field(
        {}, description="Model that answers where a request names none: classify=NAME,segment=NAME."
    )
    galleries: Path | None = Field(None, description="Folder of galleries, made if it is not there; none for none.")
    max_vectors: int = Field(1_000_000, ge=1, le=100_000_000, description="Most vectors of all galleries together.")
    formats: Annotated[tuple[str, ...], NoDecode] = Field(
        ("jpeg", "png", "webp"), description="Picture formats taken; also known: bmp, gif, tiff, avif."
    )
    max_body_bytes: int = Field(25 * 2**20, ge=1024, description="Longest request body, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, le=89_478_485, description="Most pixels that one picture may have.")
    max_pictures: int = Field(32, ge=1, le=1024, description="Most pictures in one request.")
    max_decode_bytes: int = Field(
        512 * 2**20,
        ge=2**20,
        description="Most memory for pictures while they are decoded, of all HTTP processes together.",
    )
    max_connections: int = Field(1000, ge=1, description="Most open connections of one HTTP process.")
    head_timeout_seconds: float = Field(10.0, gt=0, le=3600, description="Time for the head of a request to come.")
    body_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="Time for the body of a request to come.")
    write_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="Time for an answer to be read.")
    keep_alive_seconds: float = Field(5.0, gt=0, le=3600, description="Rest after which a connection is closed.")
    request_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="Deadline of a request that names none.")
    max_queue_seconds: float = Field(5.0, gt=0, le=3600, description="Longest queue before requests are refused.")
    drain_delay_seconds: float = Field(0.0, ge=0, le=3600, description="Time to serve on, not ready, at SIGTERM.")
    drain_seconds: int = Field(30, ge=0, le=3600, description="Time for running requests to end at a stop.")
    strict_readiness: bool = Field(False, description="Not ready while any chosen model is broken.")
    model_control: bool = Field(
        False, description="Let callers load and unload models: /v2/repository/models/NAME/load."
    )
    plain_models: bool = Field(
        False, description="Serve NAME/VERSION/model.onnx without a manifest, too: tensors over /v2."
    )
    poll_seconds: float = Field(0.0, ge=0, le=86_400, description="Interval of looking for new versions; 0 for never.")
    trial_seconds: float = Field(
        60.0, ge=0, le=3600, description="Time for a new graph to open in a process of its own; 0 to do without."
    )
    trial_memory_bytes: int = Field(8 * 2**30, ge=2**30, description="Address space of that process, on a CPU.")
    jobs_dir: Path | None = Field(None, description="Folder that background jobs are kept in; none to take none.")
    jobs_max_pictures: int = Field(10_000, ge=1, le=65_535, description="Most pictures in one job.")
    jobs_max_bytes: int = Field(
        256 * 2**20, ge=1024, le=2**31 - 1, description="Most bytes of one job: as sent, unpacked, and of its results."
    )
    jobs_max_count: int = Field(100, ge=1, le=10_000, description="Most jobs that are kept, ended or not.")
    jobs_max_disk_bytes: int = Field(4 * 2**30, ge=1024, description="Most bytes that all jobs take on the disk.")
    jobs_keep_seconds: float = Field(
        86_400.0, gt=0, le=3_155_760_000, description="Time that a job is kept after its end."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")
    log_format: Literal["text", "json"] = Field("text", description="Form of log lines.")

    @field_validator("workers", mode="before")
    @classmethod
    def _auto(cls, value: object) -> object:
        return 0 if value == "auto" else value

    @field_validator("insecure_no_auth")
    @classmethod
    def _not_beside_keys(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("keys") is not None:
            raise ValueError("there are keys: leave out one of the two")
        return value

    @field_validator("tls_key")
    @classmethod
    def _not_alone(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("it needs a tls_certificate")
        return value

    @field_validator(
        "cache", "galleries", "grpc_port", "jobs_dir", "keys", "signed_by", "tls_certificate", "tls_key", mode="before"
    )
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("cache")
    @classmethod
    def _below_the_user_s_cache(cls, value: Path | None) -> Path | None:
        """XDG Base Directory Specification 0.8: a relative path is to be ignored."""
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return base / "imago" if value == _CACHE and base.is_absolute() else value

    @field_validator("formats", mode="before")
    @classmethod
    def _split_formats(cls, value: object) -> object:
        names = [name.strip().lower() for name in value.split(",")] if isinstance(value, str) else value
        for name in names if isinstance(names, list | tuple) else ():
            if name not in FORMATS:
                raise ValueError(f"{name!r} is no format{nearest(str(name), dict.fromkeys(FORMATS))}")
        return names

    @field_validator("default_models", mode="before")
    @classmethod
    def _split_defaults(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(task.strip() and name.strip() for task, _, name in pairs):
            raise ValueError("write task=model, several separated by commas")
        return {task.strip(): name.strip() for task, _, name in pairs}


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """Settings from flags (which win) and the environment.

    Raises:
        InvalidSettings: a variable `IMAGO_*` is unknown, or a value cannot be used; the sentence names both.
    """
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known and variable not in CLIENT_VARIABLES:
            raise InvalidSettings(f"{variable} in the environment is unknown{nearest(variable, known)}")
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise InvalidSettings(explain(error, Settings)) from None
