"""Typed Python client for AudienceLab V3."""

import typing
from importlib import import_module

from audiencelab_sdk._client import AsyncAudienceLab, AudienceLab
from audiencelab_sdk._resources._async_running import AsyncEnrichmentRun
from audiencelab_sdk._resources._running import EnrichmentRun
from audiencelab_sdk._resources._tracking import AsyncProgress, Progress
from audiencelab_sdk._version import __version__
from audiencelab_sdk.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AudienceLabError,
    AuthenticationError,
    AuthenticationOverloadedError,
    ClientClosedError,
    ConfigurationError,
    ConflictError,
    EnrichmentChunkError,
    EnrichmentFailedError,
    EnrichmentRecordError,
    EnrichmentTimeoutError,
    InsecureURLWarning,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SchemaError,
    ServerError,
    UnexpectedResponseError,
    UsageLogError,
)
from audiencelab_sdk.models import (
    UNSET,
    ApiKey,
    ApiKeyAuthentication,
    ApiKeyDetails,
    ApiKeyEvent,
    ApiKeyVerification,
    AsyncPage,
    AsyncPages,
    AuthenticatedApiKey,
    CreatedApiKey,
    CustomColumn,
    EnrichmentJob,
    EnrichmentStatus,
    EnrichmentType,
    InvalidApiKey,
    LoggedRequest,
    NewSegment,
    Outcome,
    Page,
    RejectedApiKey,
    RejectionCode,
    RequestAttempt,
    Scope,
    Segment,
    SegmentFilter,
    SourceType,
    UnknownColumn,
    UnknownFilter,
    UnreadableRow,
    Unset,
    UsageCount,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)

if typing.TYPE_CHECKING:
    from audiencelab_sdk._backend._async_recorders import AsyncUsageRecorder
    from audiencelab_sdk._backend._authenticators import AsyncKeyAuthenticator, KeyAuthenticator
    from audiencelab_sdk._backend._recorders import UsageRecorder
    from audiencelab_sdk._backend._usage_queue import UsageStatistics
else:
    # Most programs need none of these, so they are imported when they are first used.
    _PARTS_FOR_BACKENDS = {
        "AsyncKeyAuthenticator": "_authenticators",
        "AsyncUsageRecorder": "_async_recorders",
        "KeyAuthenticator": "_authenticators",
        "UsageRecorder": "_recorders",
        "UsageStatistics": "_usage_queue",
    }

    def __getattr__(name: str) -> object:
        if name not in _PARTS_FOR_BACKENDS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"audiencelab_sdk._backend.{_PARTS_FOR_BACKENDS[name]}")
        value = globals()[name] = getattr(module, name)
        return value


__all__ = [
    "UNSET",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "ApiKey",
    "ApiKeyAuthentication",
    "ApiKeyDetails",
    "ApiKeyEvent",
    "ApiKeyVerification",
    "AsyncAudienceLab",
    "AsyncEnrichmentRun",
    "AsyncKeyAuthenticator",
    "AsyncPage",
    "AsyncPages",
    "AsyncProgress",
    "AsyncUsageRecorder",
    "AudienceLab",
    "AudienceLabError",
    "AuthenticatedApiKey",
    "AuthenticationError",
    "AuthenticationOverloadedError",
    "ClientClosedError",
    "ConfigurationError",
    "ConflictError",
    "CreatedApiKey",
    "CustomColumn",
    "EnrichmentChunkError",
    "EnrichmentFailedError",
    "EnrichmentJob",
    "EnrichmentRecordError",
    "EnrichmentRun",
    "EnrichmentStatus",
    "EnrichmentTimeoutError",
    "EnrichmentType",
    "InsecureURLWarning",
    "InvalidApiKey",
    "InvalidArgumentError",
    "InvalidCursorError",
    "InvalidRequestError",
    "KeyAuthenticator",
    "LoggedRequest",
    "NewSegment",
    "NotFoundError",
    "Outcome",
    "Page",
    "PermissionDeniedError",
    "Progress",
    "RateLimitError",
    "RejectedApiKey",
    "RejectionCode",
    "RequestAttempt",
    "SchemaError",
    "Scope",
    "Segment",
    "SegmentFilter",
    "ServerError",
    "SourceType",
    "UnexpectedResponseError",
    "UnknownColumn",
    "UnknownFilter",
    "UnreadableRow",
    "Unset",
    "UsageCount",
    "UsageEvent",
    "UsageLog",
    "UsageLogError",
    "UsageRecorder",
    "UsageStatistics",
    "ValidApiKey",
    "__version__",
]
