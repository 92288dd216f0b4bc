"""Helpers that let one test run against both clients."""

import inspect
import json
from typing import Any
from uuid import UUID

import httpx
from postgrest import SyncPostgrestClient

from audiencelab_sdk._http._drivers import Driver
from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments

URL = "https://project.test"
KEY = "service-role-key-that-nobody-may-see"
TOKEN = "access-token-that-nobody-may-see"
ACCOUNT = "11111111-1111-4111-8111-111111111111"
USER = UUID("33333333-3333-4333-8333-333333333333")
KEY_ID = "22222222-2222-4222-8222-222222222222"
API_KEY = "sk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACQhpZi"

CREATED: dict[str, Any] = {
    "id": KEY_ID,
    "name": "crm",
    "key": API_KEY,
    "key_prefix": "sk_AAAA",
    "account_id": ACCOUNT,
    "scopes": [{"entity_type": "segment", "entity_id": "*", "action": "read"}],
    "expires_at": None,
    "created_at": "2025-01-02T03:04:05.678901+00:00",
}
LISTED: dict[str, Any] = {
    "id": KEY_ID,
    "name": "crm",
    "key_prefix": "sk_AAAA",
    "scopes": [],
    "expires_at": None,
    "created_at": "2025-01-02T03:04:05.678901+00:00",
    "last_used_at": None,
    "is_active": True,
    "created_by": ACCOUNT,
}
VALID: dict[str, Any] = {"valid": True, "api_key_id": KEY_ID, "account_id": ACCOUNT, "error": None}

SEGMENT: dict[str, Any] = {
    "id": KEY_ID,
    "account_id": ACCOUNT,
    "name": "engineers",
    "description": None,
    "source_type": "audience",
    "source_id": "a-1",
    "filters": [{"field": "country", "operator": "=", "value": "US"}, {"and": []}],
    "enrichment_fields": ["email"],
    "custom_columns": [{"field": "s", "headerName": "S", "type": "number", "width": 3}],
    "tags": [],
    "created_by": ACCOUNT,
    "created_at": "2025-01-02T03:04:05.678901Z",
    "updated_at": "2025-01-02T03:04:05.678901Z",
    "deleted": False,
}
JOB: dict[str, Any] = {
    "id": KEY_ID,
    "account_id": ACCOUNT,
    "audience_id": ACCOUNT,
    "enrichment_type": "email",
    "status": "pending",
    "total_records": 10,
    "processed_records": 3,
    "failed_records": 1,
    "enrichment_fields": [],
    "metadata": {"a": 1},
    "started_at": None,
    "completed_at": None,
    "created_by": ACCOUNT,
    "created_at": "2025-01-02T03:04:05.678901+00:00",
    "updated_at": "2025-01-02T03:04:05.678901+00:00",
}


# It builds requests and never sends them.
API = SyncPostgrestClient(
    "https://a.test/rest/v1",
    http_client=httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(500))),
)


class Undriven(Driver):
    """Returns the operation itself, for a test to drive by hand."""

    def __init__(self) -> None:
        super().__init__(API, max_retries=0)

    def __call__(self, operation: Operation[Any]) -> Any:
        return operation


api_keys: Any = ApiKeys(Undriven(), lambda: None)
segments: Any = Segments(Undriven(), lambda: USER)
enrichment: Any = Enrichment(Undriven(), lambda: USER)
segments_of_nobody: Any = Segments(Undriven(), lambda: None)
enrichment_of_nobody: Any = Enrichment(Undriven(), lambda: None)


def unfetched(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the Listing behind a method that returns pages."""
    return method.__wrapped__(method.__self__, *args, **kwargs)


def success(data: Any) -> httpx.Response:
    """What the server would answer with, for an operation that is driven by hand."""
    request = httpx.Request("POST", f"{URL}/rest/v1/rows")
    return httpx.Response(200, content=json.dumps(data), request=request)


async def settle(value: Any) -> Any:
    """The result of a call to either client, awaited where it has to be."""
    return await value if inspect.isawaitable(value) else value


async def close(client: Any) -> None:
    """Close either client."""
    await settle(client.aclose() if hasattr(client, "aclose") else client.close())
