"""Enrichment jobs."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, Field

from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import TextArray, Timestamp, or_convert


class EnrichmentType(StrEnum):
    """What a job adds to the records of an audience."""

    EMAIL = "email"
    PHONE = "phone"
    COMPANY = "company"
    SOCIAL = "social"
    CUSTOM = "custom"


class EnrichmentStatus(StrEnum):
    """The status of a job: pending, then processing, then completed or failed."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


def _as_object(metadata: Any) -> dict[str, Any]:
    # Other applications write this column too. A value that is not an object must not make the job
    # unreadable.
    return {} if metadata is None else {"value": metadata}


class EnrichmentJob(Model, frozen=True):
    """A job that enriches the records of an audience.

    Attributes:
        id: The job's id.
        account_id: The account that owns the job.
        audience_id: The audience whose records are enriched.
        enrichment_type: What the job adds. A type that this version of the SDK does not know is a
            str.
        status: The status of the job. A status that this version of the SDK does not know is a str.
        total_records: The number of records. 0 means unknown.
        processed_records: The number of records that are processed, failures included. It may lag
            behind the reports by a second until the job is completed or failed.
        failed_records: How many of these failed.
        enrichment_fields: The fields to fill.
        metadata: Further data about the job. A stored value that is not an object has the key
            ``value`` here.
        started_at: When the job was started.
        completed_at: When the job was completed or failed.
        created_by: The user who created the job.
        created_at: When the job was created.
        updated_at: When the job was last changed or reported on.
    """

    id: UUID
    account_id: UUID
    audience_id: UUID
    enrichment_type: Annotated[EnrichmentType | str, Field(union_mode="left_to_right")]
    status: Annotated[EnrichmentStatus | str, Field(union_mode="left_to_right")]
    total_records: int
    processed_records: int
    failed_records: int
    enrichment_fields: TextArray
    metadata: Annotated[dict[str, Any], or_convert(_as_object)]
    started_at: Timestamp | None
    completed_at: Timestamp | None
    created_by: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @property
    def is_final(self) -> bool:
        """Whether the job is completed or failed."""
        return self.status in {EnrichmentStatus.COMPLETED, EnrichmentStatus.FAILED}

    @property
    def error(self) -> str | None:
        """The failure reason, which `fail` stores in the metadata. None if there is none."""
        error = self.metadata.get("error")
        return error if isinstance(error, str) else None
