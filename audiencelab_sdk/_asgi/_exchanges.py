"""The middleware that logs the usage of keys, and adds headers about rate limits."""

import logging
from collections.abc import MutableMapping
from typing import Any

import anyio
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audiencelab_sdk._asgi._caller import Caller
from audiencelab_sdk._asgi._requests import peer_of, template_of, user_agent_of
from audiencelab_sdk._backend._async_recorders import AsyncUsageRecorder
from audiencelab_sdk._backend._usage_queue import Plain
from audiencelab_sdk._limits import HIGHEST_STATUS, LOWEST_STATUS

logger = logging.getLogger("audiencelab_sdk")

_PLACE = "audiencelab_sdk.exchange"
_CLIENT_CLOSED_REQUEST = 499
# For requests that the server has cancelled and that are still cleaning up.
_LONGEST_WAIT = 1.0
_POLL = 0.01
_WITH_HEADERS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
Headers = list[tuple[bytes, bytes]]


class Exchange:
    """A request and its response.

    Attributes:
        caller: The key of the request, if it was asked for and is valid.
        recorder: What logs the request, that of the ApiKeyAuth which knows the caller.
        connection: The request as the route sees it.
        headers: Headers to add to the response.
        status: The status of the response, if it was sent.
    """

    __slots__ = ("caller", "connection", "headers", "is_logged", "recorder", "status")

    def __init__(self) -> None:
        self.caller: Caller | None = None
        self.recorder: AsyncUsageRecorder | None = None
        self.connection: HTTPConnection | None = None
        self.headers: Headers = []
        self.status: int | None = None
        self.is_logged = False


def exchange_of(connection: HTTPConnection) -> Exchange | None:
    """Return the exchange of a request, if the middleware runs."""
    exchange: Exchange | None = connection.scope.get(_PLACE)
    return exchange


class ExchangeMiddleware:
    """Logs each request with a valid key once its response is sent, refused or given up."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._running: set[Exchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a mounted application, the middleware of the outer one does it.
        if scope["type"] not in {"http", "websocket"} or _PLACE in scope:
            await self.app(scope, receive, send)
            return
        exchange: Exchange = Exchange()
        scope[_PLACE] = exchange
        self._running.add(exchange)

        async def observe(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.body":
                await send(message)
                if not message.get("more_body", False):
                    _log(exchange)
                return
            _note(exchange, kind, message)
            await send(message)
            if scope["type"] == "websocket" and exchange.status is not None:
                _log(exchange)

        try:
            await self.app(scope, receive, observe)
        except Exception:
            exchange.status = exchange.status or 500
            raise
        except BaseException:
            exchange.status = exchange.status or _CLIENT_CLOSED_REQUEST
            raise
        finally:
            _log(exchange)
            self._running.discard(exchange)
            # It refers to the scope, which refers to the exchange.
            exchange.connection = None

    async def wait_for_requests_of(self, recorder: AsyncUsageRecorder) -> None:
        """Wait until the requests that a recorder is to log have ended, but not for long."""
        with anyio.move_on_after(_LONGEST_WAIT):
            while any(each.recorder is recorder and not each.is_logged for each in self._running):  # noqa: ASYNC110 - simpler than an event for each loop
                await anyio.sleep(_POLL)


def _log(exchange: Exchange) -> None:
    if exchange.caller is None or exchange.recorder is None or exchange.is_logged:
        return
    exchange.is_logged = True
    try:
        exchange.recorder._record_plain(_event(exchange, exchange.caller))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    except Exception:
        # The response is sent, or another error is being raised.
        logger.exception("a request could not be added to the usage log")


def _note(exchange: Exchange, kind: str, message: MutableMapping[str, Any]) -> None:
    if kind in {"http.response.start", "websocket.http.response.start"}:
        exchange.status = message["status"]
    elif kind == "websocket.accept":
        exchange.status = 101
    elif kind == "websocket.close":
        exchange.status = exchange.status or 403
    if exchange.headers and kind in _WITH_HEADERS:
        message["headers"] = [*message.get("headers", ()), *exchange.headers]
        exchange.headers = []


def _event(exchange: Exchange, caller: Caller) -> Plain:
    connection = exchange.connection
    assert connection is not None  # noqa: S101 - set with the caller
    scope, status = connection.scope, exchange.status
    if status is not None and not LOWEST_STATUS <= status <= HIGHEST_STATUS:
        status = None
    return (
        caller.api_key_id.int,
        template_of(scope),
        scope.get("method") or "WEBSOCKET",
        status,
        peer_of(connection),
        user_agent_of(connection),
    )
