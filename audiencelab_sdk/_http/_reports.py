"""Reports of attempts: to the log, to OpenTelemetry and to the caller's `on_response`."""

import inspect
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from audiencelab_sdk._http._operation import BuiltRequest, Response
from audiencelab_sdk._http._tracing import add_attempt, span
from audiencelab_sdk.errors import APIStatusError, AudienceLabError
from audiencelab_sdk.models import RequestAttempt

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from audiencelab_sdk._http._settings import OnResponse

logger = logging.getLogger("audiencelab_sdk")


class Reports:
    """Where the attempts of a client are reported."""

    def __init__(
        self, on_response: "OnResponse | None" = None, tracer: "Tracer | None" = None
    ) -> None:
        self._on_response = on_response
        self._tracer = tracer

    def call(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager that encloses one call."""
        return span(self._tracer, name) if self._tracer else nullcontext()

    def begin(self, call: str, request: BuiltRequest, number: int) -> "Attempt":
        """Begin an attempt."""
        return Attempt(self, call, request, number)

    def report(self, attempt: "Attempt", outcome: Response | AudienceLabError) -> Any:
        """Report an attempt that has ended, and return what `on_response` returns."""
        is_logged = logger.isEnabledFor(logging.DEBUG)
        if not (is_logged or self._tracer or self._on_response):
            return None
        facts = attempt.facts(outcome)
        if is_logged:
            _log(facts)
        if self._tracer:
            add_attempt(facts)
        return self._on_response(facts) if self._on_response else None


class Attempt:
    """One attempt of a request."""

    def __init__(self, reports: Reports, call: str, request: BuiltRequest, number: int) -> None:
        self._reports = reports
        self._call = call
        self._request = request
        self._number = number
        self._started = time.perf_counter()

    def end(self, outcome: Response | AudienceLabError) -> None:
        """Report how the attempt of a synchronous client ended."""
        try:
            self._reports.report(self, outcome)
        except Exception as error:  # noqa: BLE001 - on_response must not fail the call
            _warn(error)

    async def aend(self, outcome: Response | AudienceLabError) -> None:
        """Report how the attempt of an asynchronous client ended."""
        try:
            returned = self._reports.report(self, outcome)
            if inspect.isawaitable(returned):
                await returned
        except Exception as error:  # noqa: BLE001 - on_response must not fail the call
            _warn(error)

    def facts(self, outcome: Response | AudienceLabError) -> RequestAttempt:
        """Return what is known of the attempt."""
        status: int | None = None
        request_id: str | None = None
        if isinstance(outcome, Response):
            status, request_id = outcome.status, outcome.request_id
        elif isinstance(outcome, APIStatusError):
            status, request_id = outcome.http_status, outcome.request_id
        return RequestAttempt(
            call=self._call,
            method=str(self._request.http_method),
            path=self._request.path.path,
            status=status,
            request_id=request_id,
            attempt=self._number,
            duration=time.perf_counter() - self._started,
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


def _warn(error: Exception) -> None:
    logger.warning("on_response raised %s", type(error).__name__, exc_info=error)
