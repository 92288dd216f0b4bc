"""Forward requests to PostgREST."""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from audiencelab_sdk.local.rest.disconnect import disconnected_response, respond_unless_disconnected
from audiencelab_sdk.local.rest.gateway import gateway_error

logger: logging.Logger = logging.getLogger("audiencelab_sdk.local.rest")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Headers for a single connection (RFC 9110), and headers that each server sets itself.
_HOP_BY_HOP = {
    b"connection",
    b"date",
    b"host",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"server",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}

Headers = list[tuple[bytes, bytes]]


def create_proxy(upstream: str) -> Starlette:
    """Return an ASGI application that forwards requests to another server.

    Args:
        upstream: The other server's URL, without a path.
    """
    # The database limits the duration of statements. Proxy settings in the environment do not
    # apply to loopback.
    client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=None, pool=None), trust_env=False)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with client:
            yield

    async def forward(request: Request) -> Response:
        return await respond_unless_disconnected(request, send(request, await request.body()))

    async def send(request: Request, content: bytes) -> Response:
        query = b"?" + request.scope["query_string"] if request.scope["query_string"] else b""
        forwarded = httpx.Request(
            request.method,
            httpx.URL(upstream).copy_with(raw_path=request.scope["raw_path"] + query),
            headers=_end_to_end(request.headers.raw),
            content=content or None,
        )
        try:
            upstream_response = await client.send(forwarded, stream=True)
        except httpx.TransportError as error:
            logger.warning("PostgREST does not respond: %s", error)
            return gateway_error(502, "An invalid response was received from the upstream server")
        response = StreamingResponse(
            upstream_response.aiter_raw(),
            status_code=upstream_response.status_code,
            background=BackgroundTask(upstream_response.aclose),
        )
        response.raw_headers = _end_to_end(upstream_response.headers.raw)
        return response

    return Starlette(
        routes=[Route("/{path:path}", forward, methods=_METHODS)],
        exception_handlers={ClientDisconnect: disconnected_response},
        lifespan=lifespan,
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
