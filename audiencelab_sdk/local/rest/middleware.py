"""What happens to a request before and around the REST API: CORS and a limit of its size."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "HEAD")

_LARGEST_HEAD = 51202  # bytes, as in PostgREST's web server


class Cors(CORSMiddleware):
    """Allows all origins, since tokens decide who has access.

    Args:
        app: The REST API.
    """

    def __init__(self, app: ASGIApp) -> None:
        exposed = ("Content-Location", "Content-Range", "Location", "Preference-Applied")
        super().__init__(app, allow_origins=["*"], expose_headers=exposed)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the response to a preflight request. Unlike Starlette's, it has no body."""
        asked = request_headers.get("access-control-request-headers", "")
        names = ["Authorization", *(name.strip() for name in asked.split(",") if name.strip())]
        names += ["Accept", "Accept-Language", "Content-Language"]
        return Response(
            headers={
                "Access-Control-Allow-Origin": "*",
                "Access-Control-Allow-Methods": ", ".join(METHODS),
                "Access-Control-Allow-Headers": ", ".join(names),
                "Access-Control-Max-Age": "86400",
            }
        )


class HeadLimit:
    """Refuses requests with a long request line and headers, as PostgREST's web server does.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request or respond with 400."""
        if scope["type"] == "http" and _head_size(scope) > _LARGEST_HEAD:
            closing = {"Connection": "close"}
            await PlainTextResponse("Bad Request", 400, closing)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _head_size(scope: Scope) -> int:
    line = len(f"{scope['method']} ? HTTP/1.1\r\n") + len(scope["raw_path"] + scope["query_string"])
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
