"""Spans for OpenTelemetry, where ``opentelemetry-api`` is installed.

Spans and their events hold no key, no token, no query and no body.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audiencelab_sdk._version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from audiencelab_sdk.models import RequestAttempt


def tracer() -> "Tracer | None":
    """Return the SDK's tracer; None where OpenTelemetry is not installed."""
    try:
        from opentelemetry.trace import get_tracer  # noqa: PLC0415 - it may not be there
    except ImportError:
        return None
    return get_tracer("audiencelab_sdk", __version__)


@contextmanager
def span(tracer: "Tracer", name: str) -> Generator[None]:
    """Make a span the current one for the duration of a call."""
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - it may not be there

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


def add_attempt(attempt: "RequestAttempt") -> None:
    """Add an attempt to the current span, as an event."""
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - it may not be there

    attributes: dict[str, str | int | float] = {
        "http.request.method": attempt.method,
        "url.path": attempt.path,
        "http.request.resend_count": attempt.attempt - 1,
        "duration": attempt.duration,
    }
    if attempt.status is not None:
        attributes["http.response.status_code"] = attempt.status
    if attempt.request_id is not None:
        attributes["request_id"] = attempt.request_id
    if attempt.error is not None:
        attributes["error.type"] = attempt.error.__name__
    get_current_span().add_event("attempt", attributes)
