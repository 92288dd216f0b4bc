"""Settings of a client, and JSON of rows and results."""

from typing import Any
from uuid import UUID

URL = "https://project.test"
KEY = "service-role-key-that-nobody-may-see"
TOKEN = "access-token-that-nobody-may-see"
PUBLISHABLE_KEY = "sb_publishable_that-nobody-may_see"
SECRET_KEY = "sb_secret_that-nobody-may_see"
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
DETAILS: dict[str, Any] = {
    **LISTED,
    "account_id": ACCOUNT,
    "disabled_at": None,
    "metadata": {"team": "crm"},
    "allowed_ips": ["192.0.2.0/24", "2001:db8::1/128"],
    "successor_id": None,
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
ODD_JSON = {
    "deep": "[" * 250 + "]" * 250,
    "deeper": '{"a":' * 6000 + '"]}"' + "}" * 6000,
    "long": "9" * 6000,
    "large": "1" + "0" * 5000,
    "text": '"\\\\\\", ]} {\\u0041"',
}
