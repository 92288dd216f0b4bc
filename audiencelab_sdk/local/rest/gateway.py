"""Supabase's API gateway in front of PostgREST: the path prefix and the project's keys."""

import json
import secrets
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = "/rest/v1"


class Gateway:
    """Forwards requests with one of the project's keys to the REST API.

    The API is at `/rest/v1/`; other paths return 404. A request without a valid `apikey` header
    returns 401. Without a bearer token of its own, a request uses its API key as the token.

    Args:
        app: The REST API.
        keys: The project's keys.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request or forward it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path != _PREFIX and not path.startswith(f"{_PREFIX}/"):
            await gateway_error(404, "no Route matched with those values")(scope, receive, send)
            return
        # A copy, because the scope belongs to the server.
        scope = {
            **scope,
            "path": path.removeprefix(_PREFIX) or "/",
            "raw_path": scope["raw_path"].removeprefix(_PREFIX.encode()) or b"/",
            "headers": list(scope["headers"]),
        }
        headers = MutableHeaders(scope=scope)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            # Browsers send preflight requests without the key.
            await self._app(scope, receive, send)
            return
        key = headers.get("apikey")
        if key is None:
            await gateway_error(401, "No API key found in request")(scope, receive, send)
            return
        if not any(secrets.compare_digest(key.encode(), known) for known in self._keys):
            await gateway_error(401, "Invalid authentication credentials")(scope, receive, send)
            return
        headers.setdefault("authorization", f"Bearer {key}")
        await self._app(scope, receive, send)


def gateway_error(status: int, message: str) -> Response:
    """Return an error response of the gateway."""
    return Response(
        json.dumps({"message": message}),
        status_code=status,
        headers={"Access-Control-Allow-Origin": "*"},
        media_type="application/json; charset=utf-8",
    )
