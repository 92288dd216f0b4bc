"""What Supabase puts in front of PostgREST: the path prefix and the project's keys."""

import json
import secrets
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = "/rest/v1"


class Gateway:
    """Lets requests with one of the project's keys through to the REST API.

    The API lies under `/rest/v1/`; every other path answers 404. A request needs an `apikey`
    header, which is also its bearer token when it brings none, else it is answered 401.

    Args:
        app: The REST API.
        keys: The project's keys.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path != _PREFIX and not path.startswith(f"{_PREFIX}/"):
            await refusal(404, "no Route matched with those values")(scope, receive, send)
            return
        # The application gets a scope of its own: the one that came in is the server's.
        scope = {
            **scope,
            "path": path.removeprefix(_PREFIX) or "/",
            "raw_path": scope["raw_path"].removeprefix(_PREFIX.encode()) or b"/",
            "headers": list(scope["headers"]),
        }
        headers = MutableHeaders(scope=scope)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            # A browser's question before the request itself; it brings no key.
            await self._app(scope, receive, send)
            return
        key = headers.get("apikey")
        if key is None:
            await refusal(401, "No API key found in request")(scope, receive, send)
            return
        if not any(secrets.compare_digest(key.encode(), known) for known in self._keys):
            await refusal(401, "Invalid authentication credentials")(scope, receive, send)
            return
        headers.setdefault("authorization", f"Bearer {key}")
        await self._app(scope, receive, send)


def refusal(status: int, message: str) -> Response:
    """An answer of the gateway's own."""
    return Response(
        json.dumps({"message": message}),
        status_code=status,
        headers={"Access-Control-Allow-Origin": "*"},
        media_type="application/json; charset=utf-8",
    )
