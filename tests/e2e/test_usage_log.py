"""The usage log through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from audiencelab_sdk import (
    CreatedApiKey,
    PermissionDeniedError,
    UsageEvent,
    UsageLogError,
)

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client


def test_log_usage_inserts_a_row(
    project: Project, tenant: Tenant, created: CreatedApiKey, member: Client, backend: Client
) -> None:
    (before,) = member.walk(tenant.account_id)
    assert before.last_used_at is None
    log = backend.call(
        "log_usage",
        created.id,
        endpoint="/v1/x",
        method="POST",
        status_code=201,
        ip_address="203.0.113.7",
        user_agent="curl/8 🔑",
    )
    (row,) = project.sql(
        "select id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp"
        " from api_keys_private.api_key_logs where api_key_id = %s",
        created.id,
    )
    assert row == {
        "id": log.log_id,
        "api_key_id": created.id,
        "endpoint": "/v1/x",
        "method": "POST",
        "status_code": 201,
        "ip_address": "203.0.113.7",
        "user_agent": "curl/8 🔑",
        "timestamp": log.timestamp,
    }
    (after,) = member.walk(tenant.account_id)
    assert after.last_used_at == log.timestamp


def test_log_usage_of_an_unknown_key_raises(backend: Client) -> None:
    with pytest.raises(UsageLogError, match="api_key_logs_api_key_id_fkey") as failure:
        backend.call("log_usage", uuid4(), endpoint="/", method="GET")
    assert failure.value.code == "23503"


def test_concurrent_calls_insert_one_row_each(
    project: Project, created: CreatedApiKey, backend: Client
) -> None:
    with ThreadPoolExecutor(50) as pool:
        logs = list(
            pool.map(
                lambda _: backend.call("log_usage", created.id, endpoint="/", method="GET"),
                range(50),
            )
        )
    rows = project.sql(
        "select id from api_keys_private.api_key_logs where api_key_id = %s", created.id
    )
    assert {row["id"] for row in rows} == {log.log_id for log in logs}
    assert len(rows) == 50


def test_log_usage_batch_reports_each_event(
    backend: Client, member: Client, created: CreatedApiKey, project: Project
) -> None:
    event = UsageEvent(api_key_id=created.id, endpoint="/\x00\ud800", method="GET", user_agent="")
    unknown = event.model_copy(update={"api_key_id": uuid4()})
    dated = event.model_copy(update={"timestamp": datetime(2025, 1, 2, tzinfo=UTC)})
    outcomes = backend.call("log_usage_batch", [*[event] * 1100, unknown, dated])
    assert [outcome.index for outcome in outcomes if not outcome] == [1100]
    assert outcomes[1100].error.code == "23503"
    assert outcomes[1101].value.timestamp == datetime(2025, 1, 2, tzinfo=UTC)
    rows = project.sql(
        "select id, endpoint, user_agent from api_keys_private.api_key_logs where api_key_id = %s",
        created.id,
    )
    assert {row["id"] for row in rows} == {o.value.log_id for o in outcomes if o}
    assert {(row["endpoint"], row["user_agent"]) for row in rows} == {("/\ufffd\ufffd", None)}
    (refused,) = member.call("log_usage_batch", [event])
    assert isinstance(refused.error, PermissionDeniedError)
