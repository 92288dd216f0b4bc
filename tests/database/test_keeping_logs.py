"""The purge that pg_cron runs, where it is installed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors

from audiencelab_sdk.local import _migrate as migrate
from tests.database._sql import SERVICE_ROLE, Database
from tests.database._tools import ROOT
from tests.database.conftest import make_database, start_server_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiencelab_sdk.local._postgres import PostgresServer

KEEP = "select api_keys_private.keep_api_key_logs(%s)"
LOG = "select * from public.log_api_key_usage_batch(%s)"


@pytest.fixture(scope="module")
def cron_server() -> Iterator[PostgresServer]:
    """A server that runs the jobs of pg_cron for the database `scheduled`."""
    settings = {
        "shared_preload_libraries": "pg_cron",
        "cron.database_name": "scheduled",
        # Jobs need no password then.
        "cron.use_background_workers": "on",
    }
    with start_server_with("pg_cron", "postgresql-15-cron", settings) as server:
        yield server


@pytest.fixture
def scheduled(cron_server: PostgresServer) -> Iterator[Database]:
    db = make_database(cron_server, "scheduled")
    db.admin("create extension pg_cron")
    # As on hosted Supabase.
    db.admin("grant usage on schema cron to postgres")
    db.admin("grant all on all tables in schema cron to postgres")
    yield db
    Database(cron_server.admin_url, "").admin("drop database scheduled with (force)")


def as_postgres(db: Database, statement: str, *parameters: object) -> object:
    with psycopg.connect(migrate.as_role(db.admin_url, "postgres"), autocommit=True) as connection:
        row = connection.execute(statement.encode(), parameters).fetchone()
    return row and row[0]


def test_the_purge_is_scheduled_and_deletes_old_rows(scheduled: Database) -> None:
    job_id = as_postgres(scheduled, KEEP, "90 days")

    (job,) = scheduled.admin("select * from cron.job")
    assert (job["jobid"], job["jobname"], job["schedule"]) == (
        job_id,
        "keep_api_key_logs",
        "*/5 * * * *",
    )
    assert (job["database"], job["username"], job["active"]) == ("scheduled", "postgres", True)

    tenant = scheduled.add_tenant()
    key_id = scheduled.create_key(tenant)["id"]
    now = datetime.now(UTC)
    event = {"api_key_id": str(key_id), "endpoint": "/", "method": "GET"}
    events = [event | {"timestamp": (now - timedelta(days=age)).isoformat()} for age in (91, 89)]
    scheduled.rows(SERVICE_ROLE, LOG, json.dumps(events))
    assert as_postgres(scheduled, job["command"]) == 1
    (usage,) = scheduled.rows(
        tenant.member,
        "select sum(requests)::integer as requests from public.api_key_usage(%s, %s, %s)",
        tenant.account_id,
        now - timedelta(days=365),
        now,
    )
    assert usage["requests"] == 2


def test_a_repeated_call_replaces_the_period(scheduled: Database) -> None:
    first = as_postgres(scheduled, KEEP, "90 days")
    assert as_postgres(scheduled, KEEP, "1 year 2 mons") == first
    (job,) = scheduled.admin("select command from cron.job")
    assert job["command"] == (
        "select public.purge_api_key_logs(now() - interval '1 year 2 mons', 1000000)"
    )


def test_the_rollback_removes_the_job(scheduled: Database) -> None:
    as_postgres(scheduled, KEEP, "90 days")
    rollback = ROOT / "supabase" / "rollback" / "20261122000250_api_key_usage.sql"
    scheduled.apply(
        "set audiencelab.confirm_rollback = 'delete the usage of all API keys';"
        + rollback.read_text()
    )
    assert scheduled.admin("select * from cron.job") == []


def test_without_pg_cron_the_error_says_so(db: Database) -> None:
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pg_cron is not installed") as it:
        as_postgres(db, KEEP, "90 days")
    assert "call purge_api_key_logs regularly" in (it.value.diag.message_hint or "")


@pytest.mark.parametrize("period", [None, "0", "59 minutes", "-1 day"])
def test_a_period_that_is_too_short_is_rejected(db: Database, period: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="at least 1 hour"):
        as_postgres(db, KEEP, period)
