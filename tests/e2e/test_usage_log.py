"""The usage log through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from audiencelab_sdk import (
    AudienceLab,
    CreatedApiKey,
    PermissionDeniedError,
    UsageEvent,
    UsageLogError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        "select * from api_keys_private.api_key_logs where api_key_id = %s", created.id
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
        "position": row["position"],
    }
    (after,) = member.walk(tenant.account_id)
    assert after.last_used_at == log.timestamp


def test_log_usage_of_an_unknown_key_raises(backend: Client) -> None:
    with pytest.raises(UsageLogError, match="the API key does not exist") as failure:
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


class LossyProxy(ThreadingHTTPServer):
    """Forwards requests to an API, and loses every other response."""

    daemon_threads = True

    def __init__(self, api: str) -> None:
        super().__init__(("127.0.0.1", 0), LossyHandler)
        self.api = api
        self.requests = 0
        self.lock = threading.Lock()


class LossyHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        proxy = self.server
        assert isinstance(proxy, LossyProxy)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        names = ("apikey", "Authorization", "Content-Type", "Accept")
        headers = {name: self.headers[name] for name in names}
        response = httpx.post(proxy.api + self.path, content=body, headers=headers)
        with proxy.lock:
            proxy.requests += 1
            is_lost = proxy.requests % 2 == 1
        self.close_connection = True
        if is_lost:
            return
        self.send_response(response.status_code)
        self.send_header("Content-Type", response.headers["Content-Type"])
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so in the base
        """Log nothing."""


@pytest.fixture
def lossy_proxy(project: Project) -> Iterator[LossyProxy]:
    proxy = LossyProxy(project.url)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()


def test_lost_responses_lose_and_repeat_no_event(
    project: Project, created: CreatedApiKey, lossy_proxy: LossyProxy
) -> None:
    events = [
        UsageEvent(api_key_id=created.id, endpoint=f"/{number}", method="GET")
        for number in range(2_500)
    ]
    url = f"http://127.0.0.1:{lossy_proxy.server_address[1]}"
    with AudienceLab(url, project.service_role_key) as client:
        outcomes = client.api_keys.log_usage_batch(events)
    assert all(outcomes)
    assert lossy_proxy.requests == 6
    rows = project.sql(
        "select id, endpoint from api_keys_private.api_key_logs where api_key_id = %s", created.id
    )
    assert len(rows) == len(events)
    assert {row["endpoint"] for row in rows} == {event.endpoint for event in events}
    assert {row["id"] for row in rows} == {outcome.unwrap().log_id for outcome in outcomes}
