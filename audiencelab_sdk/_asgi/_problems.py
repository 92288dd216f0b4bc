"""Responses for errors: ``application/problem+json``, RFC 9457."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_POLICY_VIOLATION = 1008
_LONGEST_REASON = 123  # bytes, in a control frame
# The handlers that the frameworks register by themselves. Any other one is the application's.
_DEFAULT_HANDLERS = ("starlette.middleware.exceptions", "fastapi.exception_handlers")


class Problem(HTTPException):
    """A refused request. An application's own handler of HTTPException gets it, if there is one.

    An application may raise it, too. It is then answered as any HTTPException, and with
    ``application/problem+json`` after `install_error_handlers`.

    Attributes:
        status_code: The HTTP status.
        detail: What is wrong, for people.
        headers: Headers of the response, such as ``WWW-Authenticate``.
        members: Further members of the problem document, such as ``missing_scope``.
    """

    def __init__(
        self,
        status_code: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status_code, detail, dict(headers or {}))
        self.members: dict[str, Any] = dict(members or {})


class Refusal(Problem):
    """A request that an ApiKeyAuth refuses. Each application answers it as a Problem."""


def unauthorized(detail: str, *, error: str | None = None) -> Refusal:
    """Return the refusal of a request without a valid key."""
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    return Refusal(401, detail, headers={"WWW-Authenticate": challenge})


def several_keys() -> Refusal:
    """Return the refusal of a request with more than one key."""
    return Refusal(400, "The request has several API keys: send one, in one header.")


def forbidden(entity_type: str, entity_id: str, action: str) -> Refusal:
    """Return the refusal of a key that lacks a scope."""
    scope = {"entity_type": entity_type, "entity_id": entity_id, "action": action}
    return Refusal(
        403,
        f"The API key lacks the scope to {action} this {entity_type}.",
        headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
        members={"missing_scope": scope},
    )


def unavailable(retry_after: float | None = None) -> Refusal:
    """Return the refusal of a request that may succeed later."""
    return Refusal(503, "The service is temporarily unavailable.", headers=retry(retry_after))


def retry(seconds: float | None) -> dict[str, str]:
    """Return the header that says when to retry, with whole seconds."""
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def problem_response(problem: Problem) -> Response:
    """Return the problem document of a problem as a response."""
    status = problem.status_code
    document = {
        "type": "about:blank",
        "title": _PHRASES.get(status, "Error"),
        "status": status,
        "detail": problem.detail,
        **problem.members,
    }
    # Members may be of any type, such as the UUID of an entity.
    text = json.dumps(document, default=str)
    return Response(text, status, problem.headers, "application/problem+json")


async def respond(connection: HTTPConnection, problem: Exception) -> Response | None:
    """Return the response to a request; refuse a websocket, or close it."""
    assert isinstance(problem, Problem)  # noqa: S101 - the type of an exception handler
    response = problem_response(problem)
    if not isinstance(connection, WebSocket):
        return response
    states = {connection.application_state, connection.client_state}
    if WebSocketState.DISCONNECTED in states:
        return None
    is_open = connection.application_state is not WebSocketState.CONNECTING
    if is_open or "websocket.http.response" not in connection.scope.get("extensions", {}):
        reason = problem.detail.encode()[:_LONGEST_REASON].decode(errors="ignore")
        await connection.close(_POLICY_VIOLATION, reason)
    else:
        await connection.send_denial_response(response)
    return None


async def respond_or_delegate(connection: HTTPConnection, problem: Exception) -> Response | None:
    """Let the application's own handler of HTTPException answer, or `respond`, if it has none."""
    handler = _handlers_of(connection).get(HTTPException)
    if handler is None or _is_default(handler):
        return await respond(connection, problem)
    if is_async(handler):
        response = await handler(connection, problem)
    else:
        response = await run_in_threadpool(handler, connection, problem)
    return cast("Response | None", response)


def is_async(function: Any) -> bool:
    """Return whether a function, or an object that can be called, returns a coroutine."""
    return iscoroutinefunction(function) or iscoroutinefunction(function.__call__)


def use_default_handler(connection: HTTPConnection) -> None:
    """Let the application answer refusals by `respond`, unless it handles Problems itself.

    Called for each refusal, because an application that only declares routes has no other place.
    """
    handlers = _handlers_of(connection)
    if Problem not in handlers:
        handlers.setdefault(Refusal, respond_or_delegate)


def _handlers_of(connection: HTTPConnection) -> dict[Any, Any]:
    handlers, _ = connection.scope.get("starlette.exception_handlers", ({}, {}))
    return cast("dict[Any, Any]", handlers)


def _is_default(handler: Any) -> bool:
    return getattr(handler, "__module__", None) in _DEFAULT_HANDLERS
