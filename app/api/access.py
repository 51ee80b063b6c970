"""Who gets in: what each route needs, and the check of every request's key and quotas.

The one place where routes are given scopes. Once there are keys, a route that is not in the table is closed to all.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.api.middleware import Headers, Record
from app.errors import ModelNotFound, NotReady, ScopeMissing, ServiceError, TooManyGuesses, Unauthenticated
from app.repository.registry import LOADING, Registry
from app.security.key_file import KeyRing
from app.security.keys import ADMIN, INFER, METRICS
from app.security.limits import Guesses, Quotas
from app.tasks import TASKS
from app.telemetry.families import CounterFamily

logger = logging.getLogger("imago.audit")

PUBLIC: Final = "public"
SCOPE_OF: Final[Mapping[str, str]] = {
    **{f"/{kind}": INFER for kind in TASKS},
    "/models": INFER,
    "/models/{name}": INFER,
    "/tasks": INFER,
    "/v2/repository/models/{name}/load": ADMIN,
    "/v2/repository/models/{name}/unload": ADMIN,
    "/galleries": INFER,
    "/galleries/{gallery}": INFER,
    "/galleries/{gallery}/search": INFER,
    "/galleries/{gallery}/{id}": INFER,
    "/jobs": INFER,
    "/jobs/{job}": INFER,
    "/jobs/{job}/results": INFER,
    "/openapi.json": INFER,
    "/v2": INFER,
    "/v2/": INFER,
    "/v2/models/stats": INFER,
    **{
        f"/v2/models/{{name}}{version}{tail}": INFER
        for version in ("", "/versions/{version}")
        for tail in ("", "/ready", "/config", "/stats", "/infer")
    },
    "/v2/repository/index": ADMIN,
    "/metrics": METRICS,
    # Whoever starts and stops containers has no key. Without one they name no model.
    "/livez": PUBLIC,
    "/readyz": PUBLIC,
    "/v2/health/live": PUBLIC,
    "/v2/health/ready": PUBLIC,
    # The files of this release, the same in every installation: a browser shows them before it is given a key.
    "/": PUBLIC,
    "/docs": PUBLIC,
    "/static/{name:path}": PUBLIC,
}
"""The scope of every route, by its path as the router knows it."""

_NO_MODELS: Final[frozenset[str]] = frozenset()


class AccessControl:
    """Checks the requests of one process against the keys of the service."""

    def __init__(
        self, keys: KeyRing, quotas: Quotas, guesses: Guesses, routes: Iterable[BaseRoute], refused: CounterFamily
    ) -> None:
        self.keys = keys
        self._quotas = quotas
        self._guesses = guesses
        self._routes = routes
        self._refused = refused

    def enter(self, record: Record, scope: Scope) -> None:
        """Let a request in, and note whose it is; the router decides over the same path in the same way.

        Raises:
            Unauthenticated: the route is not public, and no key came, or none that is known.
            TooManyGuesses: that, and the address sent too many wrong ones.
            ScopeMissing: the key does not open this route.
            ModelNotFound: the path names a model that the key may not see.
            QuotaExceeded: a limit of the key is reached.
        """
        needed, name = self._asked(record, scope)
        self.check(record, needed, name, str((scope.get("client") or ("unknown",))[0]))

    def check(self, record: Record, needed: str | None, name: str | None, address: str) -> None:
        """Let a call from an address in that needs a scope, and asks for the model of a name; raises as `enter`."""
        try:
            self._check(record, needed, name, address)
        except ServiceError as error:
            self._refused.labels(error.code).inc()
            raise

    def _check(self, record: Record, needed: str | None, name: str | None, address: str) -> None:
        secret = secret_in(record.headers)
        self._know(record, secret)
        if needed == PUBLIC:
            return
        if record.caller is None:
            raise self._stranger(secret, address)
        if needed is not None and needed not in record.caller.opens:
            raise ScopeMissing(needed)
        if name is not None and not record.sees(name):
            raise ModelNotFound(name)
        self.charge(record)

    def knows(self, record: Record) -> bool:
        """Whether a request to a task comes with a good key, which is noted; `charge` has to follow."""
        self._know(record, secret_in(record.headers))
        return record.caller is not None and INFER in record.caller.opens

    def charge(self, record: Record) -> None:
        """Charge a request to its key. Raises `QuotaExceeded`."""
        caller = record.caller
        if caller is not None and caller.limits is not None:
            self._quotas.admit(caller, caller.limits)
            record.charged = True

    def leave(self, record: Record) -> None:
        """A request that was charged has ended."""
        caller = record.caller
        if caller is not None and caller.limits is not None:
            self._quotas.leave(caller, caller.limits, record.pixels)

    def _know(self, record: Record, secret: bytes | None) -> None:
        caller = None if secret is None else self.keys.find(secret, time.monotonic(), time.time())
        record.caller = caller
        record.models = _NO_MODELS if caller is None else caller.models

    def _asked(self, record: Record, scope: Scope) -> tuple[str | None, str | None]:
        """The scope of the route that the router will take, None where it will find none; and the model in the path."""
        taken: BaseRoute | None = None
        parameters: Mapping[str, str] = {}
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                taken, parameters = route, found["path_params"]
                break
            if match is Match.PARTIAL and taken is None:
                taken = route
        if taken is None:
            return None, None
        record.route = getattr(taken, "path", "")
        needed = SCOPE_OF.get(record.route, "undeclared")
        return needed, parameters.get("name") if needed == INFER else None

    def _stranger(self, secret: bytes | None, address: str) -> ServiceError:
        if secret is None:
            return Unauthenticated("This needs an API key: send it as Authorization: Bearer KEY, or as X-API-Key.")
        if seconds := self._guesses.failed(address):
            return TooManyGuesses(seconds)
        logger.warning("a wrong key came from %s", address)
        return Unauthenticated("This API key is unknown, has expired or was revoked.")


def describe_keys(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document how keys are sent, and which operations ask for none."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    document["security"] = [{name: []} for name in schemes]
    for path, operations in document["paths"].items():
        if SCOPE_OF.get(path) == PUBLIC:
            for operation in operations.values():
                operation["security"] = []


def check_sees(record: Record, registry: Registry, kind: str, name: str | None, version: int | str | None) -> None:
    """Refuse the model that a call names, or the task's default, as one that does not exist, where the caller may not
    see it.

    Raises:
        ModelNotFound, NotReady: what a model of an unknown name is answered with.
    """
    if record.models is None:
        return
    default = registry.default(kind) if name is None else None
    asked = default.manifest.name if default is not None else name
    if asked is None or asked not in record.models:
        raise ModelNotFound(name, version) if registry.settled.is_set() else NotReady(LOADING)


def secret_in(headers: Headers) -> bytes | None:
    """The secret that came with a request (RFC 6750, section 2.1), or None; never looked for in the query string, which
    ends up in logs."""
    scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return secret.strip()
    return headers.get(b"x-api-key")
