"""Drivers that act as one identity: postgrest-py builds the requests, a pool sends them."""

import inspect
from typing import Any, cast

import httpx
from postgrest import AsyncPostgrestClient, SyncPostgrestClient

from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._http._pools import AsyncPool, Pool
from audiencelab_sdk._http._reports import Reports
from audiencelab_sdk._http._settings import Settings
from audiencelab_sdk._http._tracing import tracer
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import ConfigurationError


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
        headers=_headers(settings),
        http_client=cast("httpx.Client", _Session(pool, settings)),
        retry_enabled=False,
    )
    return Driver(api, _reports(settings), settings.max_retries)


def async_driver(settings: Settings, pool: AsyncPool) -> AsyncDriver:
    """Return the driver of an asynchronous client with these settings."""
    api = AsyncPostgrestClient(
        f"{settings.url}/rest/v1",
        headers=_headers(settings),
        http_client=cast("httpx.AsyncClient", _Session(pool, settings)),
        retry_enabled=False,
    )
    return AsyncDriver(api, _reports(settings), settings.max_retries)


class _Session:
    """The part of an httpx client that postgrest-py uses, for one identity.

    One class serves both clients: `request` returns what the pool does, which is the response or an
    awaitable of it.
    """

    auth = None

    def __init__(self, pool: Pool | AsyncPool, settings: Settings) -> None:
        self._pool = pool
        self._token = settings.token
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
        headers["Authorization"] = f"Bearer {self._token().get_secret_value()}"
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
        return self._pool.exchange(request)


def _headers(settings: Settings) -> dict[str, str]:
    return {
        "X-Client-Info": f"audiencelab-sdk/{__version__}",
        "User-Agent": f"audiencelab-sdk/{__version__}",
        **settings.headers,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "apikey": settings.key.get_secret_value(),
    }


def _reports(settings: Settings) -> Reports:
    return Reports(settings.on_response, tracer())
