"""What the SDK gives and takes: immutable pydantic models, and pages of them."""

from audiencelab_sdk.models.api_keys import (
    ApiKey,
    ApiKeyVerification,
    CreatedApiKey,
    InvalidApiKey,
    Scope,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)
from audiencelab_sdk.models.page import AsyncPage, Page

__all__ = [
    "ApiKey",
    "ApiKeyVerification",
    "AsyncPage",
    "CreatedApiKey",
    "InvalidApiKey",
    "Page",
    "Scope",
    "UsageEvent",
    "UsageLog",
    "ValidApiKey",
]
