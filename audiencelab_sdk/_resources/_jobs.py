"""Operations on enrichment jobs, for `client.enrichment` and `track`."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from audiencelab_sdk._arguments import (
    checked_int,
    checked_text,
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
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from audiencelab_sdk.models import EnrichmentJob, EnrichmentStatus
from audiencelab_sdk.models._base import Model

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
_LONGEST_ERROR = 10_000
_MOST_TRIES = 10


def report_progress(
    job_id: UUID | str, worker: str, processed: int, failed: int, *, delay: float = 0.0
) -> Operation[EnrichmentJob]:
    """Report a worker's totals."""
    arguments = {
        "p_job_id": str(checked_uuid("job_id", job_id)),
        "p_worker": checked_text("worker", worker, longest=LONGEST_NAME),
        "p_processed": checked_int("processed", processed, 0, MOST_RECORDS),
        "p_failed": checked_int("failed", failed, 0, MOST_RECORDS),
    }
    response = yield rpc("report_enrichment_progress", arguments, repeatable=True, delay=delay)
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
    for _ in range(_MOST_TRIES):
        if job.status is FAILED and job.completed_at == moment:
            return job
        if job.is_final:
            raise _impossible(job, FAILED)
        changes: dict[str, Any] = {
            "status": FAILED,
            "completed_at": moment.isoformat(),
            "metadata": {**job.metadata, "error": text},
        }
        # The API cannot add a key to a jsonb column, so the whole column is written. The condition
        # keeps concurrent changes: if the row has changed since it was read, it is read again.
        unchanged = equal("updated_at", job.updated_at.isoformat())
        failed = yield from TABLE.update_if(job.id, changes, [unchanged])
        if failed:
            return failed
        before, job = job, (yield from TABLE.get(job.id))
        if job == before:
            raise _read_only()
    raise ConflictError(
        409, None, "the enrichment job changed during each attempt to mark it as failed: try again"
    )


def _move(
    job_id: UUID | str,
    source: EnrichmentStatus,
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
