"""The usage of keys by hour, day and month: exact while it is rolled up and after a purge."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Error, errors

from audiencelab_sdk.local import _migrate as migrate
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
from tests.database._states import apply_state

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = "select * from public.log_api_key_usage_batch(%s)"
READ = "select * from public.api_key_usage(%s, %s, %s, %s, %s)"
ROLL_UP = "select api_keys_private.roll_up_usage() as rolled_up_to"
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def event(key_id: UUID, at: datetime, **fields: object) -> dict[str, object]:
    times = {"timestamp": at.isoformat()}
    return {"api_key_id": str(key_id), "endpoint": "/v1/x", "method": "GET"} | times | fields


def log(db: Database, *events: dict[str, object]) -> None:
    outcomes = db.rows(SERVICE_ROLE, LOG, json.dumps(events))
    assert all(outcome["success"] for outcome in outcomes), outcomes


def usage(
    db: Database,
    tenant: Tenant,
    bucket: str | None = "day",
    key_id: UUID | None = None,
    between: tuple[datetime | str | None, datetime | str | None] = (START, END),
    actor: Actor | None = None,
) -> list[dict[str, Any]]:
    return db.rows(actor or tenant.member, READ, tenant.account_id, *between, bucket, key_id)


def counted(db: Database, tenant: Tenant) -> int:
    """The number of requests in the year."""
    return sum(row["requests"] for row in usage(db, tenant, "month"))


def roll_up(db: Database) -> None:
    """Roll up all that is logged. Background processes of PostgreSQL can defer it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        (row,) = db.admin(ROLL_UP)
        (rows,) = db.admin(
            "select count(*) from api_keys_private.api_key_logs where position > %s",
            row["rolled_up_to"],
        )
        if rows["count"] == 0:
            return
    pytest.fail("not everything could be rolled up")


def rolled_up(db: Database, key_id: UUID) -> int:
    """The number of requests of a key that are rolled up."""
    (row,) = db.admin(
        "select coalesce(sum(requests), 0)::integer as requests"
        " from api_keys_private.api_key_usage_hours where api_key_id = %s",
        key_id,
    )
    requests: int = row["requests"]
    return requests


@pytest.fixture
def key_id(db: Database, tenant: Tenant) -> UUID:
    created: UUID = db.create_key(tenant)["id"]
    return created


@pytest.mark.parametrize("is_rolled_up", [False, True])
@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        (
            "hour",
            [
                (datetime(2026, 4, 30, 23, tzinfo=UTC), 1, 0),
                (datetime(2026, 5, 1, 0, tzinfo=UTC), 2, 1),
                (datetime(2026, 5, 1, 12, tzinfo=UTC), 2, 1),
            ],
        ),
        (
            "day",
            [
                (datetime(2026, 4, 30, tzinfo=UTC), 1, 0),
                (datetime(2026, 5, 1, tzinfo=UTC), 4, 2),
            ],
        ),
        (
            "month",
            [
                (datetime(2026, 4, 1, tzinfo=UTC), 1, 0),
                (datetime(2026, 5, 1, tzinfo=UTC), 4, 2),
            ],
        ),
    ],
)
def test_requests_and_errors_are_counted_by_bucket(
    db: Database,
    tenant: Tenant,
    key_id: UUID,
    bucket: str,
    expected: list[tuple[datetime, int, int]],
    is_rolled_up: bool,
) -> None:
    midnight = datetime(2026, 5, 1, tzinfo=UTC)
    log(
        db,
        event(key_id, midnight - timedelta(microseconds=1), status_code=399),
        event(key_id, midnight, status_code=400),
        event(key_id, midnight + timedelta(minutes=59), status_code=200),
        event(key_id, NOON, status_code=503),
        event(key_id, NOON + timedelta(minutes=5)),
    )
    if is_rolled_up:
        roll_up(db)
        assert rolled_up(db, key_id) == 5

    rows = usage(db, tenant, bucket)

    assert [(row["bucket"], row["requests"], row["errors"]) for row in rows] == expected
    assert {row["api_key_id"] for row in rows} == {key_id}
    assert rows[-1]["last_used_at"] == NOON + timedelta(minutes=5)
    assert rows == usage(db, tenant, bucket, actor=SERVICE_ROLE)


def test_buckets_are_in_utc_in_every_session(db: Database, tenant: Tenant, key_id: UUID) -> None:
    log(db, event(key_id, NOON), event(key_id, NOON + timedelta(minutes=29)))
    with db.acting(tenant.member) as connection:
        connection.execute("set time zone 'Asia/Kolkata'")
        rows = connection.execute(READ, [tenant.account_id, START, END, "hour", None]).fetchall()
    assert [row[1:4] for row in rows] == [(NOON, 2, 0)]


def test_each_key_of_the_account_has_its_own_counts(db: Database, tenant: Tenant) -> None:
    first, second, unused = (db.create_key(tenant)["id"] for _ in range(3))
    log(db, event(first, NOON), event(second, NOON), event(second, NOON))
    db.rows(tenant.member, "select public.revoke_api_key(%s)", second)
    assert {row["api_key_id"]: row["requests"] for row in usage(db, tenant)} == {
        first: 1,
        second: 2,
    }
    assert [row["requests"] for row in usage(db, tenant, key_id=second)] == [2]
    assert usage(db, tenant, key_id=unused) == []


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_the_range_is_extended_to_full_hours(
    db: Database, tenant: Tenant, key_id: UUID, is_rolled_up: bool
) -> None:
    log(db, *(event(key_id, NOON + n * timedelta(minutes=30)) for n in range(6)))
    if is_rolled_up:
        roll_up(db)
    minute = timedelta(minutes=1)
    for between, requests in (
        ((NOON, NOON + HOUR), 2),
        ((NOON + 59 * minute, NOON + HOUR), 2),
        ((NOON + 59 * minute, NOON + HOUR + minute), 4),
        ((NOON - 10 * HOUR, NOON), 0),
    ):
        rows = usage(db, tenant, "day", between=between)
        assert sum(row["requests"] for row in rows) == requests, between


@pytest.mark.parametrize(
    "between",
    [
        (None, END),
        (START, None),
        (END, START),
        (START, START),
        ("-infinity", END),
        (START, "infinity"),
        (START, "10000-01-01 00:00:01+00"),
        ("0001-12-31 BC", END),
    ],
)
def test_a_range_that_is_none_is_rejected(
    db: Database, tenant: Tenant, between: tuple[datetime | str | None, datetime | str | None]
) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="the range must end after it begins"):
        usage(db, tenant, between=between)


@pytest.mark.parametrize("bucket", ["week", "", "Day", None])
def test_an_unknown_bucket_is_rejected(db: Database, tenant: Tenant, bucket: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must be hour, day or month"):
        usage(db, tenant, bucket)


def test_others_read_nothing(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    log(db, event(key_id, NOON))
    for outsider in (db.add_tenant().member, Actor("authenticated", uuid4())):
        with pytest.raises(errors.InsufficientPrivilege, match=NOT_A_MEMBER):
            usage(db, tenant, actor=outsider)
    for role in (ANON, api_key(key_id)):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            usage(db, tenant, actor=role)


def test_a_key_of_another_account_does_not_exist(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    other = db.add_tenant()
    log(db, event(key_id, NOON))
    for actor in (other.member, SERVICE_ROLE):
        for unknown in (key_id, uuid4()):
            with pytest.raises(Error) as refusal:
                usage(db, other, key_id=unknown, actor=actor)
            assert refusal.value.sqlstate == "PT404"


@pytest.fixture
def writer(db: Database, key_id: UUID) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has logged a request of an hour ago and is still open."""
    with closing(psycopg.connect(db.admin_url)) as connection:
        connection.execute(LOG, [json.dumps([event(key_id, NOON - HOUR)])])
        yield connection


def test_a_row_that_commits_after_a_roll_up_with_an_older_time_is_counted(
    db: Database, tenant: Tenant, key_id: UUID, writer: psycopg.Connection[Any]
) -> None:
    log(db, event(key_id, NOON))
    for _ in range(3):
        db.admin(ROLL_UP)
        assert counted(db, tenant) == 1
    writer.commit()
    assert counted(db, tenant) == 2
    log(db, event(key_id, NOON + HOUR))
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == 3
    assert [row["requests"] for row in usage(db, tenant, "hour")] == [1, 1, 1]


def test_a_long_transaction_defers_only_what_came_after_it(
    db: Database, tenant: Tenant, key_id: UUID, writer: psycopg.Connection[Any]
) -> None:
    db.admin(ROLL_UP)
    log(db, event(key_id, NOON))
    with closing(psycopg.connect(db.admin_url)) as later:
        later.execute(LOG, [json.dumps([event(key_id, NOON + HOUR)])])
        writer.commit()
        # The transaction that is open now is younger than the roll-up that was deferred.
        db.admin(ROLL_UP)
        assert rolled_up(db, key_id) == 1
        assert counted(db, tenant) == 2
        later.rollback()
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == 2


def test_a_roll_up_in_a_transaction_that_has_logged_loses_nothing(
    db: Database, tenant: Tenant, key_id: UUID, writer: psycopg.Connection[Any]
) -> None:
    for _ in range(2):
        writer.execute(ROLL_UP)
    assert counted(db, tenant) == 0
    writer.commit()
    assert counted(db, tenant) == 1
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == 1


def test_a_roll_up_that_is_rolled_back_counts_nothing(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    log(db, event(key_id, NOON))
    with closing(psycopg.connect(db.admin_url)) as connection:
        connection.execute(ROLL_UP)
        connection.rollback()
    assert rolled_up(db, key_id) == 0
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == 1


def test_late_events_are_counted_where_they_belong(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    log(db, event(key_id, NOON), event(key_id, NOON + timedelta(days=1)))
    roll_up(db)
    late = event(key_id, NOON + timedelta(minutes=59), status_code=500)
    log(db, late)
    for _ in range(2):
        rows = usage(db, tenant, "day")
        assert [(row["requests"], row["errors"]) for row in rows] == [(2, 1), (1, 0)]
        assert rows[0]["last_used_at"] == NOON + timedelta(minutes=59)
        roll_up(db)
    assert rolled_up(db, key_id) == 3


def test_a_repeated_log_id_is_not_counted_again(db: Database, tenant: Tenant, key_id: UUID) -> None:
    repeated = event(key_id, NOON, log_id=str(uuid4()))
    for _ in range(2):
        log(db, repeated)
        log(db, repeated, repeated)
        assert counted(db, tenant) == 1
        roll_up(db)
        assert rolled_up(db, key_id) == counted(db, tenant) == 1


def test_many_roll_ups_at_once_count_each_request_once(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    writers, batches, requests = 4, 25, 20
    stopped = Event()

    def write() -> None:
        with closing(psycopg.connect(db.admin_url, autocommit=True)) as connection:
            for _ in range(batches):
                events = [event(key_id, NOON - n * HOUR) for n in range(requests)]
                connection.execute(LOG, [json.dumps(events)])

    def repeat_roll_up() -> None:
        with closing(psycopg.connect(db.admin_url, autocommit=True)) as connection:
            while not stopped.is_set():
                connection.execute(ROLL_UP)

    def watch() -> list[int]:
        seen = []
        while not stopped.is_set():
            seen.append(counted(db, tenant))
        return seen

    with ThreadPoolExecutor(writers + 5) as pool:
        watching = pool.submit(watch)
        rolling_up = [pool.submit(repeat_roll_up) for _ in range(4)]
        for written in [pool.submit(write) for _ in range(writers)]:
            written.result()
        stopped.set()
        for done in rolling_up:
            done.result()
    total = writers * batches * requests
    assert counted(db, tenant) == total
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == total
    seen = watching.result()
    # Each roll-up that committed while it was read shows as neither a gap nor a double count.
    assert seen == sorted(seen)
    assert all(count % requests == 0 for count in seen)


def test_a_roll_up_waits_for_no_other(db: Database, tenant: Tenant, key_id: UUID) -> None:
    log(db, event(key_id, NOON))
    with closing(psycopg.connect(db.admin_url)) as rolling_up:
        rolling_up.execute(ROLL_UP)
        with closing(psycopg.connect(db.admin_url, autocommit=True)) as other:
            other.execute("set lock_timeout = '1s'")
            other.execute(ROLL_UP)
            # Nor does a request that is logged.
            other.execute(LOG, [json.dumps([event(key_id, NOON)])])
        rolling_up.commit()
    roll_up(db)
    assert rolled_up(db, key_id) == counted(db, tenant) == 2


def test_the_counts_are_right_after_a_dump_is_restored_on_another_server(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    log(db, event(key_id, NOON))
    roll_up(db)
    log(db, event(key_id, NOON))
    # The other server had assigned more transaction ids, or fewer.
    for xact_id in ("9000000000000000000", "3"):
        db.admin("update api_keys_private.api_key_usage_progress set next_xact_id = %s", xact_id)
        before = counted(db, tenant)
        with closing(psycopg.connect(db.admin_url)) as connection:
            connection.execute(LOG, [json.dumps([event(key_id, NOON)])])
            for _ in range(3):
                db.admin(ROLL_UP)
                assert counted(db, tenant) == before
            connection.commit()
        roll_up(db)
        assert rolled_up(db, key_id) == counted(db, tenant) == before + 1


def test_rows_from_before_the_migration_are_counted(fresh: Database) -> None:
    apply_state(fresh, "live_keys")
    tenant = fresh.add_tenant()
    key_id = uuid4()
    fresh.admin(
        "insert into api_keys_private.api_keys"
        " (id, account_id, name, key_prefix, key_hash, created_by)"
        " values (%s, %s, 'old', 'sk_abcd', 'hash', %s)",
        key_id,
        tenant.account_id,
        tenant.user_id,
    )
    fresh.admin(
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, timestamp)"
        " select key, '/', 'GET', %s from unnest(%s::uuid[]) as key",
        NOON,
        [key_id, key_id, None],
    )
    migrate.apply_migrations(migrate.as_role(fresh.admin_url, "postgres"))
    log(fresh, event(key_id, NOON))
    for _ in range(2):
        assert [row["requests"] for row in usage(fresh, tenant)] == [3]
        roll_up(fresh)
    assert rolled_up(fresh, key_id) == 3


def test_rows_that_the_service_role_writes_itself_are_counted(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    insert = (
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, timestamp)"
        " values (%s, '/', 'GET', %s)"
    )
    db.rows(SERVICE_ROLE, insert, key_id, NOON)
    assert counted(db, tenant) == 1


def test_the_counts_of_a_deleted_key_are_deleted(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    log(db, event(key_id, NOON))
    roll_up(db)
    log(db, event(key_id, NOON))
    db.admin("delete from api_keys_private.api_keys where id = %s", key_id)
    roll_up(db)
    assert usage(db, tenant) == []
    assert rolled_up(db, key_id) == 0


def purge(db: Database, before: datetime | str | None, limit: int | None = 10_000) -> int:
    query = "select public.purge_api_key_logs(%s, %s)"
    deleted: int = db.value(SERVICE_ROLE, query, before, limit)
    return deleted


def logged(db: Database, key_id: UUID) -> list[datetime]:
    rows = db.admin(
        "select timestamp from api_keys_private.api_key_logs where api_key_id = %s order by 1",
        key_id,
    )
    return [row["timestamp"] for row in rows]


# Before all requests of other tests.
LONG_AGO = datetime(2025, 5, 1, 12, tzinfo=UTC)


def test_a_purge_deletes_the_oldest_and_keeps_the_counts(
    db: Database, tenant: Tenant, key_id: UUID
) -> None:
    times = [LONG_AGO + n * HOUR for n in (3, 1, 4, 0, 2)]
    log(db, *(event(key_id, at, status_code=500) for at in times))
    roll_up(db)
    before = usage(db, tenant, "hour", between=(LONG_AGO, END))
    assert len(before) == 5

    assert purge(db, LONG_AGO + 4 * HOUR, 3) == 3
    assert logged(db, key_id) == [LONG_AGO + 3 * HOUR, LONG_AGO + 4 * HOUR]
    assert purge(db, LONG_AGO + 4 * HOUR, 3) == 1
    assert purge(db, LONG_AGO + 4 * HOUR) == 0
    assert logged(db, key_id) == [LONG_AGO + 4 * HOUR]
    assert usage(db, tenant, "hour", between=(LONG_AGO, END)) == before


def test_a_large_purge_works_in_parts(db: Database, tenant: Tenant, key_id: UUID) -> None:
    db.admin(
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, timestamp)"
        # Many have the same time, also at the boundaries of the parts.
        " select %s, '/', 'GET', %s + (n / 7000) * interval '1 second'"
        " from generate_series(1, 25000) as n",
        key_id,
        LONG_AGO,
    )
    roll_up(db)
    assert purge(db, LONG_AGO + HOUR, 20_000) == 20_000
    assert len(logged(db, key_id)) == 5_000
    assert purge(db, LONG_AGO + HOUR, 20_000) == 5_000
    rows = usage(db, tenant, between=(LONG_AGO, END))
    assert [row["requests"] for row in rows] == [25_000]


def test_a_purge_counts_what_it_deletes(db: Database, tenant: Tenant, key_id: UUID) -> None:
    log(db, event(key_id, LONG_AGO), event(key_id, LONG_AGO))
    deadline = time.monotonic() + 10
    while purge(db, LONG_AGO + HOUR) == 0:
        assert time.monotonic() < deadline
    assert logged(db, key_id) == []
    assert [row["requests"] for row in usage(db, tenant, between=(LONG_AGO, END))] == [2]


def test_a_purge_leaves_rows_that_cannot_be_counted_yet(
    db: Database, tenant: Tenant, key_id: UUID, writer: psycopg.Connection[Any]
) -> None:
    log(db, event(key_id, LONG_AGO))
    for _ in range(3):
        assert purge(db, LONG_AGO + HOUR) == 0
    assert logged(db, key_id) == [LONG_AGO]
    writer.commit()
    roll_up(db)
    assert purge(db, LONG_AGO + HOUR) == 1
    rows = usage(db, tenant, "month", between=(LONG_AGO, END))
    assert [row["requests"] for row in rows] == [1, 1]


def test_purges_at_the_same_time_delete_different_rows(db: Database, key_id: UUID) -> None:
    log(db, *(event(key_id, LONG_AGO + n * HOUR) for n in range(4)))
    roll_up(db)
    with closing(psycopg.connect(db.admin_url)) as first:
        first.execute("select public.purge_api_key_logs(%s, 2)", [LONG_AGO + 4 * HOUR])
        assert purge(db, LONG_AGO + 4 * HOUR) == 2
        first.commit()
    assert logged(db, key_id) == []


def test_a_request_that_is_logged_during_a_purge_does_not_wait(db: Database, key_id: UUID) -> None:
    log(db, event(key_id, LONG_AGO))
    roll_up(db)
    with closing(psycopg.connect(db.admin_url)) as purging:
        purging.execute("select public.purge_api_key_logs(%s)", [LONG_AGO + HOUR])
        with db.acting(SERVICE_ROLE) as connection:
            connection.execute("set lock_timeout = '1s'")
            # The key was not used within a minute, so this also updates last_used_at.
            connection.execute(LOG, [json.dumps([event(key_id, LONG_AGO)])])
            one = "select success from public.log_api_key_usage(%s, '/', 'GET', 200, null, null)"
            assert connection.execute(one, [key_id]).fetchone() == (True,)
        purging.commit()
    assert len(logged(db, key_id)) == 2


@pytest.mark.parametrize(
    ("before", "limit", "message"),
    [
        (None, 1, "the time must not be null"),
        (LONG_AGO, 0, "between 1 and 1000000"),
        (LONG_AGO, 1_000_001, "between 1 and 1000000"),
        (LONG_AGO, None, "between 1 and 1000000"),
    ],
)
def test_an_invalid_purge_is_rejected(
    db: Database, before: datetime | None, limit: int | None, message: str
) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=message):
        purge(db, before, limit)


def test_rows_that_are_rolled_up_are_not_read(db: Database, tenant: Tenant, key_id: UUID) -> None:
    db.admin(
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, timestamp)"
        " select %s, '/', 'GET', %s from generate_series(1, 20000)",
        key_id,
        NOON,
    )
    roll_up(db)
    db.admin("analyze api_keys_private.api_key_logs")
    log(db, event(key_id, NOON))
    with db.acting(tenant.member) as connection:
        for _ in range(10):
            rows = connection.execute(READ, [tenant.account_id, START, END, "day", None]).fetchall()
            assert [row[2] for row in rows] == [20_001]
        connection.execute("reset role")
        read = connection.execute(
            "select idx_tup_fetch + seq_tup_read from pg_stat_xact_all_tables"
            " where relname = 'api_key_logs'"
        ).fetchone()
    # The planner reads a few rows, too.
    assert read is not None
    assert read[0] <= 100


@pytest.mark.parametrize("at", ["infinity", "-infinity", "10000-01-01", "0001-12-31 BC"])
def test_a_time_that_cannot_be_read_is_not_logged(
    db: Database, tenant: Tenant, key_id: UUID, at: str
) -> None:
    (outcome,) = db.rows(SERVICE_ROLE, LOG, json.dumps([event(key_id, NOON, timestamp=at)]))
    assert (outcome["success"], outcome["error_code"]) == (False, "23514")
    assert "api_key_logs_timestamp_check" in outcome["error"]
