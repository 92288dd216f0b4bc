"""HTTP: the connection pools, the headers, and the typed error that every failure becomes.

postgrest-py sends its requests through these pools. They raise for every answer that is no
success, so its own errors, which lose the HTTP status, are never made.
"""

import logging
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import anyio
import httpx
from postgrest import AsyncPostgrestClient, SyncPostgrestClient

from audiencelab_sdk._config import Settings
from audiencelab_sdk._failure import connection_error
from audiencelab_sdk._status import status_error
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import AudienceLabError, ClientClosedError, ConfigurationError

logger = logging.getLogger("audiencelab_sdk")

# For each request httpx looks at every connection and at all that wait for one, several times:
# twenty serve hundreds of tasks twice as fast as a hundred do, and PostgREST's own pool is smaller
# still.
_MOST_AT_ONCE = 20
# Idle connections go before common servers close them (after 5 seconds), so that a call which
# must not be repeated does not meet a closing one.
_LIMITS = httpx.Limits(
    max_connections=_MOST_AT_ONCE, max_keepalive_connections=_MOST_AT_ONCE, keepalive_expiry=4.0
)


@cache
def _ssl_context() -> ssl.SSLContext:
    # Loading the certificates takes longer than everything else a new client does.
    return httpx.create_ssl_context()


def _options() -> dict[str, Any]:
    return {
        "limits": _LIMITS,
        "verify": _ssl_context(),
        # A pool serves many identities: what a gateway sets for one is not for the next.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        "follow_redirects": False,
        # Over HTTP/2, threads that share a client lose connections.
        "http2": False,
    }


@contextmanager
def _checked_environment() -> Generator[None]:
    """Says which variables httpx reads when it cannot use what they name."""
    try:
        yield
    except (ImportError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    except (ValueError, httpx.InvalidURL) as error:  # it may quote a password
        problem = type(error).__name__
    else:
        return
    raise ConfigurationError(
        "one of the environment variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, "
        f"SSL_CERT_FILE and SSL_CERT_DIR cannot be used ({problem})"
    )


class Pool(httpx.Client):
    """Connections that answer with a success or raise an AudienceLabError."""

    def __init__(self) -> None:
        with _checked_environment():
            super().__init__(**_options())
        # Not httpx's own queue: closing the pool does not reach those who wait there.
        self._turns = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send `request`, and log its path, status and duration at DEBUG."""
        exchange = _Exchange(request)
        if not self._turns.acquire(timeout=exchange.patience):
            raise exchange.failed(httpx.PoolTimeout(""))
        failure: AudienceLabError | None
        try:
            if self.is_closed:
                raise _closed()
            response = super().send(request, **options)
        except httpx.RequestError as error:
            failure = exchange.failed(error)
        else:
            failure = exchange.answered(response)
            if failure is None:
                return response
        finally:
            self._turns.release()
        # Outside of the handler: the httpx error holds the request, and so the key.
        raise failure


class AsyncPool(httpx.AsyncClient):
    """Like :class:`Pool`, awaited."""

    def __init__(self) -> None:
        with _checked_environment():
            super().__init__(**_options())
        self._turns = anyio.Semaphore(_MOST_AT_ONCE)

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Like :meth:`Pool.send`, awaited."""
        exchange = _Exchange(request)
        with anyio.move_on_after(exchange.patience) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise exchange.failed(httpx.PoolTimeout(""))
        failure: AudienceLabError | None
        try:
            if self.is_closed:
                raise _closed()
            response = await super().send(request, **options)
        except httpx.RequestError as error:
            failure = exchange.failed(error)
        else:
            failure = exchange.answered(response)
            if failure is None:
                return response
        finally:
            self._turns.release()
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

    @property
    def patience(self) -> float:
        """Seconds that it may wait for its turn."""
        return cast("float", self._request.extensions["timeout"]["pool"])

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
