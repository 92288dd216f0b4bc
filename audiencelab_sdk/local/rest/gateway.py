"""Supabase's API gateway in front of PostgREST: the path prefix and the project's keys."""

import json
from collections.abc import Callable, Mapping
from secrets import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = "/rest/v1"
_SECRET_KEY = "sb_secret_"  # noqa: S105 - how such keys begin
_BROWSER = "Mozilla/"


class Gateway:
    """Forwards requests with one of the project's keys to the REST API.

    The API is at `/rest/v1/`; other paths return 404. A request without a valid `apikey` header
    returns 401, and so does a secret key from a browser.

    A request without a bearer token of its own gets the token of its key. A token that equals the
    key counts as none, because Supabase's clients send the key twice if nobody is signed in.

    Args:
        app: The REST API.
        keys: The project's keys. Each has a function that returns the token of its requests.
    """

    def __init__(self, app: ASGIApp, keys: Mapping[str, Callable[[], str]]) -> None:
        self._app = app
        self._keys = [(key.encode(), token) for key, token in keys.items()]

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
        # Browsers send preflight requests without the key.
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        refusal = None if preflight else self._identify(headers)
        await (refusal or self._app)(scope, receive, send)

    def _identify(self, headers: MutableHeaders) -> Response | None:
        """Set the token of a request, or return the response to one without a valid key."""
        key = headers.get("apikey")
        if key is None:
            return gateway_error(401, "No API key found in request")
        given = key.encode()
        # All are compared, so that the duration says nothing about a key.
        tokens = [token for known, token in self._keys if compare_digest(given, known)]
        if not tokens:
            return gateway_error(401, "Invalid authentication credentials")
        if key.startswith(_SECRET_KEY) and _is_browser(headers):
            return gateway_error(
                401,
                "Forbidden use of secret API key in browser",
                hint="Secret API keys can only be used in a protected environment and should never "
                "be used in a browser. Delete this secret API key immediately!",
            )
        if headers.get("authorization", f"Bearer {key}") == f"Bearer {key}":
            headers["authorization"] = f"Bearer {tokens[0]()}"
        return None


def gateway_error(status: int, message: str, *, hint: str | None = None) -> Response:
    """Return an error response of the gateway."""
    return Response(
        json.dumps({"message": message} | ({"hint": hint} if hint else {})),
        status_code=status,
        headers={"Access-Control-Allow-Origin": "*"},
        media_type="application/json; charset=utf-8",
    )


def _is_browser(headers: Headers) -> bool:
    # The only header that Supabase looks at.
    return headers.get("user-agent", "").startswith(_BROWSER)
