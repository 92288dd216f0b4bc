"""Failed jobs that are retried, and jobs that nobody works on any more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Error, errors
from psycopg.types.json import Jsonb

from tests.database._sql import ANON, SERVICE_ROLE, Actor, Database, Tenant, api_key
from tests.database.test_progress import WRITE, counters, end, read, report

RETRY = "select * from public.retry_enrichment_job(%s)"
START_OVER = "select * from public.retry_enrichment_job(%s, true)"
FAIL_STALE = "select public.fail_stale_enrichment_jobs(%s)"
METADATA = {"source": "test", "error": "out of coffee"}


def failed_job(db: Database, tenant: Tenant) -> UUID:
    job = db.create_job(tenant)
    report(db, tenant.member, job, "a", 30, 3)
    report(db, tenant.member, job, "b", 70, 0)
    db.affected(
        tenant.member,
        "update public.enrichment_tracking set status = 'failed', completed_at = now(),"
        " metadata = %s where id = %s",
        Jsonb(METADATA),
        job,
    )
    return job


def retry(db: Database, actor: Actor, job: UUID, statement: str = RETRY) -> Any:
    (row,) = db.rows(actor, statement, job)
    return row


def test_a_retried_job_is_pending_and_keeps_its_counters(db: Database, tenant: Tenant) -> None:
    job = failed_job(db, tenant)
    before = read(db, job)

    row = retry(db, tenant.member, job)

    assert row == read(db, job)
    assert row == before | {
        "status": "pending",
        "completed_at": None,
        "metadata": {"source": "test"},
        "updated_at": row["updated_at"],
    }
    assert counters(row) == (100, 3)


def test_finished_units_of_a_retried_job_need_not_be_reported_again(
    db: Database, tenant: Tenant
) -> None:
    job = failed_job(db, tenant)
    retry(db, tenant.member, job)

    for done in (0, 40, 80):
        row = report(db, tenant.member, job, "b", done, 0)

    assert row["status"] == "processing"
    assert counters(row) == (110, 3)
    assert counters(end(db, job)) == (110, 3)


def test_a_retried_job_can_start_from_the_beginning(db: Database, tenant: Tenant) -> None:
    job = failed_job(db, tenant)

    row = retry(db, tenant.member, job, START_OVER)

    assert counters(row) == (0, 0)
    assert (row["status"], row["started_at"], row["completed_at"]) == ("pending", None, None)
    assert counters(report(db, tenant.member, job, "a", 5, 1)) == (5, 1)
    assert counters(end(db, job)) == (5, 1)


@pytest.mark.parametrize("status", ["pending", "processing", "completed"])
@pytest.mark.parametrize("statement", [RETRY, START_OVER])
def test_only_a_failed_job_can_be_retried(
    db: Database, tenant: Tenant, status: str, statement: str
) -> None:
    job = failed_job(db, tenant)
    before = end(db, job, status)
    with pytest.raises(Error, match=f"is {status}: only a failed job") as refusal:
        retry(db, tenant.member, job, statement)
    assert refusal.value.sqlstate == "PT409"
    assert read(db, job) == before


def test_only_callers_with_write_access_to_the_job_can_retry_it(
    db: Database, tenant: Tenant
) -> None:
    job = failed_job(db, tenant)
    one = WRITE | {"entity_id": str(job)}

    def key(*scopes: dict[str, str], **columns: object) -> Actor:
        return api_key(db.create_key(tenant, scopes, **columns)["id"])

    for actor in (
        db.add_tenant().member,
        key(WRITE | {"action": "read"}),
        key(one | {"entity_id": str(uuid4())}),
        key(WRITE, is_active=False),
        key(),
    ):
        for job_id in (job, uuid4()):
            with pytest.raises(Error) as refusal:
                retry(db, actor, job_id, START_OVER)
            assert refusal.value.sqlstate == "PT404"
    with pytest.raises(errors.InsufficientPrivilege):
        retry(db, ANON, job)
    for actor in (tenant.member, SERVICE_ROLE, key(WRITE), key(one)):
        assert retry(db, actor, job)["status"] == "pending"
        end(db, job, "failed")


@pytest.mark.parametrize("metadata", [["error"], "error", 1, None])
def test_metadata_that_is_not_an_object_is_kept(
    db: Database, tenant: Tenant, metadata: object
) -> None:
    job = failed_job(db, tenant)
    db.admin(
        "update public.enrichment_tracking set metadata = %s where id = %s", Jsonb(metadata), job
    )
    assert retry(db, tenant.member, job)["metadata"] == metadata


def test_only_one_of_many_callers_retries_a_job(db: Database, tenant: Tenant) -> None:
    job = failed_job(db, tenant)

    def outcome(_: int) -> str | None:
        try:
            retry(db, tenant.member, job)
        except Error as error:
            return error.sqlstate
        return "retried"

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(map(str, pool.map(outcome, range(16))))
    assert outcomes == ["PT409"] * 15 + ["retried"]


def age(db: Database, job: UUID, interval: str) -> None:
    """Let a job look as if it was not updated for so long."""
    unchecked = "-c session_replication_role=replica"
    with psycopg.connect(db.admin_url, autocommit=True, options=unchecked) as connection:
        connection.execute(
            "update public.enrichment_tracking set updated_at = now() - %s::interval where id = %s",
            [interval, job],
        )


@pytest.fixture
def stale(db: Database, tenant: Tenant) -> UUID:
    job = db.create_job(tenant)
    report(db, tenant.member, job, "a", 30, 3)
    db.admin(
        "update public.enrichment_tracking set metadata = %s where id = %s",
        Jsonb({"source": "test"}),
        job,
    )
    age(db, job, "11 minutes")
    return job


def test_stale_jobs_are_failed_with_the_reason(db: Database, tenant: Tenant, stale: UUID) -> None:
    others = {status: db.create_job(tenant) for status in ("pending", "processing", "completed")}
    for status, job in others.items():
        end(db, job, status)
        age(db, job, "9 minutes" if status == "processing" else "11 minutes")
    before = [read(db, job) for job in others.values()]

    assert db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes") >= 1

    row = read(db, stale)
    assert row["status"] == "failed"
    assert row["metadata"] == {"source": "test", "error": "no report for 00:10:00"}
    assert abs((datetime.now(UTC) - row["completed_at"]).total_seconds()) < 60
    assert counters(row) == (30, 3)
    assert [read(db, job) for job in others.values()] == before
    assert db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes") == 0


def test_a_stale_job_can_be_retried(db: Database, tenant: Tenant, stale: UUID) -> None:
    db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes")
    assert retry(db, tenant.member, stale)["metadata"] == {"source": "test"}


def test_a_report_keeps_a_job_alive(db: Database, tenant: Tenant, stale: UUID) -> None:
    report(db, tenant.member, stale, "a", 30, 3)
    db.value(SERVICE_ROLE, FAIL_STALE, "1 minute")
    assert read(db, stale)["status"] == "processing"


def test_a_job_is_not_failed_while_a_report_is_not_committed(
    db: Database, tenant: Tenant, stale: UUID
) -> None:
    with db.acting(tenant.member) as reporting:
        reporting.execute("select public.report_enrichment_progress(%s, 'a', 31, 3)", [stale])
        assert db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes") == 0
    assert read(db, stale)["status"] == "processing"


def test_a_job_is_not_failed_while_it_is_being_updated(
    db: Database, tenant: Tenant, stale: UUID
) -> None:
    with db.acting(tenant.member) as updating:
        updating.execute(
            "update public.enrichment_tracking set metadata = '{}' where id = %s", [stale]
        )
        assert db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes") == 0
    assert read(db, stale)["status"] == "processing"


def test_a_report_on_a_job_that_is_being_failed_is_refused(
    db: Database, tenant: Tenant, stale: UUID
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with db.acting(SERVICE_ROLE) as failing:
            failing.execute(FAIL_STALE.encode(), ["10 minutes"])
            reporting = pool.submit(report, db, tenant.member, stale, "a", 31, 3)
            db.wait_for_blocked_session()
        with pytest.raises(Error, match="already failed"):
            reporting.result(20)
    assert counters(read(db, stale)) == (30, 3)


def test_metadata_that_is_not_an_object_is_replaced_by_the_reason(
    db: Database, stale: UUID
) -> None:
    db.admin("update public.enrichment_tracking set metadata = '[1]' where id = %s", stale)
    age(db, stale, "11 minutes")
    db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes")
    assert read(db, stale)["metadata"] == {"error": "no report for 00:10:00"}


def test_a_job_without_room_for_the_reason_does_not_stop_the_others(
    db: Database, tenant: Tenant, stale: UUID
) -> None:
    full = db.create_job(tenant)
    metadata = {"text": "x" * (262_144 - len('{"text": ""}'))}
    db.admin(
        "update public.enrichment_tracking set status = 'processing', metadata = %s where id = %s",
        Jsonb(metadata),
        full,
    )
    age(db, full, "1 hour")
    assert db.value(SERVICE_ROLE, FAIL_STALE, "10 minutes") >= 2
    assert read(db, stale)["metadata"]["error"] == "no report for 00:10:00"
    row = read(db, full)
    assert row["status"] == "failed"
    assert row["completed_at"] is not None
    assert row["metadata"] == metadata


@pytest.mark.parametrize(
    "interval", [None, "0", "59 seconds", "-10 minutes", "366 days", "1000000 years"]
)
def test_the_time_without_a_report_has_bounds(db: Database, interval: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="between 1 minute and 365 days"):
        db.value(SERVICE_ROLE, FAIL_STALE, interval)


def test_only_the_service_role_fails_stale_jobs(db: Database, tenant: Tenant, stale: UUID) -> None:
    for actor in (ANON, tenant.member, api_key(db.create_key(tenant, [WRITE])["id"])):
        with pytest.raises(errors.InsufficientPrivilege):
            db.value(actor, FAIL_STALE, "10 minutes")
    assert read(db, stale)["status"] == "processing"
