"""The usage log, partitioned by day with pg_partman: the same functions, and fewer rows to read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from audiencelab_sdk.local import _migrate as migrate
from tests.database._sql import SERVICE_ROLE, Database, Tenant, warnings_of
from tests.database._tools import ROOT
from tests.database.conftest import make_database, start_server_with

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTITION = (ROOT / "supabase" / "partition_api_key_logs.sql").read_text()
LOG = "select * from public.log_api_key_usage_batch(%s)"
ROLL_UP = "select api_keys_private.roll_up_usage()"
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)


class Log:
    """A key of an account, and its requests."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.tenant: Tenant = db.add_tenant()
        self.key_id: UUID = db.create_key(self.tenant)["id"]

    def add(self, *times: datetime, log_id: UUID | None = None) -> None:
        events = [
            {"api_key_id": str(self.key_id), "endpoint": "/", "method": "GET"}
            | {"timestamp": time.isoformat()}
            | ({"log_id": str(log_id)} if log_id else {})
            for time in times
        ]
        outcomes = self.db.rows(SERVICE_ROLE, LOG, json.dumps(events))
        assert all(outcome["success"] for outcome in outcomes), outcomes

    def times(self) -> list[datetime]:
        read = "select timestamp from public.api_key_log(%s)"
        return [
            row["timestamp"]
            for row in self.db.rows(self.tenant.member, read, self.tenant.account_id)
        ]

    def counts(self) -> list[int]:
        """The requests of each day."""
        read = "select requests from public.api_key_usage(%s, %s, %s)"
        between = NOON - 400 * DAY, NOON + 400 * DAY
        rows = self.db.rows(self.tenant.member, read, self.tenant.account_id, *between)
        return [row["requests"] for row in rows]


@pytest.fixture(scope="module")
def partitionable() -> Iterator[Database]:
    with start_server_with("pg_partman", "postgresql-15-partman") as server:
        db = make_database(server, "partitioned")
        db.admin("create schema partman authorization postgres")
        db.admin("create extension pg_partman with schema partman")
        db.admin("grant all on all tables in schema partman to postgres")
        yield db


@pytest.fixture(scope="module")
def log(partitionable: Database) -> Log:
    """A log that was partitioned when it had rows: some of them rolled up, some purged."""
    log = Log(partitionable)
    log.add(NOON - 100 * DAY, NOON - 30 * DAY, NOON - 2 * DAY)
    partitionable.admin(ROLL_UP)
    purge = "select public.purge_api_key_logs(%s)"
    assert partitionable.value(SERVICE_ROLE, purge, NOON - 90 * DAY) == 1
    log.add(NOON - 20 * DAY, NOON - DAY)
    partitionable.apply(PARTITION)
    assert log.counts() == [1, 1, 1, 1, 1]
    with psycopg.connect(
        migrate.as_role(partitionable.admin_url, "postgres"), autocommit=True
    ) as connection:
        connection.execute(
            "call partman.partition_data_proc('api_keys_private.api_key_logs',"
            " p_source_table => 'api_keys_private.api_key_logs_unpartitioned')"
        )
        connection.execute("drop table api_keys_private.api_key_logs_unpartitioned")
    return log


def explained(db: Database, query: str, *parameters: object) -> set[str]:
    """The suffixes of the partitions that a query reads, as role postgres."""
    url = migrate.as_role(db.admin_url, "postgres")
    with psycopg.connect(url) as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(f"explain {query}".encode(), parameters).fetchall()
    lines = "\n".join(line for (line,) in plan)
    return set(re.findall(r"on api_key_logs_(p\d{4}_\d\d_\d\d|default)\b", lines))


def test_it_keeps_the_rows_and_their_counts(log: Log) -> None:
    assert log.times() == [NOON - n * DAY for n in (1, 2, 20, 30)]
    for _ in range(2):
        assert log.counts() == [1, 1, 1, 1, 1]
        log.db.admin(ROLL_UP)


def test_the_functions_work_on_it(log: Log) -> None:
    other = Log(log.db)
    # Today, late by a month, and beyond the partitions that exist.
    other.add(NOON, NOON - 30 * DAY, NOON + 300 * DAY)
    one = "select success from public.log_api_key_usage(%s, '/', 'GET', 200, null, null)"
    assert log.db.value(SERVICE_ROLE, one, other.key_id) is True
    for _ in range(2):
        assert sum(other.counts()) == 4
        log.db.admin(ROLL_UP)
    assert other.times()[0] == NOON + 300 * DAY
    assert len(other.times()) == 4
    purge = "select public.purge_api_key_logs(%s, 1)"
    oldest = log.db.value(SERVICE_ROLE, purge, NOON - 29 * DAY)
    assert oldest == 1
    assert sum(other.counts()) == 4


def test_an_event_that_is_repeated_with_its_time_is_written_once(log: Log) -> None:
    other, log_id = Log(log.db), uuid4()
    for _ in range(2):
        other.add(NOON - DAY, log_id=log_id)
    assert other.counts() == [1]
    assert other.times() == [NOON - DAY]


def test_queries_by_time_read_only_the_partitions_of_that_time(log: Log) -> None:
    everything = explained(log.db, "select * from api_keys_private.api_key_logs")
    assert len(everything) > 5
    # The conditions of api_key_usage, api_key_log and purge_api_key_logs.
    usage = (
        "select * from api_keys_private.api_key_logs"
        " where position > 0 and timestamp >= %s and timestamp < %s"
    )
    days = {f"p{day:%Y_%m_%d}" for day in (NOON - DAY, NOON)}
    assert explained(log.db, usage, NOON - DAY, NOON - timedelta(hours=1)) == days
    newest = (
        "select * from api_keys_private.api_key_logs where api_key_id = %s"
        " and (timestamp, id) < (%s, %s) and timestamp <= %s order by timestamp desc, id desc"
    )
    at = NOON - 3 * DAY
    later = explained(log.db, newest, log.key_id, at, uuid4(), at)
    assert later < everything - days
    oldest = (
        "select * from api_keys_private.api_key_logs where timestamp < %s and position <= 9"
        " order by timestamp limit 5"
    )
    assert explained(log.db, oldest, at) < everything - days


def test_a_dropped_partition_keeps_its_counts(log: Log) -> None:
    other = Log(log.db)
    other.add(NOON - 2 * DAY)
    log.db.admin(ROLL_UP)
    partition = f"api_keys_private.api_key_logs_p{NOON - 2 * DAY:%Y_%m_%d}"
    log.db.admin(f"drop table {partition}")
    assert other.times() == []
    assert other.counts() == [1]


def test_the_migrations_can_be_run_again(log: Log) -> None:
    _, *migrations = migrate.migration_files()
    said = [text for file in migrations for text in warnings_of(log.db, file.read_text())]
    assert said == [
        "api_keys_private.api_key_logs is partitioned, so the migration does not alter it"
    ]
    test_the_functions_work_on_it(log)


def test_it_is_not_partitioned_twice(log: Log) -> None:
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is already partitioned"):
        log.db.apply(PARTITION)


def test_without_pg_partman_the_error_says_so(db: Database) -> None:
    columns: list[dict[str, Any]] = db.admin("select * from api_keys_private.api_key_logs limit 0")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="create extension pg_partman"):
        db.apply(PARTITION)
    assert db.admin("select * from api_keys_private.api_key_logs limit 0") == columns
