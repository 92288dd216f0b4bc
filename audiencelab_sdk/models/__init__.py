"""The arguments and results of the SDK: immutable pydantic models, and pages of them."""

from audiencelab_sdk.models._unset import UNSET, Unset
from audiencelab_sdk.models.api_keys import (
    ApiKey,
    ApiKeyAuthentication,
    ApiKeyDetails,
    ApiKeyEvent,
    ApiKeyVerification,
    AuthenticatedApiKey,
    CreatedApiKey,
    InvalidApiKey,
    LoggedRequest,
    RejectedApiKey,
    RejectionCode,
    Scope,
    UsageCount,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)
from audiencelab_sdk.models.enrichment import EnrichmentJob, EnrichmentStatus, EnrichmentType
from audiencelab_sdk.models.outcome import Outcome
from audiencelab_sdk.models.page import AsyncPage, AsyncPages, Page, UnreadableRow
from audiencelab_sdk.models.request_attempt import RequestAttempt
from audiencelab_sdk.models.segments import (
    CustomColumn,
    NewSegment,
    Segment,
    SegmentFilter,
    SourceType,
    UnknownColumn,
    UnknownFilter,
)

__all__ = [
    "UNSET",
    "ApiKey",
    "ApiKeyAuthentication",
    "ApiKeyDetails",
    "ApiKeyEvent",
    "ApiKeyVerification",
    "AsyncPage",
    "AsyncPages",
    "AuthenticatedApiKey",
    "CreatedApiKey",
    "CustomColumn",
    "EnrichmentJob",
    "EnrichmentStatus",
    "EnrichmentType",
    "InvalidApiKey",
    "LoggedRequest",
    "NewSegment",
    "Outcome",
    "Page",
    "RejectedApiKey",
    "RejectionCode",
    "RequestAttempt",
    "Scope",
    "Segment",
    "SegmentFilter",
    "SourceType",
    "UnknownColumn",
    "UnknownFilter",
    "UnreadableRow",
    "Unset",
    "UsageCount",
    "UsageEvent",
    "UsageLog",
    "ValidApiKey",
]
