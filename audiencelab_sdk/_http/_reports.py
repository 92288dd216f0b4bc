"""Reports of calls and attempts: to the log, to `on_response` and to OpenTelemetry.

None of them holds a key, a token, a query or a body.
"""

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from audiencelab_sdk._http._operation import BuiltRequest, Response
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import APIStatusError, AudienceLabError
from audiencelab_sdk.models import RequestAttempt

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from audiencelab_sdk._http._settings import OnResponse

logger = logging.getLogger("audiencelab_sdk")


class Reports:
    """Where the calls of a client are reported.

    Attributes:
        span: Returns a context manager that encloses the call of a method with this name.
        is_used: Whether attempts are reported elsewhere than in the log.
    """

    def __init__(
        self, on_response: "OnResponse | None" = None, tracer: "Tracer | None" = None
    ) -> None:
        self._on_response = on_response
        self._is_traced = tracer is not None
        self.span: Callable[[str], AbstractContextManager[object]] = (
            partial(_span, tracer) if tracer else nullcontext
        )
        self.is_used: bool = self._is_traced or on_response is not None

    def report(
        self,
        call: str,
        request: BuiltRequest,
        number: int,
        started: float,
        outcome: Response | AudienceLabError,
    ) -> Awaitable[object] | None:
        """Report an attempt that began at a time of `time.perf_counter`.

        Returns:
            What `on_response` returned, if it is awaitable.
        """
        attempt = _attempt(call, request, number, started, outcome)
        if logger.isEnabledFor(logging.DEBUG):
            _log(attempt)
        if self._is_traced:
            _add_event(attempt)
        if self._on_response is None:
            return None
        try:
            result = self._on_response(attempt)
        except Exception as error:  # noqa: BLE001 - it must not fail the call
            _warn(error)
            return None
        return result if inspect.isawaitable(result) else None


def tracer() -> "Tracer | None":
    """Return the SDK's tracer; None if OpenTelemetry is not installed."""
    try:
        from opentelemetry.trace import get_tracer  # noqa: PLC0415 - it is optional
    except ImportError:
        return None
    return get_tracer("audiencelab_sdk", __version__)


@contextmanager
def _span(tracer: "Tracer", name: str) -> Generator[None]:
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - it is optional

    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        # The text of an error may quote what the server said.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(StatusCode.ERROR)
            raise


def _attempt(
    call: str,
    request: BuiltRequest,
    number: int,
    started: float,
    outcome: Response | AudienceLabError,
) -> RequestAttempt:
    status: int | None = None
    request_id: str | None = None
    if isinstance(outcome, Response):
        status, request_id = outcome.status, outcome.request_id
    elif isinstance(outcome, APIStatusError):
        status, request_id = outcome.http_status, outcome.request_id
    return RequestAttempt(
        call=call,
        method=str(request.http_method),
        path=request.path.path,
        status=status,
        request_id=request_id,
        attempt=number,
        duration=time.perf_counter() - started,
        error=type(outcome) if isinstance(outcome, AudienceLabError) else None,
    )


def _log(attempt: RequestAttempt) -> None:
    outcome = attempt.status or (attempt.error and attempt.error.__name__)
    logger.debug(
        "%s %s: %s in %.0f ms (attempt %d)",
        attempt.method,
        attempt.path,
        outcome,
        attempt.duration * 1000,
        attempt.attempt,
        extra=asdict(attempt),
    )


def _add_event(attempt: RequestAttempt) -> None:
    """Add an attempt to the current span."""
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - it is optional

    attributes: dict[str, str | int | float] = {
        "http.request.method": attempt.method,
        "url.path": attempt.path,
        "audiencelab.duration": attempt.duration,
    }
    if attempt.attempt > 1:
        attributes["http.request.resend_count"] = attempt.attempt - 1
    if attempt.status is not None:
        attributes["http.response.status_code"] = attempt.status
    if attempt.request_id is not None:
        attributes["audiencelab.request_id"] = attempt.request_id
    if attempt.error is not None:
        attributes["error.type"] = attempt.error.__name__
    get_current_span().add_event("attempt", attributes)


def refuse(result: Awaitable[object]) -> None:
    """Warn that `on_response` of a synchronous client returned an awaitable."""
    if inspect.iscoroutine(result):
        result.close()
    _warn(TypeError("it returned an awaitable, and the client is synchronous"))


async def finish(result: Awaitable[object]) -> None:
    """Await what `on_response` of an asynchronous client returned."""
    from asyncio import CancelledError, current_task  # noqa: PLC0415 - trio users do without

    try:
        await result
    except CancelledError as error:
        # Of something that it awaited, and not of this task.
        task = current_task()
        if task is None or task.cancelling():
            raise
        _warn(error)
    except Exception as error:  # noqa: BLE001 - it must not fail the call
        _warn(error)


def _warn(error: BaseException) -> None:
    logger.warning("on_response raised %s", type(error).__name__, exc_info=error)
