"""Pools, which keep connections for each process and event loop, and sessions, which share them.

A session acts as one identity. postgrest-py sends its requests by it.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias, cast

import anyio
import httpx
from postgrest import AsyncPostgrestClient, SyncPostgrestClient

from audiencelab_sdk._http._connections import AsyncConnections, Connections, closed
from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._http._operation import Response
from audiencelab_sdk._http._reports import Reports, tracer
from audiencelab_sdk._http._settings import Settings
from audiencelab_sdk._loops import event_loop
from audiencelab_sdk._process import this_process
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import ConfigurationError

# The secret ones are added last: postgrest-py keeps these where a traceback shows them.
_HEADERS = {
    "X-Client-Info": f"audiencelab-sdk/{__version__}",
    "User-Agent": f"audiencelab-sdk/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
}


class Pool:
    """The connections of a client and of those derived from it: of each process its own.

    A forked child shares the sockets of its parent, so it never uses its parent's connections, and
    keeps them, because closing them may reach the parent's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_closed = False
        self._connections = {this_process(): Connections(settings)}

    def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response; raises what :class:`Connections` does."""
        if self._is_closed:
            raise closed()
        process = this_process()
        connections = self._connections.get(process)
        if connections is None:
            # No lock: at the fork, a thread that is not in the child may have held it.
            connections = self._connections.setdefault(process, Connections(self._settings))
        return connections.exchange(request)

    def close(self) -> None:
        """Close the connections of this process; later requests raise ClientClosedError."""
        self._is_closed = True
        connections = self._connections.get(this_process())
        if connections:
            connections.close()


class AsyncPool:
    """The connections of an asynchronous client: of each process and event loop its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_closed = False
        # For the first event loop. Made here, so that an unusable environment shows at once. In a
        # list, because of threads that come at the same time only one can pop it.
        self._unused = [AsyncConnections(settings)]
        self._by_loop: dict[tuple[object, object], tuple[AsyncConnections, _Lifetime]] = {}

    async def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response; raises what :class:`Connections` does."""
        if self._is_closed:
            raise closed()
        loop = (this_process(), event_loop())
        entry = self._by_loop.get(loop)
        if entry is None:
            self._forget_closed_loops()
            try:
                connections = self._unused.pop()
            except IndexError:
                connections = AsyncConnections(self._settings)
            lifetime = self._live(loop, connections)
            entry = self._by_loop[loop] = (connections, lifetime)
            await anext(lifetime)
        return await entry[0].exchange(request)

    async def aclose(self) -> None:
        """Close the connections of this event loop; later requests raise ClientClosedError.

        Those of other event loops are closed when their loops end.
        """
        self._is_closed = True
        for connections in self._unused:
            await connections.aclose()
        entry = self._by_loop.get((this_process(), event_loop()))
        if entry:
            await entry[1].aclose()

    async def _live(
        self, loop: tuple[object, object], connections: AsyncConnections
    ) -> "_Lifetime":
        """Close the connections when the event loop ends, which closes its generators."""
        try:
            yield
        finally:
            del self._by_loop[loop]
            with anyio.CancelScope(shield=True):
                await connections.aclose()

    def _forget_closed_loops(self) -> None:
        process = this_process()
        for owner, loop in list(self._by_loop):
            if (
                owner == process
                and isinstance(loop, asyncio.AbstractEventLoop)
                and loop.is_closed()
            ):
                self._by_loop.pop((owner, loop), None)


_Lifetime: TypeAlias = AsyncGenerator[None]


class _Session:
    """The part of an httpx client that postgrest-py uses, for one identity.

    One class serves both clients: `request` returns what the pool does, which is the response or an
    awaitable of it.
    """

    auth = None

    def __init__(self, pool: Pool | AsyncPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._extensions = {"timeout": httpx.Timeout(settings.timeout).as_dict()}

    def request(
        self,
        method: str,
        url: str,
        *,
        params: httpx.QueryParams,
        headers: httpx.Headers,
        content: bytes | None,
        auth: None,  # noqa: ARG002 - postgrest-py passes it
    ) -> Any:
        # Built here, because httpx's clients merge their own headers, cookies and parameters into
        # each request, which takes longer than all else.
        request = httpx.Request(
            method,
            url,
            params=params or None,
            headers=headers,
            content=content,
            extensions=self._extensions,
        )
        for name, value in {**self._settings.identity_headers(), **self._settings.headers}.items():
            request.headers[name] = value.get_secret_value()
        return self._pool.exchange(request)


def driver(settings: Settings, pool: Pool) -> Driver:
    """Return the driver of a client with these settings.

    Raises:
        ConfigurationError: `on_response` is a coroutine function, which only an asynchronous client
            can await.
    """
    if inspect.iscoroutinefunction(settings.on_response):
        raise ConfigurationError(
            "on_response is a coroutine function: pass a plain function, or use AsyncAudienceLab"
        )
    api = SyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_HEADERS,
        http_client=cast("httpx.Client", _Session(pool, settings)),
        retry_enabled=False,
    )
    return Driver(api, _reports(settings), settings.max_retries)


def async_driver(settings: Settings, pool: AsyncPool) -> AsyncDriver:
    """Return the driver of an asynchronous client with these settings."""
    api = AsyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_HEADERS,
        http_client=cast("httpx.AsyncClient", _Session(pool, settings)),
        retry_enabled=False,
    )
    return AsyncDriver(api, _reports(settings), settings.max_retries)


def _reports(settings: Settings) -> Reports:
    return Reports(settings.on_response, tracer())
