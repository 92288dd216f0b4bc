"""The connections of one process, or of one event loop, over httpx."""

import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, cast

import anyio
import httpx

from audiencelab_sdk._http._failures import FAILURES, connection_error
from audiencelab_sdk._http._operation import Response
from audiencelab_sdk._http._settings import Settings
from audiencelab_sdk._http._statuses import redacted, status_error
from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import ClientClosedError, ConfigurationError

# For each request httpx looks at every connection and at all that wait for one, several times:
# twenty serve hundreds of tasks twice as fast as a hundred do, and PostgREST's own pool is smaller
# still.
_MOST_AT_ONCE = 20
# Idle connections are closed before common servers close them (after 5 seconds), so that a request
# that must not be repeated does not meet a connection that is just being closed.
_LIMITS = httpx.Limits(
    max_connections=_MOST_AT_ONCE, max_keepalive_connections=_MOST_AT_ONCE, keepalive_expiry=4.0
)
_USUAL_CONTENT_TYPES = {
    "application/json",
    "application/json; charset=utf-8",
    "application/vnd.pgrst.object+json; charset=utf-8",
}
# Where Supabase, or a proxy, says under which id it has logged the request.
_REQUEST_IDS = ("sb-request-id", "x-request-id", "cf-ray")


class Connections(httpx.Client):
    """The connections of one process."""

    def __init__(self, settings: Settings) -> None:
        problem: str | None = None
        try:
            super().__init__(**_options(settings))
        except _UNUSABLE as error:
            problem = _described(error)
        # Outside of the handler: the error may hold a password.
        if problem:
            raise _unusable(settings, problem)
        self._cookies = _NoCookies()
        # Not httpx's own queue: closing the pool does not reach those who wait there.
        self._turns = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response.

        Raises:
            APIStatusError: The response is not a success.
            APIConnectionError: No response arrived.
            UnexpectedResponseError: The response cannot be decompressed.
            ClientClosedError: The connections are closed.
        """
        with self._turn(request):
            if self.is_closed:
                raise closed()
            try:
                response = self.send(request)
            except RecursionError:
                raise
            except FAILURES as error:
                failure = connection_error(request, error)
            else:
                return _result(request, response)
        # Outside of the handler: httpx's error holds the request, and so the key.
        raise failure

    @contextmanager
    def _turn(self, request: httpx.Request) -> Generator[None]:
        if not self._turns.acquire(timeout=_patience(request)):
            raise connection_error(request, httpx.PoolTimeout(""))
        try:
            yield
        finally:
            self._turns.release()


class AsyncConnections(httpx.AsyncClient):
    """The connections of one event loop."""

    def __init__(self, settings: Settings) -> None:
        problem: str | None = None
        try:
            super().__init__(**_options(settings))
        except _UNUSABLE as error:
            problem = _described(error)
        # Outside of the handler: the error may hold a password.
        if problem:
            raise _unusable(settings, problem)
        self._cookies = _NoCookies()
        self._turns = anyio.Semaphore(_MOST_AT_ONCE)

    async def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response; raises what :class:`Connections` does."""
        async with self._turn(request):
            if self.is_closed:
                raise closed()
            try:
                response = await self.send(request)
            except RecursionError:
                raise
            except FAILURES as error:
                failure = connection_error(request, error)
            else:
                return _result(request, response)
        # Outside of the handler: httpx's error holds the request, and so the key.
        raise failure

    @asynccontextmanager
    async def _turn(self, request: httpx.Request) -> AsyncGenerator[None]:
        with anyio.move_on_after(_patience(request)) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise connection_error(request, httpx.PoolTimeout(""))
        try:
            yield
        finally:
            self._turns.release()


def closed() -> ClientClosedError:
    """Return the error for a call of a client that is closed."""
    return ClientClosedError(
        "the client is closed, or the one that it was derived from: "
        "make the calls before close(), or inside the with block"
    )


def _patience(request: httpx.Request) -> float:
    """Return the seconds that a request may wait for its turn."""
    return cast("float", request.extensions["timeout"]["pool"])


def _result(request: httpx.Request, response: httpx.Response) -> Response:
    # It and its stream hold each other: bodies would stay until the garbage collector comes.
    response.stream = httpx.ByteStream(b"")
    headers = response.headers
    ids = (headers[name] for name in _REQUEST_IDS if name in headers)
    request_id = next((shown(redacted(request, value)) for value in ids), None)
    if not response.is_success:
        raise status_error(response, request_id)
    content_type = headers.get("Content-Type", "")
    if content_type not in _USUAL_CONTENT_TYPES:  # looking for secrets takes long
        content_type = redacted(request, content_type)
    return Response(
        request.method,
        request.url.path,
        response.status_code,
        response.content,
        content_type,
        request_id,
    )


@cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than everything else a new client does.
    return httpx.create_ssl_context()


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "limits": _LIMITS,
        "verify": settings.verify or _ssl_context(),
        "proxy": settings.proxy and settings.proxy.get_secret_value(),
        "follow_redirects": False,
        # Over HTTP/2, threads that share a client lose connections.
        "http2": False,
    }


class _NoCookies(httpx.Cookies):
    """A pool serves many identities: what a gateway sets for one is not for the next.

    A policy of the standard library's jar that allows none takes longer than all checks of a page.
    """

    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep nothing."""


_UNUSABLE = (ImportError, OSError, ValueError, httpx.InvalidURL)


def _described(error: Exception) -> str:
    name = type(error).__name__
    # The text of the others may quote a password.
    return f"{name}: {error}" if isinstance(error, ImportError | OSError) else name


def _unusable(settings: Settings, problem: str) -> ConfigurationError:
    """Return the error for a proxy or for variables that httpx cannot use."""
    source = (
        "proxy"
        if settings.proxy
        else "one of the environment variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, "
        "SSL_CERT_FILE and SSL_CERT_DIR"
    )
    return ConfigurationError(f"{source} cannot be used ({problem})")
