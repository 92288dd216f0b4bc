"""An attacker after the usage of others, a smaller bill of his own, or more than his key may do."""

from __future__ import annotations

import json
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Error, errors

from tests.database._sql import ANON, EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, api_key

LOG = "select * from public.log_api_key_usage_batch(%s)"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def log(db: Database, key_id: UUID, **fields: object) -> dict[str, Any]:
    event = {"api_key_id": str(key_id), "endpoint": "/", "method": "GET"}
    times = {"timestamp": NOON.isoformat()}
    (outcome,) = db.rows(SERVICE_ROLE, LOG, json.dumps([event | times | fields]))
    return outcome


def requests(db: Database, tenant: Tenant) -> int:
    read = "select coalesce(sum(requests), 0)::integer from public.api_key_usage(%s, %s, %s)"
    year = NOON - timedelta(days=100), NOON + timedelta(days=265)
    count: int = db.value(tenant.member, read, tenant.account_id, *year)
    return count


def test_to_read_the_requests_of_an_account_by_a_key_of_ones_own(
    db: Database, tenant: Tenant
) -> None:
    """The account is the attacker's, and the key is the victim's, or the other way round."""
    victim = db.add_tenant()
    theirs, own = db.create_key(victim)["id"], db.create_key(tenant)["id"]
    log(db, theirs, user_agent="secret")
    for account_id, key_id, sqlstate in (
        (tenant.account_id, theirs, "PT404"),
        (victim.account_id, own, "42501"),
        (victim.account_id, theirs, "42501"),
        (victim.account_id, None, "42501"),
        (None, theirs, "42501"),
        (None, None, "42501"),
    ):
        for statement in (
            "select * from public.api_key_log(%s, %s)",
            "select * from public.api_key_usage(%s, '2026-01-01', '2027-01-01', 'day', %s)",
        ):
            with pytest.raises(Error) as refusal:
                db.rows(tenant.member, statement, account_id, key_id)
            assert refusal.value.sqlstate == sqlstate
            assert "secret" not in str(refusal.value)


def test_to_learn_whether_a_key_exists_in_another_account(db: Database, tenant: Tenant) -> None:
    theirs = db.create_key(db.add_tenant())["id"]
    statement = "select * from public.api_key_log(%s, %s)"
    messages: list[tuple[str | None, str | None]] = []
    for key_id in (theirs, uuid4()):
        with pytest.raises(Error) as refusal:
            db.rows(tenant.member, statement, tenant.account_id, key_id)
        messages.append((refusal.value.sqlstate, refusal.value.diag.message_primary))
    assert messages[0] == messages[1]


def test_to_change_the_counts_or_the_log(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    log(db, key_id)
    for actor in (tenant.member, api_key(key_id), ANON):
        for statement in (
            "delete from api_keys_private.api_key_logs",
            "update api_keys_private.api_key_usage_hours set requests = 0",
            "update api_keys_private.api_key_usage_progress set rolled_up_to = 9000000000",
            "select setval('api_keys_private.api_key_log_positions', 1)",
            "select nextval('api_keys_private.api_key_log_positions')",
            "select api_keys_private.roll_up_usage()",
            "select api_keys_private.keep_api_key_logs('1 hour')",
            "select public.purge_api_key_logs(now())",
            "select public.log_api_key_usage_batch('[]')",
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                db.rows(actor, statement)
    for statement in (
        "update api_keys_private.api_key_usage_hours set requests = 0",
        "delete from api_keys_private.api_key_usage_hours",
        "update api_keys_private.api_key_usage_progress set rolled_up_to = 9000000000",
        "select setval('api_keys_private.api_key_log_positions', 1)",
        "select api_keys_private.keep_api_key_logs('1 hour')",
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            db.rows(SERVICE_ROLE, statement)
    assert requests(db, tenant) == 1


def test_to_take_the_log_id_of_somebody_elses_request(db: Database, tenant: Tenant) -> None:
    """It only loses the attacker's own request: the victim's is neither changed nor returned."""
    victim = db.add_tenant()
    theirs, own = db.create_key(victim)["id"], db.create_key(tenant)["id"]
    log_id = str(uuid4())
    log(db, theirs, log_id=log_id, endpoint="/theirs")
    log(db, own, log_id=log_id, endpoint="/own")
    (row,) = db.admin("select * from api_keys_private.api_key_logs where id = %s", log_id)
    assert (row["api_key_id"], row["endpoint"]) == (theirs, "/theirs")
    assert (requests(db, victim), requests(db, tenant)) == (1, 0)


def test_to_hide_requests_before_the_roll_up(db: Database, tenant: Tenant) -> None:
    """By times that it could have passed already, or that it cannot reach."""
    key_id = db.create_key(tenant)["id"]
    log(db, key_id)
    db.admin("select api_keys_private.roll_up_usage()")
    for time_of_request in ("0001-01-01", "9999-12-31 23:59:59.999999+00", NOON.isoformat()):
        assert log(db, key_id, timestamp=time_of_request)["success"]
    read = (
        "select sum(requests)::integer from"
        " public.api_key_usage(%s, '0001-01-01', '10000-01-01', 'month')"
    )
    for _ in range(2):
        assert db.value(tenant.member, read, tenant.account_id) == 4
        db.admin("select api_keys_private.roll_up_usage()")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns", "UTC"])
def test_to_move_requests_to_another_bill_by_the_time_zone(
    db: Database, tenant: Tenant, zone: str
) -> None:
    key_id = db.create_key(tenant)["id"]
    log(db, key_id, timestamp="2026-04-30 23:59:59+00")
    with closing(psycopg.connect(db.admin_url, autocommit=True)) as connection:
        connection.execute("select set_config('timezone', %s, false)", [zone])
        connection.execute("select api_keys_private.roll_up_usage()")
    read = "select bucket from public.api_key_usage(%s, '2026-01-01', '2027-01-01', 'month')"
    assert db.value(tenant.member, read, tenant.account_id) == datetime(2026, 4, 1, tzinfo=UTC)


def test_to_run_code_as_the_owner_by_objects_of_ones_own(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    log(db, key_id)
    with db.acting(tenant.member) as connection:
        connection.execute(
            "create function pg_temp.date_trunc(text, timestamptz, text) returns timestamptz"
            " language plpgsql as $$ begin raise 'run as %', current_user; end $$"
        )
        connection.execute("create temporary table api_key_logs (id uuid)")
        connection.execute("set search_path = pg_temp, public")
        rows = connection.execute(
            "select requests from public.api_key_usage(%s, '2026-01-01', '2027-01-01')",
            [tenant.account_id],
        ).fetchall()
    assert rows == [(1,)]


def test_to_slow_the_list_of_requests_by_a_page_of_all_rows(db: Database, tenant: Tenant) -> None:
    for limit in (2**31 - 1, 1001, 0, -1):
        with pytest.raises(errors.InvalidParameterValue):
            db.rows(
                tenant.member,
                "select * from public.api_key_log(%s, p_limit => %s)",
                tenant.account_id,
                limit,
            )


def test_to_stop_the_roll_up_for_others_by_a_transaction_that_never_ends(
    db: Database, tenant: Tenant
) -> None:
    """The counts stay exact, and reading them does not wait."""
    key_id = db.create_key(tenant)["id"]
    with closing(psycopg.connect(db.admin_url)) as endless:
        endless.execute("select pg_current_xact_id()")
        for count in range(1, 4):
            log(db, key_id)
            began = time.monotonic()
            db.admin("select api_keys_private.roll_up_usage()")
            assert requests(db, tenant) == count
            assert time.monotonic() - began < 5


def test_to_create_segments_through_a_key_that_may_not(db: Database, tenant: Tenant) -> None:
    """By any road: the table, the function, an upsert, and an update of somebody else's row."""
    other = db.add_tenant()
    theirs = db.create_segment(other)
    mine = db.create_segment(tenant)
    writes_one = {"entity_type": "segment", "entity_id": str(theirs), "action": "write"}
    for key in (
        api_key(db.create_key(tenant, [writes_one])["id"]),
        api_key(db.create_key(tenant, [EVERYTHING | {"action": "read"}])["id"]),
    ):
        insert = (
            "insert into public.segments (id, account_id, name, source_type, source_id, created_by)"
            " values (%s, %s, 'x', 'audience', '1', %s)"
        )
        upsert = insert + " on conflict (id) do update set name = excluded.name"
        for account in (tenant, other):
            row = account.account_id, account.user_id
            for statement in (insert, upsert):
                with pytest.raises(errors.InsufficientPrivilege):
                    db.rows(key, statement, uuid4(), *row)
            with pytest.raises(errors.InsufficientPrivilege):
                db.rows(key, upsert, theirs, *row)
            with pytest.raises(errors.InsufficientPrivilege):
                db.rows(
                    key,
                    "select public.create_studio_segment(%s, 'x', 'audience', '1')",
                    account.account_id,
                )
        for segment in (mine, theirs):
            change = "update public.segments set name = 'x' where id = %s"
            assert db.affected(key, change, segment) == 0
            for function in ("delete_studio_segment", "restore_studio_segment"):
                with pytest.raises(Error) as refusal:
                    db.rows(key, f"select public.{function}(%s)", segment)
                assert refusal.value.sqlstate == "PT404"
    names = db.admin("select name from public.segments where id = any (%s)", [mine, theirs])
    assert {row["name"] for row in names} == {"segment"}


def test_to_move_a_row_out_of_the_account_of_the_key(db: Database, tenant: Tenant) -> None:
    other = db.add_tenant()
    key = api_key(db.create_key(tenant, [EVERYTHING])["id"])
    db.create_segment(tenant)
    db.create_job(tenant)
    for table in ("segments", "enrichment_tracking"):
        for column in ("account_id", "created_by", "id", "created_at"):
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                db.affected(key, f"update public.{table} set {column} = default")
    for insert in (
        (
            "insert into public.segments (account_id, name, source_type, source_id)"
            " values (%s, 'x', 'audience', '1')"
        ),
        (
            "insert into public.enrichment_tracking (account_id, audience_id, enrichment_type)"
            " values (%s, gen_random_uuid(), 'email')"
        ),
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            db.rows(key, insert, other.account_id)
    with pytest.raises(errors.InsufficientPrivilege):
        db.rows(
            key,
            "select public.create_studio_segment(%s, 'x', 'audience', '1')",
            other.account_id,
        )


def test_to_see_deleted_segments_through_a_key(db: Database, tenant: Tenant) -> None:
    key = api_key(db.create_key(tenant, [EVERYTHING])["id"])
    segment = db.create_segment(tenant)
    db.rows(tenant.member, "select public.delete_studio_segment(%s)", segment)
    read = "select * from public.segments where id = %s"
    assert db.rows(key, read, segment) == []
    with db.acting(key) as connection:
        connection.execute("select pg_current_xact_id()")
        assert connection.execute(read, [segment]).fetchall() == []
        revive = "update public.segments set deleted = false"
        assert connection.execute(revive).rowcount == 0


def test_to_write_as_a_user_who_is_gone(db: Database, tenant: Tenant) -> None:
    maker = db.add_user(uuid4())
    db.add_member(tenant.account_id, maker)
    key = api_key(db.create_key(tenant, [EVERYTHING], created_by=maker)["id"])
    db.admin("delete from auth.users where id = %s", maker)
    for claimed in (tenant.user_id, maker, key.subject):
        with pytest.raises(Error) as refusal:
            db.rows(
                key,
                "insert into public.segments (account_id, name, source_type, source_id, created_by)"
                " values (%s, 'x', 'audience', '1', %s)",
                tenant.account_id,
                claimed,
            )
        assert refusal.value.sqlstate == "PT409"


def test_to_act_as_a_key_that_does_not_exist(db: Database, tenant: Tenant) -> None:
    for subject in (uuid4(), tenant.user_id, None):
        with pytest.raises(errors.InsufficientPrivilege):
            db.rows(
                Actor("api_key", subject),
                "insert into public.segments (account_id, name, source_type, source_id, created_by)"
                " values (%s, 'x', 'audience', '1', %s)",
                tenant.account_id,
                tenant.user_id,
            )
