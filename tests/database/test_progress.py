"""Progress of enrichment jobs: the totals of units of work, reported in any order."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Error, errors

from tests.database._sql import (
    ANON,
    EVERYTHING,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
)

REPORT = "select * from public.report_enrichment_progress(%s, %s, %s, %s)"
# The counters of a job change at most so often, in seconds, and a little more.
INTERVAL = 0.25
WRITE = {"entity_type": "enrichment", "entity_id": "*", "action": "write"}


@pytest.fixture
def job(db: Database, tenant: Tenant) -> UUID:
    return db.create_job(tenant)


def report(
    db: Database, actor: Actor, job: UUID | None, unit: str | None, *totals: int | None
) -> Any:
    (row,) = db.rows(actor, REPORT, job, unit, *totals)
    return row


def counters(row: dict[str, Any]) -> tuple[int, int]:
    return row["processed_records"], row["failed_records"]


def end(db: Database, job: UUID, status: str = "completed") -> dict[str, Any]:
    db.admin("update public.enrichment_tracking set status = %s where id = %s", status, job)
    return read(db, job)


def read(db: Database, job: UUID) -> dict[str, Any]:
    (row,) = db.admin("select * from public.enrichment_tracking where id = %s", job)
    return row


def test_the_first_report_sets_the_status_to_processing(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    assert read(db, job)["status"] == "pending"
    row = report(db, tenant.member, job, "u1", 0, 0)
    assert row["status"] == "processing"
    assert row["started_at"] is not None
    assert row == read(db, job)


def test_counters_are_sums_over_the_units(db: Database, tenant: Tenant, job: UUID) -> None:
    report(db, tenant.member, job, "u1", 5, 1)
    row = report(db, tenant.member, job, "u2", 7, 0)
    assert counters(row) == (12, 1)
    time.sleep(INTERVAL)
    row = report(db, tenant.member, job, "u1", 6, 2)
    assert counters(row) == (13, 2)
    assert counters(end(db, job)) == (13, 2)


def test_a_repeated_or_late_report_changes_no_counter(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    report(db, tenant.member, job, "u1", 10, 3)
    for totals in ((10, 3), (4, 3), (10, 0), (0, 0)):
        assert counters(report(db, tenant.member, job, "u1", *totals)) == (10, 3)
    assert counters(end(db, job)) == (10, 3)


def test_a_repeated_report_moves_updated_at(db: Database, tenant: Tenant, job: UUID) -> None:
    before = report(db, tenant.member, job, "u1", 10, 3)
    time.sleep(INTERVAL)
    after = report(db, tenant.member, job, "u1", 10, 3)
    assert after["updated_at"] > before["updated_at"]
    assert after == before | {"updated_at": after["updated_at"]}
    assert read(db, job) == after


def test_a_unit_that_is_processed_again_after_a_crash_counts_once(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    report(db, tenant.member, job, "first half", 300, 3)
    for done in (0, 100, 200, 500):
        report(db, tenant.member, job, "first half", done, done // 100)
    report(db, tenant.member, job, "second half", 500, 1)
    assert counters(end(db, job)) == (1000, 6)


def test_concurrent_reports_of_a_hundred_units_are_all_counted(db: Database, job: UUID) -> None:
    def work(number: int) -> None:
        for done in range(1, 4):
            report(db, SERVICE_ROLE, job, f"u{number}", done, done - 1)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(100)))
    time.sleep(INTERVAL)
    report(db, SERVICE_ROLE, job, "u0", 3, 2)
    assert counters(read(db, job)) == (300, 200)
    assert counters(end(db, job)) == (300, 200)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_report_for_a_finished_job_raises_pt409(
    db: Database, tenant: Tenant, job: UUID, status: str
) -> None:
    report(db, tenant.member, job, "u1", 1, 0)
    db.admin("update public.enrichment_tracking set status = %s where id = %s", status, job)
    before = read(db, job)
    with pytest.raises(Error, match=f"already {status}") as refusal:
        report(db, tenant.member, job, "u1", 2, 0)
    assert refusal.value.sqlstate == "PT409"
    assert read(db, job) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("u", -1, 0),
        ("u", 0, -1),
        ("u", None, 0),
        ("u", 0, None),
        ("", 0, 0),
        (" ", 0, 0),
        (None, 0, 0),
        ("u" * 256, 0, 0),
    ],
)
def test_malformed_reports_raise_22023(
    db: Database, tenant: Tenant, job: UUID, arguments: tuple[str | None, int | None, int | None]
) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        report(db, tenant.member, job, *arguments)
    assert read(db, job)["status"] == "pending"


def test_only_callers_with_write_access_to_the_job_can_report(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    other_tenant = db.add_tenant()
    one = {"entity_type": "enrichment", "entity_id": str(job), "action": "write"}
    another = one | {"entity_id": str(uuid4())}

    def key(*scopes: dict[str, str], of: Tenant = tenant, **columns: object) -> Actor:
        return api_key(db.create_key(of, scopes, **columns)["id"])

    for actor in (tenant.member, SERVICE_ROLE, key(WRITE), key(one), key(EVERYTHING)):
        report(db, actor, job, "u1", 1, 0)
    for actor in (
        other_tenant.member,
        key(another),
        key(WRITE | {"action": "read"}),
        key(WRITE | {"entity_type": "segment"}),
        key(WRITE, is_active=False),
        key(WRITE, of=other_tenant),
        key(),
        Actor("authenticated"),
        Actor("api_key"),
    ):
        # The same error as for a job that does not exist.
        for job_id in (job, uuid4()):
            with pytest.raises(Error) as refusal:
                report(db, actor, job_id, "u2", 1, 0)
            assert refusal.value.sqlstate == "PT404"
    with pytest.raises(errors.InsufficientPrivilege):
        report(db, ANON, job, "u2", 1, 0)
    assert read(db, job)["processed_records"] == 1


def test_the_job_id_in_a_scope_is_case_insensitive(db: Database, tenant: Tenant, job: UUID) -> None:
    scope = WRITE | {"entity_id": str(job).upper()}
    report(db, api_key(db.create_key(tenant, [scope])["id"]), job, "u1", 1, 0)
    assert read(db, job)["processed_records"] == 1


def test_counters_are_limited_to_the_largest_integer(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    report(db, tenant.member, job, "u1", 2**31 - 1, 2**31 - 1)
    row = report(db, tenant.member, job, "u2", 1, 1)
    assert counters(row) == (2**31 - 1, 2**31 - 1)
    assert counters(end(db, job)) == (2**31 - 1, 2**31 - 1)


def test_a_non_member_does_not_wait_for_the_lock_on_the_job(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    stranger = db.add_tenant().member
    with psycopg.connect(db.admin_url) as busy:
        busy.execute("select from public.enrichment_tracking where id = %s for update", [job])
        with db.acting(stranger) as connection:
            connection.execute("set local lock_timeout = '1s'")
            with pytest.raises(Error) as refusal:
                connection.execute(REPORT, [job, "u1", 1, 0])
    assert refusal.value.sqlstate == "PT404"


def test_the_totals_of_units_are_deleted_with_the_job(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    report(db, tenant.member, job, "u1", 1, 0)
    db.rows(SERVICE_ROLE, "delete from public.enrichment_tracking where id = %s", job)
    for table in ("unit_progress", "partial_sums"):
        assert db.admin(f"select * from enrichment_private.{table} where job_id = %s", job) == []
