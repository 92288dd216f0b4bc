"""The logged requests of an account, as its members and the service role read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import Error, errors

from tests.database._sql import (
    ANON,
    EVERYTHING,
    NOT_A_MEMBER,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
)

READ = """
    select * from public.api_key_log(
      %s, p_api_key_id => %s, p_limit => %s, p_before => %s, p_before_id => %s)
"""
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def add_log(db: Database, key_id: UUID, *times: datetime) -> list[UUID]:
    """Log a request at each of the times, and return the ids of the log rows."""
    events = [
        {
            "api_key_id": str(key_id),
            "endpoint": "/v1/x",
            "method": "GET",
            "status_code": 200,
            "ip_address": "::1",
            "user_agent": "🔑",
            "timestamp": time.isoformat(),
        }
        for time in times
    ]
    log = "select * from public.log_api_key_usage_batch(%s)"
    return [row["log_id"] for row in db.rows(SERVICE_ROLE, log, json.dumps(events))]


def read(
    db: Database,
    actor: Actor,
    account_id: UUID,
    key_id: UUID | None = None,
    limit: int | None = 100,
    before: tuple[datetime | None, UUID | None] = (None, None),
) -> list[dict[str, Any]]:
    return db.rows(actor, READ, account_id, key_id, limit, *before)


def test_a_member_reads_the_requests_of_all_keys_newest_first(db: Database, tenant: Tenant) -> None:
    first, second = (db.create_key(tenant)["id"] for _ in range(2))
    oldest, newest = add_log(db, first, NOON, NOON + timedelta(hours=2))
    (middle,) = add_log(db, second, NOON + timedelta(hours=1))
    add_log(db, db.create_key(db.add_tenant())["id"], NOON)

    rows = read(db, tenant.member, tenant.account_id)

    assert [(row["id"], row["api_key_id"]) for row in rows] == [
        (newest, first),
        (middle, second),
        (oldest, first),
    ]
    assert rows == db.admin(
        "select id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp"
        " from api_keys_private.api_key_logs where id = any (%s) order by timestamp desc",
        [oldest, middle, newest],
    )
    assert read(db, SERVICE_ROLE, tenant.account_id) == rows


def test_the_requests_of_one_key_also_after_it_is_revoked(db: Database, tenant: Tenant) -> None:
    first, second = (db.create_key(tenant)["id"] for _ in range(2))
    (logged,) = add_log(db, first, NOON)
    add_log(db, second, NOON)
    db.rows(tenant.member, "select public.revoke_api_key(%s)", first)
    assert [row["id"] for row in read(db, tenant.member, tenant.account_id, first)] == [logged]


def test_pages_by_keyset_have_every_request_once(db: Database, tenant: Tenant) -> None:
    keys = [db.create_key(tenant)["id"] for _ in range(2)]
    # Many requests have the same time, and the id decides.
    logged = {
        log_id for key_id in keys for log_id in add_log(db, key_id, *[NOON] * 5, datetime.now(UTC))
    }
    seen: list[dict[str, Any]] = []
    before: tuple[datetime | None, UUID | None] = (None, None)
    while page := read(db, tenant.member, tenant.account_id, limit=5, before=before):
        seen += page
        before = page[-1]["timestamp"], page[-1]["id"]
    assert [row["id"] for row in seen] == [
        row["id"] for row in read(db, tenant.member, tenant.account_id)
    ]
    assert {row["id"] for row in seen} == logged
    assert len(seen) == len(logged)


def test_a_time_alone_begins_before_it(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    earlier, _ = add_log(db, key_id, NOON - timedelta(microseconds=1), NOON)
    rows = read(db, tenant.member, tenant.account_id, before=(NOON, None))
    assert [row["id"] for row in rows] == [earlier]


@pytest.mark.parametrize("limit", [0, -1, 1001, None])
def test_a_limit_out_of_range_is_rejected(db: Database, tenant: Tenant, limit: int | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="between 1 and 1000"):
        read(db, tenant.member, tenant.account_id, limit=limit)


def test_others_read_nothing(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    add_log(db, key_id, NOON)
    for outsider in (db.add_tenant().member, Actor("authenticated", uuid4())):
        with pytest.raises(errors.InsufficientPrivilege, match=NOT_A_MEMBER):
            read(db, outsider, tenant.account_id)
    for role in (ANON, api_key(key_id)):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            read(db, role, tenant.account_id)


def test_a_key_of_another_account_does_not_exist(db: Database, tenant: Tenant) -> None:
    theirs = db.add_tenant()
    key_id = db.create_key(theirs)["id"]
    add_log(db, key_id, NOON)
    messages: set[str | None] = set()
    for actor in (tenant.member, SERVICE_ROLE):
        for unknown in (key_id, uuid4()):
            with pytest.raises(Error) as refusal:
                read(db, actor, tenant.account_id, unknown)
            assert refusal.value.sqlstate == "PT404"
            messages.add(refusal.value.diag.message_primary)
    assert messages == {"the API key does not exist, or it belongs to another account"}


def test_the_requests_of_a_busy_key_are_read_from_the_index(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    db.admin(
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, timestamp)"
        " select %s, '/', 'GET', now() - n * interval '1 second' from generate_series(1, 20000) n",
        key_id,
    )
    db.admin("analyze api_keys_private.api_key_logs")
    with db.acting(tenant.member) as connection:
        # The plan of the function's query is cached after a few calls.
        for _ in range(10):
            connection.execute(READ.encode(), [tenant.account_id, None, 10, None, None])
        connection.execute("reset role")
        read_rows = connection.execute(
            "select idx_tup_fetch + seq_tup_read from pg_stat_xact_all_tables"
            " where relname = 'api_key_logs'"
        ).fetchone()
    assert read_rows is not None
    assert read_rows[0] <= 10 * 50
