"""The steps of the calls about enrichment jobs."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

from pydantic import JsonValue, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_int,
    checked_json,
    checked_member,
    checked_seconds,
    checked_size,
    checked_text,
    checked_texts,
    checked_uuid,
    made_storable,
)
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk._operations._answers import Rows, read
from audiencelab_sdk._operations._paging import Listing
from audiencelab_sdk._operations._rows import Table, created, creator, equal
from audiencelab_sdk._steps import Call, Steps
from audiencelab_sdk.errors import (
    APIConnectionError,
    AudienceLabError,
    ConflictError,
    EnrichmentFailedError,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    RateLimitError,
    ServerError,
)
from audiencelab_sdk.models import EnrichmentJob, EnrichmentStatus, EnrichmentType
from audiencelab_sdk.models._base import Model

PENDING, PROCESSING, COMPLETED, FAILED = EnrichmentStatus

_TABLE = Table(
    Rows(
        "enrichment_tracking",
        TypeAdapter(EnrichmentJob),
        TypeAdapter(list[EnrichmentJob], config=Model.model_config),
    ),
    absent="there is no such enrichment job: it never was, or it is not yours to see",
)
# What passes by itself, so that a long wait or a long work need not end for it.
TEMPORARY = (APIConnectionError, RateLimitError, ServerError)
_LONGEST_ERROR = 10_000
_MOST_TRIES = 10


def create(
    account_id: UUID | str,
    audience_id: UUID | str,
    enrichment_type: EnrichmentType | str,
    *,
    total_records: int,
    enrichment_fields: Sequence[str],
    metadata: Mapping[str, Any] | None,
    created_by: UUID | str | None,
    user_id: UUID | None,
) -> Steps[EnrichmentJob]:
    row = {
        "id": str(uuid4()),
        "account_id": str(checked_uuid("account_id", account_id)),
        "audience_id": str(checked_uuid("audience_id", audience_id)),
        "enrichment_type": checked_member("enrichment_type", enrichment_type, EnrichmentType),
        "total_records": checked_int("total_records", total_records, 0, MOST_RECORDS),
        "enrichment_fields": checked_texts("enrichment_fields", enrichment_fields),
        "metadata": _object("metadata", {} if metadata is None else metadata),
        "created_by": str(creator(created_by, user_id)),
    }
    jobs = yield from _TABLE.insert([row])
    return jobs[0]


def get(job_id: UUID | str) -> Steps[EnrichmentJob]:
    return _TABLE.get(checked_uuid("job_id", job_id))


def listing(
    *,
    account_id: UUID | str | None,
    audience_id: UUID | str | None,
    status: EnrichmentStatus | str | None,
    enrichment_type: EnrichmentType | str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    page_size: int,
) -> Listing[EnrichmentJob]:
    conditions = created(created_after, created_before)
    if account_id is not None:
        conditions.append(equal("account_id", checked_uuid("account_id", account_id)))
    if audience_id is not None:
        conditions.append(equal("audience_id", checked_uuid("audience_id", audience_id)))
    if status is not None:
        conditions.append(equal("status", checked_member("status", status, EnrichmentStatus)))
    if enrichment_type is not None:
        member = checked_member("enrichment_type", enrichment_type, EnrichmentType)
        conditions.append(equal("enrichment_type", member))
    return _TABLE.listing(conditions, page_size)


def report_progress(
    job_id: UUID | str, worker: str, processed: int, failed: int, *, delay: float = 0.0
) -> Steps[EnrichmentJob]:
    arguments: dict[str, Any] = {
        "p_job_id": str(checked_uuid("job_id", job_id)),
        "p_worker": checked_text("worker", worker, longest=LONGEST_NAME),
        "p_processed": checked_int("processed", processed, 0, MOST_RECORDS),
        "p_failed": checked_int("failed", failed, 0, MOST_RECORDS),
    }
    answer = yield Call(
        lambda api: api.rpc("report_enrichment_progress", arguments), repeatable=True, delay=delay
    )
    return read("report_enrichment_progress", _TABLE.rows.one, answer)


def reset_progress(job_id: UUID | str, worker: str | None) -> Steps[EnrichmentJob]:
    arguments: dict[str, Any] = {"p_job_id": str(checked_uuid("job_id", job_id))}
    if worker is not None:
        arguments["p_worker"] = checked_text("worker", worker, longest=LONGEST_NAME)
    answer = yield Call(
        lambda api: api.rpc("reset_enrichment_progress", arguments), repeatable=True
    )
    return read("reset_enrichment_progress", _TABLE.rows.one, answer)


def start(job_id: UUID | str) -> Steps[EnrichmentJob]:
    return _move(job_id, PENDING, PROCESSING, "started_at", datetime.now(UTC))


def complete(
    job_id: UUID | str, *, moment: datetime | None = None, delay: float = 0.0
) -> Steps[EnrichmentJob]:
    """Whoever comes again with the same moment is told of success and not of a conflict."""
    moment = moment or datetime.now(UTC)
    return _move(job_id, PROCESSING, COMPLETED, "completed_at", moment, delay=delay)


def fail(job_id: UUID | str, error: str | BaseException) -> Steps[EnrichmentJob]:
    reason = (
        str(error).strip() or type(error).__name__ if isinstance(error, BaseException) else error
    )
    text = made_storable("error", reason, longest=_LONGEST_ERROR)
    moment = datetime.now(UTC)
    job = yield from _TABLE.get(checked_uuid("job_id", job_id))
    for _ in range(_MOST_TRIES):
        if job.status is FAILED and job.completed_at == moment:
            return job
        if job.status.is_final:
            raise _impossible(job, FAILED)
        changes = {
            "status": FAILED,
            "completed_at": moment.isoformat(),
            "metadata": {**job.metadata, "error": text},
        }
        # The API cannot add a key to a jsonb column. So the whole column is written, but only
        # over the very row that was read: a worker's report in between means to read it again.
        unchanged = equal("updated_at", job.updated_at.isoformat())
        failed = yield from _TABLE.update_if(job.id, changes, [unchanged])
        if failed:
            return failed
        job = yield from _TABLE.get(job.id)
    raise ConflictError(409, None, "the enrichment job changes too fast to be failed: try again")


def wait(
    job_id: UUID | str,
    timeout: float,
    poll_interval: float,
    on_progress: Callable[[EnrichmentJob], object] | None,
) -> Steps[EnrichmentJob]:
    checked_id = checked_uuid("job_id", job_id)
    interval = checked_seconds("poll_interval", poll_interval)
    deadline = time.monotonic() + checked_seconds("timeout", timeout)
    job = yield from _TABLE.get(checked_id)
    if on_progress:
        on_progress(job)
    trouble: AudienceLabError | None = None
    while not job.status.is_final:
        left = deadline - time.monotonic()
        if left <= 0:
            raise EnrichmentTimeoutError(job, timeout) from trouble
        before = job
        try:
            # Not retried: this loop does that, and knows when to end.
            job = yield from _TABLE.get(checked_id, delay=min(interval, left), retried=False)
        except TEMPORARY as error:
            trouble = error
        else:
            trouble = None
        if on_progress and job != before:
            on_progress(job)
    if job.status is FAILED:
        raise EnrichmentFailedError(job)
    return job


def _object(name: str, value: Any) -> JsonValue:
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} must be a mapping, such as a dict")
    stored = checked_json(name, cast("Any", value))
    checked_size(name, stored)
    return stored


def _move(
    job_id: UUID | str,
    source: EnrichmentStatus,
    target: EnrichmentStatus,
    time_column: str,
    moment: datetime,
    *,
    delay: float = 0.0,
) -> Steps[EnrichmentJob]:
    checked_id = checked_uuid("job_id", job_id)
    changes = {"status": target, time_column: moment.isoformat()}
    unmoved = [equal("status", source)]
    job = yield from _TABLE.update_if(checked_id, changes, unmoved, delay=delay)
    if job is None:
        job = yield from _TABLE.get(checked_id)
        # With this very microsecond it is our own doing: the answer was lost, and we came again.
        if job.status is not target or getattr(job, time_column) != moment:
            raise _impossible(job, target)
    return job


def _impossible(job: EnrichmentJob, target: EnrichmentStatus) -> ConflictError:
    return ConflictError(
        409, None, f"an enrichment job that is {job.status} cannot become {target}"
    )
