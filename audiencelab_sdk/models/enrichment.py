"""Enrichment jobs."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime

from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import Moment, Texts, otherwise


class EnrichmentType(StrEnum):
    """What a job adds to the records of an audience."""

    EMAIL = "email"
    PHONE = "phone"
    COMPANY = "company"
    SOCIAL = "social"
    CUSTOM = "custom"


class EnrichmentStatus(StrEnum):
    """How far a job is: pending, then processing, then completed or failed."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: completed or failed."""
        return self in {EnrichmentStatus.COMPLETED, EnrichmentStatus.FAILED}


def _as_object(metadata: Any) -> dict[str, Any]:
    # Applications write this column too; one that holds no object must not hide the other jobs.
    return {} if metadata is None else {"value": metadata}


class EnrichmentJob(Model, frozen=True):
    """A job that enriches the records of an audience.

    Attributes:
        id: The job's id.
        account_id: The account that it belongs to.
        audience_id: The audience whose records are enriched.
        enrichment_type: What it adds.
        status: How far it is.
        total_records: The number of records to deal with; 0 when it is not known.
        processed_records: The number dealt with so far, by all workers.
        failed_records: How many of these failed.
        enrichment_fields: The fields that it is to fill.
        metadata: Whatever else its makers say of it.
        started_at: When the first work on it began.
        completed_at: When it was completed or failed.
        created_by: The user who made it.
        created_at: When it was made.
        updated_at: When it last changed.
    """

    id: UUID
    account_id: UUID
    audience_id: UUID
    enrichment_type: EnrichmentType
    status: EnrichmentStatus
    total_records: int
    processed_records: int
    failed_records: int
    enrichment_fields: Texts
    metadata: Annotated[dict[str, Any], otherwise(_as_object)]
    started_at: Moment | None
    completed_at: Moment | None
    created_by: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @property
    def error(self) -> str | None:
        """What `fail` was told; None for a job that it did not end."""
        error = self.metadata.get("error")
        return error if isinstance(error, str) else None
