"""Log usage in batches."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import errors

from tests.database._sql import SERVICE_ROLE, Database, Tenant

LOG = "select * from public.log_api_key_usage_batch(%s)"


def log(db: Database, events: object) -> list[dict[str, Any]]:
    return db.rows(SERVICE_ROLE, LOG, json.dumps(events))


def event(key_id: object, **fields: object) -> dict[str, object]:
    return {"api_key_id": str(key_id), "endpoint": "/v1/x", "method": "GET"} | fields


def stored(db: Database, key_id: object) -> list[dict[str, Any]]:
    return db.admin(
        "select * from api_keys_private.api_key_logs where api_key_id = %s order by endpoint",
        key_id,
    )


def test_ids_are_in_the_order_of_time(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    began = time.time_ns() // 1_000_000

    one = "select log_id from public.log_api_key_usage(%s, '/one', 'GET', 200, null, null)"
    ids: list[UUID] = []
    for statement, argument in ((one, key_id), (LOG, json.dumps([event(key_id)]))) * 3:
        ids.append(db.rows(SERVICE_ROLE, statement, argument)[0]["log_id"])
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
    assert all(began <= each.int >> 80 <= time.time_ns() // 1_000_000 for each in ids)


def test_every_event_becomes_a_row(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    then = datetime.now(UTC) - timedelta(minutes=5)
    outcomes = log(
        db,
        [
            event(key_id, endpoint="/a", status_code=200, ip_address="::1", user_agent="🔑"),
            event(key_id, endpoint="/b", timestamp=then.isoformat()),
        ],
    )
    assert [outcome["event_index"] for outcome in outcomes] == [0, 1]
    assert all(outcome["success"] for outcome in outcomes)
    assert all(outcome["error"] is outcome["error_code"] is None for outcome in outcomes)
    first, second = stored(db, key_id)
    assert (first["status_code"], first["ip_address"], first["user_agent"]) == (200, "::1", "🔑")
    assert (second["status_code"], second["ip_address"]) == (None, None)
    assert second["timestamp"] == then
    for outcome, row in zip(outcomes, (first, second), strict=True):
        assert (outcome["log_id"], outcome["timestamp"]) == (row["id"], row["timestamp"])
    (key,) = db.admin("select last_used_at from api_keys_private.api_keys where id = %s", key_id)
    assert key["last_used_at"] == first["timestamp"]


def test_a_failed_event_does_not_affect_the_others(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    outcomes = log(
        db,
        [
            event(key_id, endpoint="/0"),
            event(uuid4()),
            event("not a uuid"),
            event(key_id, method=None),
            event(key_id, status_code="teapot"),
            event(key_id, timestamp="yesterday, or so"),
            "not an object",
            None,
            {},
            event(key_id, endpoint="/9"),
        ],
    )
    assert [outcome["event_index"] for outcome in outcomes] == list(range(10))
    assert [outcome["error_code"] for outcome in outcomes] == [
        None, "23503", "22P02", "23502", "22P02", "22007", "23502", "23502", "23502", None,
    ]  # fmt: skip
    for outcome in outcomes:
        assert outcome["success"] is (outcome["error"] is None)
        assert outcome["success"] is (outcome["log_id"] is not None)
        assert outcome["success"] is (outcome["timestamp"] is not None)
    rows = stored(db, key_id)
    assert [row["endpoint"] for row in rows] == ["/0", "/9"]
    assert [row["id"] for row in rows] == [outcomes[0]["log_id"], outcomes[9]["log_id"]]


def test_a_batch_has_at_most_1000_events(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    outcomes = log(db, [event(key_id)] * 1000)
    assert [outcome["event_index"] for outcome in outcomes] == list(range(1000))
    assert len(stored(db, key_id)) == 1000
    with pytest.raises(errors.InvalidParameterValue, match="at most 1000"):
        log(db, [event(key_id)] * 1001)
    assert len(stored(db, key_id)) == 1000
    assert log(db, []) == []


def test_a_repeated_batch_is_a_success_and_is_not_written_again(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    then = datetime.now(UTC) - timedelta(days=1)
    events = [
        event(key_id, log_id=str(uuid4()), endpoint="/0"),
        event(key_id, log_id=str(uuid4()), endpoint="/1", timestamp=then.isoformat()),
    ]
    first = log(db, events)
    assert [str(outcome["log_id"]) for outcome in first] == [each["log_id"] for each in events]
    db.admin("update api_keys_private.api_keys set last_used_at = %s where id = %s", then, key_id)
    assert log(db, events) == first
    assert [row["id"] for row in stored(db, key_id)] == [each["log_id"] for each in first]
    (key,) = db.admin("select last_used_at from api_keys_private.api_keys where id = %s", key_id)
    assert key["last_used_at"] == then


def test_a_batch_whose_events_are_partly_logged_writes_the_others(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    known, new = (event(key_id, log_id=str(uuid4())) for _ in range(2))
    log(db, [known])
    outcomes = log(db, [known, new, new, event(uuid4(), log_id=str(uuid4())), event(key_id)])
    assert [outcome["error_code"] for outcome in outcomes] == [None, None, None, "23503", None]
    assert len(stored(db, key_id)) == 3


def test_a_batch_that_is_repeated_while_it_is_written_is_written_once(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    events = [event(key_id, log_id=str(uuid4())) for _ in range(10)]
    with ThreadPoolExecutor(1) as pool:
        with db.acting(SERVICE_ROLE) as connection:
            connection.execute(LOG, [json.dumps(events)])
            repeated = pool.submit(log, db, events)
            with pytest.raises(TimeoutError):
                repeated.result(timeout=0.5)
        assert all(outcome["success"] for outcome in repeated.result(timeout=10))
    assert len(stored(db, key_id)) == 10


def test_a_log_id_that_is_no_uuid_fails(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    (outcome,) = log(db, [event(key_id, log_id="1")])
    assert (outcome["success"], outcome["error_code"]) == (False, "22P02")
    assert stored(db, key_id) == []


@pytest.mark.parametrize("events", [{}, "x", None, 1])
def test_events_that_are_not_an_array_raise_22023(db: Database, events: object) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must be an array"):
        log(db, events)
