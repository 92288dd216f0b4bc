"""The connection pools through which postgrest-py sends its requests.

They raise a typed error for every unsuccessful response, so postgrest-py never raises its own
errors, which lose the HTTP status.
"""

import asyncio
import logging
import os
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias, cast

import anyio
import anyio.lowlevel
import httpx
from postgrest import AsyncPostgrestClient, SyncPostgrestClient

from audiencelab_sdk._config import Settings
from audiencelab_sdk._http._failures import connection_error
from audiencelab_sdk._http._statuses import status_error
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


class _Connections(httpx.Client):
    """The connections of one process. They return successful responses and raise for others."""

    def __init__(self) -> None:
        with _checked_environment():
            super().__init__(**_options())
        self._cookies = _NoCookies()
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


class _AsyncConnections(httpx.AsyncClient):
    """The connections of one event loop."""

    def __init__(self) -> None:
        with _checked_environment():
            super().__init__(**_options())
        self._cookies = _NoCookies()
        self._turns = anyio.Semaphore(_MOST_AT_ONCE)

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send `request`, and log its path, status and duration at DEBUG."""
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


class Pool:
    """The connections of a client and of those derived from it: of each process its own.

    A forked child shares the sockets of its parent, so it never uses its parent's connections, and
    keeps them, because closing them may reach the parent's.
    """

    def __init__(self) -> None:
        self._is_closed = False
        self._connections = {_process(): _Connections()}

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request; raises what :class:`_Connections` does."""
        if self._is_closed:
            raise _closed()
        process = _process()
        connections = self._connections.get(process)
        if connections is None:
            # No lock: at the fork, a thread that is not in the child may have held it.
            connections = self._connections.setdefault(process, _Connections())
        return connections.request(method, url, **options)

    def close(self) -> None:
        """Close the connections of this process; later requests raise ClientClosedError."""
        self._is_closed = True
        connections = self._connections.get(_process())
        if connections:
            connections.close()


class AsyncPool:
    """The connections of an asynchronous client: of each process and event loop its own."""

    def __init__(self) -> None:
        self._is_closed = False
        # For the first event loop. Made here, so that an unusable environment shows at once. In a
        # list, because of threads that come at the same time only one can pop it.
        self._unused = [_AsyncConnections()]
        self._by_loop: dict[tuple[object, object], tuple[_AsyncConnections, _Lifetime]] = {}

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request; raises what :class:`_AsyncConnections` does."""
        if self._is_closed:
            raise _closed()
        loop = (_process(), _event_loop())
        entry = self._by_loop.get(loop)
        if entry is None:
            self._forget_closed_loops()
            try:
                connections = self._unused.pop()
            except IndexError:
                connections = _AsyncConnections()
            lifetime = self._live(loop, connections)
            entry = self._by_loop[loop] = (connections, lifetime)
            await anext(lifetime)
        return await entry[0].request(method, url, **options)

    async def aclose(self) -> None:
        """Close the connections of this event loop; later requests raise ClientClosedError.

        Those of other event loops are closed when their loops end.
        """
        self._is_closed = True
        for connections in self._unused:
            await connections.aclose()
        entry = self._by_loop.get((_process(), _event_loop()))
        if entry:
            await entry[1].aclose()

    async def _live(
        self, loop: tuple[object, object], connections: _AsyncConnections
    ) -> "_Lifetime":
        """Close the connections when the event loop ends, which closes its generators."""
        try:
            yield
        finally:
            del self._by_loop[loop]
            with anyio.CancelScope(shield=True):
                await connections.aclose()

    def _forget_closed_loops(self) -> None:
        process = _process()
        for owner, loop in list(self._by_loop):
            if (
                owner == process
                and isinstance(loop, asyncio.AbstractEventLoop)
                and loop.is_closed()
            ):
                self._by_loop.pop((owner, loop), None)


_Lifetime: TypeAlias = AsyncGenerator[None]
_forks = 0


def _process() -> tuple[int, int]:
    """This process: the pid alone may come again, and forks by C code run no hooks."""
    return (os.getpid(), _forks)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_fork)


def _event_loop() -> object:
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


class _Session:
    """A pool as one client uses it: with its token and its timeout.

    postgrest-py needs no more of its httpx client. One class serves both clients: `request` returns
    the pool's response, or an awaitable of it.
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
    """Return the postgrest-py client that acts as one identity over `pool`."""
    return SyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_headers(settings),
        http_client=cast("httpx.Client", _Session(pool, settings)),
        retry_enabled=False,
    )


def async_postgrest(settings: Settings, pool: AsyncPool) -> AsyncPostgrestClient:
    """Return the asynchronous postgrest-py client that acts as one identity over `pool`."""
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
    """One request: turns a failure into an error, and logs the request at DEBUG."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._started = time.perf_counter()

    @property
    def patience(self) -> float:
        """Seconds that it may wait for its turn."""
        return cast("float", self._request.extensions["timeout"]["pool"])

    def answered(self, response: httpx.Response) -> AudienceLabError | None:
        """Return the error that a response becomes; None for a success."""
        self._log(response.status_code)
        # It and its stream hold each other: bodies would stay until the garbage collector comes.
        response.stream = httpx.ByteStream(b"")
        return None if response.is_success else status_error(response)

    def failed(self, error: httpx.RequestError) -> AudienceLabError:
        """Return the error for a request without a response."""
        self._log(type(error).__name__)
        return connection_error(self._request, error)

    def _log(self, outcome: object) -> None:
        if not logger.isEnabledFor(logging.DEBUG):
            return
        logger.debug(
            "%s %s: %s in %.0f ms (attempt %d)",
            self._request.method,
            self._request.url.path,
            outcome,
            (time.perf_counter() - self._started) * 1000,
            int(self._request.headers.get("X-Retry-Count", "0")) + 1,
        )
