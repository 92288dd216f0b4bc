"""Passes requests on to a PostgREST that runs as a program of its own."""

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from audiencelab_sdk.local.rest.disconnect import answer_nobody, respond_unless_gone
from audiencelab_sdk.local.rest.gateway import refusal

logger: logging.Logger = logging.getLogger("audiencelab_sdk.local.rest")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# About one connection and not about the message (RFC 9110), or written anew on the next one.
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
    """An ASGI application that answers what another server answers.

    Args:
        upstream: The other server's URL, without a path.
    """
    # A statement may take as long as the database allows; the environment's proxies are for
    # the internet.
    client = httpx.AsyncClient(timeout=httpx.Timeout(10, read=None, pool=None), trust_env=False)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with client:
            yield

    async def forward(request: Request) -> Response:
        return await respond_unless_gone(request, ask(request, await request.body()))

    async def ask(request: Request, content: bytes) -> Response:
        query = b"?" + request.scope["query_string"] if request.scope["query_string"] else b""
        question = httpx.Request(
            request.method,
            httpx.URL(upstream).copy_with(raw_path=request.scope["raw_path"] + query),
            headers=_end_to_end(request.headers.raw),
            content=content or None,
        )
        try:
            answer = await client.send(question, stream=True)
        except httpx.TransportError as error:
            logger.warning("PostgREST does not answer: %s", error)
            return refusal(502, "An invalid response was received from the upstream server")
        response = StreamingResponse(
            answer.aiter_raw(),
            status_code=answer.status_code,
            background=BackgroundTask(answer.aclose),
        )
        response.raw_headers = _end_to_end(answer.headers.raw)
        return response

    return Starlette(
        routes=[Route("/{path:path}", forward, methods=_METHODS)],
        exception_handlers={ClientDisconnect: answer_nobody},
        lifespan=lifespan,
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
