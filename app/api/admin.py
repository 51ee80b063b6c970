"""What routes of the scope `admin` get besides the check of keys: an audit, and a check of where browsers come from."""

import ipaddress
import logging
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.access import SCOPE_OF
from app.api.middleware import Record, record_of
from app.errors import ForeignOrigin
from app.security.keys import ADMIN
from app.telemetry.logs import AUDIT

logger = logging.getLogger("imago.audit")

_LONGEST: Final = 200


def audit(record: Record, scope: Scope) -> None:
    """Log who asked for something that is an administrator's, what it was and what came of it."""
    route = record.route or getattr(scope.get("route"), "path", "")
    if SCOPE_OF.get(route) == ADMIN:
        note(record, str((scope.get("client") or ("unknown",))[0]), scope["method"], scope["path"])


def note(record: Record, address: str, method: str, path: str) -> None:
    """Log a request of an administrator's, or of somebody who would be one."""
    who = "nobody known" if record.caller is None else record.caller.key
    logger.info(AUDIT, who, address, method, path[:_LONGEST], record.status)


def guard(routes: list[BaseRoute]) -> list[BaseRoute]:
    """Let no page of a stranger ask the administrators' routes where there are no keys: a browser sends what any page
    tells it to, to addresses that only its own machine can reach. A key it does not know."""
    for route in routes:
        if isinstance(route, Route) and SCOPE_OF.get(route.path) == ADMIN:
            route.app = _guarded(route.app)
    return routes


def _guarded(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and record_of(scope).caller is None and not _is_own(origin, headers.get("host", "")):
            raise ForeignOrigin
        await app(scope, receive, send)

    return answer


def _is_own(origin: str, host: str) -> bool:
    """Whether a page was loaded from here: from the host that is asked now, by its address or as `localhost`. Any other
    name may be one that a stranger points here for a while (DNS rebinding)."""
    try:
        found = urlsplit(origin)
        name = found.hostname or ""
        return found.netloc == host and (name == "localhost" or bool(ipaddress.ip_address(name)))
    except ValueError:
        return False
