"""Operations on enrichment jobs, for `client.enrichment` and `track`."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pydantic import StrictInt, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_int,
    checked_text,
    checked_timedelta,
    checked_uuid,
    made_storable,
)
from audiencelab_sdk._http._operation import Operation, rpc
from audiencelab_sdk._http._reading import Rows, read
from audiencelab_sdk._http._table import Table, equal
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk.errors import (
    APIConnectionError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from audiencelab_sdk.models import EnrichmentJob, EnrichmentStatus
from audiencelab_sdk.models._base import Model

logger = logging.getLogger("audiencelab_sdk")

PENDING, PROCESSING, COMPLETED, FAILED = EnrichmentStatus

TABLE = Table(
    Rows(
        "enrichment_tracking",
        TypeAdapter(EnrichmentJob),
        TypeAdapter(list[EnrichmentJob], config=Model.model_config),
    ),
    absent="the enrichment job does not exist, or is not visible to this client",
)
# Transient errors: `wait` and `track` continue after them.
TRANSIENT = (APIConnectionError, RateLimitError, ServerError)
# As in the database.
SHORTEST_SILENCE, LONGEST_SILENCE = timedelta(minutes=1), timedelta(days=365)
# The name of the only unit of a job.
WHOLE_JOB = "all"
OnError: TypeAlias = Literal["fail", "leave"]
"""What becomes of a job whose block raises."""

_MOST_STALE = 1_000
_SECONDS_TO_END = 60.0
_LONGEST_DELAY = 10.0
_COUNT: TypeAdapter[int] = TypeAdapter(StrictInt)
_LONGEST_ERROR = 10_000
_FEW_TRIES = 3
_MOST_TRIES = 10
_CHECK_VIOLATION = "23514"


def report_progress(
    job_id: UUID | str,
    unit: str,
    processed: int,
    failed: int,
    *,
    delay: float = 0.0,
    retried: bool = True,
) -> Operation[EnrichmentJob]:
    """Report the totals of a unit of work."""
    arguments = {
        "p_job_id": str(checked_uuid("job_id", job_id)),
        "p_unit": checked_text("unit", unit, longest=LONGEST_NAME),
        "p_processed": checked_int("processed", processed, 0, MOST_RECORDS),
        "p_failed": checked_int("failed", failed, 0, MOST_RECORDS),
    }
    response = yield rpc(
        "report_enrichment_progress", arguments, repeatable=True, delay=delay, retried=retried
    )
    return read("report_enrichment_progress", TABLE.rows.one, response)


def start(job_id: UUID | str) -> Operation[EnrichmentJob]:
    """Move a pending job to processing."""
    return _move(job_id, PENDING, PROCESSING, "started_at", datetime.now(UTC))


def complete(
    job_id: UUID | str, *, moment: datetime | None = None, delay: float = 0.0
) -> Operation[EnrichmentJob]:
    """Move a processing job to completed. A retry with the same `moment` is no conflict."""
    moment = moment or datetime.now(UTC)
    return _move(job_id, PROCESSING, COMPLETED, "completed_at", moment, delay=delay)


def fail(job_id: UUID | str, error: str | BaseException) -> Operation[EnrichmentJob]:
    """Move a job to failed, and store the reason in its metadata."""
    reason = (
        str(error).strip() or type(error).__name__ if isinstance(error, BaseException) else error
    )
    text = made_storable("error", reason, longest=_LONGEST_ERROR)
    moment = datetime.now(UTC)
    job = yield from TABLE.get(checked_uuid("job_id", job_id))
    ended = {"status": FAILED, "completed_at": moment.isoformat()}
    for _ in range(_FEW_TRIES):
        if job.status is FAILED and job.completed_at == moment:
            return job
        if job.is_final:
            raise _impossible(job, FAILED)
        if failed := (yield from _store_reason(job, text, ended)):
            return failed
        before, job = job, (yield from TABLE.get(job.id))
        if job == before:
            raise _read_only()
    # Reports change a busy job all the time, but not once it has failed.
    job = yield from _move(job.id, job.status, FAILED, "completed_at", moment)
    for _ in range(_MOST_TRIES):
        if failed := (yield from _store_reason(job, text, {})):
            return failed
        job = yield from TABLE.get(job.id)
    raise ConflictError(
        409, None, "the enrichment job has failed, but changed during each attempt to store why"
    )


def _store_reason(
    job: EnrichmentJob, reason: str, changes: dict[str, Any]
) -> Operation[EnrichmentJob | None]:
    """Store why a job has failed, along with other changes. None if the job has changed.

    The API cannot add a key to a jsonb column, so the whole column is written. The condition keeps
    concurrent changes.
    """
    unchanged = [equal("updated_at", job.updated_at.isoformat())]
    metadata = {"metadata": {**job.metadata, "error": reason}}
    try:
        return (yield from TABLE.update_if(job.id, changes | metadata, unchanged))
    except InvalidRequestError as error:
        if error.code != _CHECK_VIOLATION:
            raise
    logger.warning("job %s: there is no room in its metadata for why it has failed", job.id)
    return (yield from TABLE.update_if(job.id, changes, unchanged)) if changes else job


def retry(job_id: UUID | str, *, reset: bool) -> Operation[EnrichmentJob]:
    """Move a failed job to pending."""
    arguments = {"p_job_id": str(checked_uuid("job_id", job_id)), "p_reset": bool(reset)}
    # A repeated request would find the job pending.
    response = yield rpc("retry_enrichment_job", arguments, repeatable=False)
    return read("retry_enrichment_job", TABLE.rows.one, response)


def fail_stale(older_than: timedelta) -> Operation[int]:
    """Move the jobs that nobody works on to failed, and return their number."""
    silence = checked_timedelta("older_than", older_than, SHORTEST_SILENCE, LONGEST_SILENCE)
    arguments = {"p_older_than": f"{silence.total_seconds():f} seconds"}
    count = 0
    while True:
        response = yield rpc("fail_stale_enrichment_jobs", arguments, repeatable=True)
        failed = read("fail_stale_enrichment_jobs", _COUNT, response)
        count += failed
        if failed < _MOST_STALE:
            return count


def _move(
    job_id: UUID | str,
    source: EnrichmentStatus | str,
    target: EnrichmentStatus,
    time_column: str,
    moment: datetime,
    *,
    delay: float = 0.0,
) -> Operation[EnrichmentJob]:
    checked_id = checked_uuid("job_id", job_id)
    changes = {"status": target, time_column: moment.isoformat()}
    unmoved = [equal("status", source)]
    job = yield from TABLE.update_if(checked_id, changes, unmoved, delay=delay)
    if job is None:
        job = yield from TABLE.get(checked_id)
        if job.status is source:
            raise _read_only()
        # An equal time, to the microsecond, means that an earlier attempt succeeded and its
        # response was lost.
        if job.status is not target or getattr(job, time_column) != moment:
            raise _impossible(job, target)
    return job


def _read_only() -> PermissionDeniedError:
    # Row level security hides the row from the update and not from the read.
    message = "this client may read the enrichment job, but not change it"
    return PermissionDeniedError(403, None, message)


def _impossible(job: EnrichmentJob, target: EnrichmentStatus) -> ConflictError:
    state = (
        f"already {target}" if job.status is target else f"{job.status} and cannot become {target}"
    )
    hint = "Call start or report_progress first." if job.status is PENDING else None
    return ConflictError(409, None, f"the enrichment job is {state}", None, hint)


def checked_leave(on_error: Any) -> bool:
    """Return whether `on_error` leaves the job processing.

    Raises:
        InvalidArgumentError: It is another value.
    """
    if on_error not in {"fail", "leave"}:
        raise InvalidArgumentError("on_error must be 'fail' or 'leave'")
    return bool(on_error == "leave")


def retry_until_deadline(
    operation: Callable[[float], Operation[EnrichmentJob]],
) -> Operation[EnrichmentJob]:
    """Retry an operation with growing delays until a deadline if the error is transient.

    A restart of the server at the end of hours of work must not lose the totals.
    """
    deadline = time.monotonic() + _SECONDS_TO_END
    delay = 0.0
    while True:
        try:
            return (yield from operation(delay))
        except TRANSIENT:
            delay = min(2 * delay + 1, _LONGEST_DELAY)
            if time.monotonic() + delay > deadline:
                raise
