"""`install_error_handlers`: what the SDK raises in a handler becomes a response."""

import logging

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response

from audiencelab_sdk._asgi._problems import (
    Problem,
    respond,
    respond_or_delegate,
    retry,
    unavailable,
)
from audiencelab_sdk.errors import (
    APIConnectionError,
    AudienceLabError,
    AuthenticationOverloadedError,
    ConflictError,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SchemaError,
    ServerError,
)

logger = logging.getLogger("audiencelab_sdk")

_UNAVAILABLE = (APIConnectionError, SchemaError, ServerError)
# In the words of this module, because those of the database may quote rows.
_REFUSED: dict[type[AudienceLabError], tuple[int, str]] = {
    NotFoundError: (404, "There is no such resource."),
    ConflictError: (409, "The request conflicts with the current state of the resource."),
    PermissionDeniedError: (403, "The caller may not do this."),
    InvalidRequestError: (422, "The request is invalid."),
}


def install_error_handlers(app: Starlette) -> None:
    """Let an application answer the errors of the SDK that its handlers do not catch.

    The responses are ``application/problem+json`` and do not contain the database's messages.
    Problems are answered, too, unless the application has a handler of its own for Starlette's
    HTTPException.

    - InvalidCursorError 400, other InvalidArgumentErrors 422, with the SDK's message
    - NotFoundError 404, ConflictError 409, PermissionDeniedError 403, InvalidRequestError 422
    - RateLimitError 429 and AuthenticationOverloadedError 503, with ``Retry-After``
    - APIConnectionError, ServerError and SchemaError (such as a missing migration) 503, with a line
      in the log `audiencelab_sdk`

    Other errors, such as a rejected service role key, are errors of the application: it answers
    them as any other exception, with 500.

    Args:
        app: An application of Starlette or FastAPI that has not started.
    """
    app.add_exception_handler(Problem, respond_or_delegate)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    app.add_exception_handler(AudienceLabError, _respond_to_error)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def _respond_to_error(connection: HTTPConnection, error: Exception) -> Response | None:
    problem = _problem_of(error)
    if problem is None:
        raise error
    if isinstance(error, _UNAVAILABLE):
        # A path may contain line breaks.
        logger.error("%r: answered with 503: %s", connection.scope["path"], error)
    return await respond(connection, problem)


def _problem_of(error: Exception) -> Problem | None:
    if isinstance(error, InvalidArgumentError):
        return Problem(400 if isinstance(error, InvalidCursorError) else 422, str(error))
    if isinstance(error, RateLimitError):
        return Problem(429, "There were too many requests.", headers=retry(error.retry_after))
    if isinstance(error, AuthenticationOverloadedError):
        return unavailable(error.retry_after)
    if isinstance(error, _UNAVAILABLE):
        return unavailable(getattr(error, "retry_after", None))
    for kind, (status, detail) in _REFUSED.items():
        if isinstance(error, kind):
            return Problem(status, detail)
    return None
