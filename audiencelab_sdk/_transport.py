"""HTTP: the connection pools, the headers, and the typed error that every failure becomes.

postgrest-py sends its requests through these pools. They raise for every answer that is no
success, so its own errors, which lose the HTTP status, are never made.
"""

import logging
import ssl
import time
from functools import cache
from typing import Any, cast

import httpx
from postgrest import AsyncPostgrestClient, SyncPostgrestClient

from audiencelab_sdk._config import Settings
from audiencelab_sdk._failure import connection_error
from audiencelab_sdk._status import status_error
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import AudienceLabError, ClientClosedError

logger = logging.getLogger("audiencelab_sdk")

# For each request httpx looks at every connection, several times: twenty serve hundreds of tasks
# twice as fast as a hundred do, and PostgREST's own pool is smaller still. Idle ones go before
# common servers close them (after 5 seconds), so that a call which must not be repeated does not
# meet a closing one.
_LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=20, keepalive_expiry=4.0)


@cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than everything else a new client does.
    return httpx.create_ssl_context()


def _options() -> dict[str, Any]:
    return {
        "limits": _LIMITS,
        "verify": _ssl_context(),
        "follow_redirects": False,
        # Over HTTP/2, threads that share a client lose connections.
        "http2": False,
    }


class Pool(httpx.Client):
    """Connections that answer with a success or raise an AudienceLabError."""

    def __init__(self) -> None:
        super().__init__(**_options())

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send `request`, and log its path, status and duration at DEBUG."""
        if self.is_closed:
            raise _closed()
        exchange = _Exchange(request)
        failure: AudienceLabError | None
        try:
            response = super().send(request, **options)
        except httpx.RequestError as error:
            failure = exchange.failed(error)
        else:
            failure = exchange.answered(response)
            if failure is None:
                return response
        # Outside of the handler: the httpx error holds the request, and so the key.
        raise failure


class AsyncPool(httpx.AsyncClient):
    """Like :class:`Pool`, awaited."""

    def __init__(self) -> None:
        super().__init__(**_options())

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Like :meth:`Pool.send`, awaited."""
        if self.is_closed:
            raise _closed()
        exchange = _Exchange(request)
        failure: AudienceLabError | None
        try:
            response = await super().send(request, **options)
        except httpx.RequestError as error:
            failure = exchange.failed(error)
        else:
            failure = exchange.answered(response)
            if failure is None:
                return response
        # Outside of the handler: the httpx error holds the request, and so the key.
        raise failure


class _Session:
    """A pool as one client uses it: with its token and its timeout.

    postgrest-py asks no more of its httpx client. One class serves both of them: what `request`
    returns is the pool's answer, or a promise of it.
    """

    auth = None

    def __init__(self, pool: Pool | AsyncPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings

    def request(self, method: str, url: str, *, headers: httpx.Headers, **options: Any) -> Any:
        headers["Authorization"] = f"Bearer {self._settings.token().get_secret_value()}"
        options["timeout"] = self._settings.timeout
        return self._pool.request(method, url, headers=headers, **options)


def postgrest(settings: Settings, pool: Pool) -> SyncPostgrestClient:
    """The postgrest-py client that acts as one identity over `pool`."""
    return SyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_headers(settings),
        http_client=cast("httpx.Client", _Session(pool, settings)),
        retry_enabled=False,
    )


def async_postgrest(settings: Settings, pool: AsyncPool) -> AsyncPostgrestClient:
    """Like :func:`postgrest`, for the asynchronous client."""
    return AsyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_headers(settings),
        http_client=cast("httpx.AsyncClient", _Session(pool, settings)),
        retry_enabled=False,
    )


def _headers(settings: Settings) -> dict[str, str]:
    return {
        "Accept": "application/json",
        "apikey": settings.key.get_secret_value(),
        "X-Client-Info": f"audiencelab-sdk/{__version__}",
    }


def _closed() -> ClientClosedError:
    return ClientClosedError(
        "the client is closed, or the one that it was derived from: "
        "make the calls before close(), or inside the with block"
    )


class _Exchange:
    """One request on its way: judges what comes of it, and logs it at DEBUG."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._started = time.perf_counter()

    def answered(self, response: httpx.Response) -> AudienceLabError | None:
        """What the answer, which has been read, says is wrong; None for a success."""
        self._log(response.status_code)
        # It and its stream hold each other: bodies would stay until the garbage collector comes.
        response.stream = httpx.ByteStream(b"")
        return None if response.is_success else status_error(response)

    def failed(self, error: httpx.RequestError) -> AudienceLabError:
        """What it means that no answer came."""
        self._log(type(error).__name__)
        return connection_error(self._request, error)

    def _log(self, outcome: object) -> None:
        logger.debug(
            "%s %s: %s in %.0f ms (attempt %d)",
            self._request.method,
            self._request.url.path,
            outcome,
            (time.perf_counter() - self._started) * 1000,
            int(self._request.headers.get("X-Retry-Count", "0")) + 1,
        )
