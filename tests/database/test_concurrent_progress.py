"""Reports, the end of a job, resets and deletions at the same time, in transactions held open."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Error, errors

from tests.database._sql import SERVICE_ROLE, Actor, Database, Tenant
from tests.database.test_progress import INTERVAL, REPORT, counters, end, read, report

if TYPE_CHECKING:
    from collections.abc import Callable

END = "update public.enrichment_tracking set status = %s where id = %s"
RESET = "select * from public.reset_enrichment_progress(%s, %s)"


@pytest.fixture
def job(db: Database, tenant: Tenant) -> UUID:
    """A job that has started, so that reports need not lock it."""
    job = db.create_job(tenant)
    report(db, tenant.member, job, "first", 1, 0)
    return job


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def sum_of_units(db: Database, job: UUID) -> tuple[int, int]:
    (row,) = db.admin(
        "select coalesce(sum(processed_records), 0)::integer as processed_records,"
        " coalesce(sum(failed_records), 0)::integer as failed_records"
        " from enrichment_private.unit_progress where job_id = %s",
        job,
    )
    return counters(row)


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("unit", ["first", "new"])
def test_a_report_that_is_not_committed_when_the_job_ends_is_counted(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor, status: str, unit: str
) -> None:
    with db.acting(tenant.member) as reporting:
        reporting.execute(REPORT, [job, unit, 10, 2])
        ending = pool.submit(db.affected, tenant.member, END, status, job)
        db.wait_for_blocked_session()
    assert ending.result(20) == 1
    assert counters(read(db, job)) == sum_of_units(db, job) == (11 if unit == "new" else 10, 2)


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("unit", ["first", "new"])
def test_a_report_while_the_job_is_being_ended_is_refused(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor, status: str, unit: str
) -> None:
    with db.acting(tenant.member) as ending:
        ending.execute(END.encode(), [status, job])
        reporting = pool.submit(report, db, tenant.member, job, unit, 10, 2)
        db.wait_for_blocked_session()
    with pytest.raises(Error, match=f"already {status}") as refusal:
        reporting.result(20)
    assert refusal.value.sqlstate == "PT409"
    assert counters(read(db, job)) == sum_of_units(db, job) == (1, 0)


def test_a_report_is_counted_if_the_end_of_the_job_is_rolled_back(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor
) -> None:
    with db.acting(tenant.member) as ending:
        ending.execute(END.encode(), ["failed", job])
        reporting = pool.submit(report, db, tenant.member, job, "first", 10, 2)
        db.wait_for_blocked_session()
        ending.rollback()
    assert reporting.result(20)["status"] == "processing"
    assert counters(end(db, job)) == (10, 2)


def test_the_first_report_of_a_job_that_is_being_ended_is_refused(
    db: Database, tenant: Tenant, pool: ThreadPoolExecutor
) -> None:
    job = db.create_job(tenant)
    with db.acting(tenant.member) as ending:
        ending.execute(END.encode(), ["failed", job])
        reporting = pool.submit(report, db, tenant.member, job, "first", 10, 2)
        db.wait_for_blocked_session()
    with pytest.raises(Error, match="already failed"):
        reporting.result(20)
    assert counters(read(db, job)) == (0, 0)


def test_an_end_that_locks_the_job_first_does_not_deadlock_with_a_new_unit(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor
) -> None:
    with db.acting(tenant.member) as ending:
        ending.execute("select from public.enrichment_tracking where id = %s for update", [job])
        reporting = pool.submit(report, db, tenant.member, job, "new", 10, 2)
        db.wait_for_blocked_session()
        ending.execute(END.encode(), ["completed", job])
    with pytest.raises(Error, match="already completed"):
        reporting.result(20)
    assert counters(read(db, job)) == (1, 0)


def test_counters_written_with_the_status_are_kept_if_they_are_greater(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    report(db, tenant.member, job, "first", 10, 2)
    db.affected(
        tenant.member,
        "update public.enrichment_tracking set status = 'completed', processed_records = 5,"
        " failed_records = 3 where id = %s",
        job,
    )
    assert counters(read(db, job)) == (10, 3)


def test_a_job_without_reports_keeps_the_counters_that_a_member_wrote(
    db: Database, tenant: Tenant
) -> None:
    job = db.create_job(tenant)
    columns = "processed_records = 7, failed_records = 2"
    db.affected(
        tenant.member, f"update public.enrichment_tracking set {columns} where id = %s", job
    )
    assert counters(end(db, job)) == (7, 2)


def test_reports_on_different_units_do_not_wait_for_each_other(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    with db.acting(tenant.member) as slow:
        slow.execute(REPORT, [job, "slow", 10, 2])
        for number in range(20):
            with db.acting(tenant.member) as connection:
                connection.execute("set local lock_timeout = '1s'")
                connection.execute(REPORT, [job, f"u{number}", 1, 0])
    assert counters(end(db, job)) == (31, 2)


def test_a_report_does_not_wait_for_an_update_of_the_job(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    time.sleep(INTERVAL)
    with db.acting(tenant.member) as updating:
        updating.execute(
            "update public.enrichment_tracking set metadata = '{}' where id = %s", [job]
        )
        for unit in ("first", "new"):
            with db.acting(tenant.member) as connection:
                connection.execute("set local lock_timeout = '1s'")
                connection.execute(REPORT, [job, unit, 10, 2])
    assert counters(end(db, job)) == (20, 4)


def test_a_job_is_updated_a_few_times_a_second_and_is_less_than_a_second_behind(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    versions = set[object]()
    reported: list[tuple[float, int]] = []
    began = time.monotonic()
    with db.acting(SERVICE_ROLE) as connection:
        connection.commit()
        connection.autocommit = True
        connection.execute("set role service_role")
        while (now := time.monotonic()) < began + 2:
            connection.execute(REPORT, [job, "first", len(reported), 0])
            reported.append((now, len(reported)))
            row = read(db, job)
            versions.add(row["updated_at"])
            behind = [moment for moment, total in reported if total > row["processed_records"]]
            assert not behind or now - behind[0] < 1
    assert 3 <= len(versions) <= 2 / 0.2 + 2
    assert len(reported) > 2 * len(versions)


def test_counters_never_decrease(db: Database, job: UUID) -> None:
    stop = threading.Event()

    def work(number: int) -> None:
        done = 0
        while not stop.is_set():
            done += 1
            report(db, SERVICE_ROLE, job, f"u{number}", done, done // 2)

    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work, number) for number in range(8)]
        seen = []
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            seen.append(counters(read(db, job)))
        stop.set()
        for future in working:
            future.result()
    seen.append(counters(end(db, job)))
    for column in zip(*seen, strict=True):
        assert list(column) == sorted(column)
    assert len(set(seen)) > 3
    assert seen[-1] == sum_of_units(db, job)


def test_the_partial_sums_of_many_sessions_are_combined(db: Database, job: UUID) -> None:
    for number in range(70):
        report(db, SERVICE_ROLE, job, "first", 10 + number, number)
    time.sleep(INTERVAL)
    row = report(db, SERVICE_ROLE, job, "first", 80, 70)
    assert counters(row) == (80, 70)
    (kept,) = db.admin(
        "select count(*), sum(processed_records)::integer as total"
        " from enrichment_private.partial_sums where job_id = %s",
        job,
    )
    assert kept["count"] < 30
    assert kept["total"] == 80


def test_a_report_among_those_of_many_sessions_returns_its_own_totals_or_more(
    db: Database, job: UUID
) -> None:
    for number in range(4):
        report(db, SERVICE_ROLE, job, f"unit {number}", 10, 1)
    processed, failed = counters(report(db, SERVICE_ROLE, job, "last", 25, 2))
    assert 25 <= processed <= 66
    assert 2 <= failed <= 6
    assert counters(end(db, job)) == sum_of_units(db, job)


def test_a_reset_waits_for_a_report_that_is_not_committed(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor
) -> None:
    with db.acting(tenant.member) as reporting:
        reporting.execute(REPORT, [job, "second", 10, 2])
        resetting = pool.submit(db.rows, SERVICE_ROLE, RESET, job, "first")
        db.wait_for_blocked_session()
    (row,) = resetting.result(20)
    assert counters(row) == (10, 2)
    assert counters(end(db, job)) == (10, 2)


@pytest.mark.parametrize("unit", ["first", "new"])
def test_a_report_during_the_deletion_of_the_job_raises_pt404(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor, unit: str
) -> None:
    with psycopg.connect(db.admin_url) as deleting:
        deleting.execute("delete from public.enrichment_tracking where id = %s", [job])
        reporting = pool.submit(report, db, tenant.member, job, unit, 10, 2)
        db.wait_for_blocked_session()
    with pytest.raises(Error) as refusal:
        reporting.result(20)
    assert refusal.value.sqlstate in {"PT404", "23503"}


@pytest.mark.parametrize("unit", ["first", "new"])
def test_a_deletion_waits_for_a_report_that_is_not_committed(
    db: Database, tenant: Tenant, job: UUID, pool: ThreadPoolExecutor, unit: str
) -> None:
    with db.acting(tenant.member) as reporting:
        reporting.execute(REPORT, [job, unit, 10, 2])
        deleting = pool.submit(
            db.affected, SERVICE_ROLE, "delete from public.enrichment_tracking where id = %s", job
        )
        db.wait_for_blocked_session()
    assert deleting.result(20) == 1
    for table in ("unit_progress", "partial_sums"):
        assert db.admin(f"select from enrichment_private.{table} where job_id = %s", job) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_progress_is_not_counted_in_an_old_snapshot(
    db: Database, tenant: Tenant, job: UUID, level: str
) -> None:
    for statement, arguments in (
        (REPORT, (job, "first", 10, 2)),
        (END, ("completed", job)),
        (RESET, (job, None)),
    ):
        actor = SERVICE_ROLE if statement == RESET else tenant.member
        with psycopg.connect(db.admin_url) as connection:
            connection.execute(f"set transaction isolation level {level}".encode())
            connection.execute(f"set local role {actor.role}".encode())
            claims = f'{{"sub": "{actor.subject}"}}'
            connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            with pytest.raises(errors.InvalidTransactionState, match=level):
                connection.execute(statement.encode(), arguments)
            connection.rollback()
    assert counters(read(db, job)) == (1, 0)


def test_truncating_the_jobs_deletes_the_partial_sums(
    db: Database, tenant: Tenant, job: UUID
) -> None:
    with psycopg.connect(db.admin_url) as connection:
        connection.execute("truncate public.enrichment_tracking cascade")
        left = connection.execute("select count(*) from enrichment_private.partial_sums")
        assert left.fetchone() == (0,)
        connection.rollback()


def storm(db: Database, actions: list[Callable[[psycopg.Connection[Any]], object]]) -> Counter[str]:
    """Run actions in turns on 32 connections for two seconds, and count the errors' SQLSTATEs."""
    deadline = time.monotonic() + 2
    raised = Counter[str]()

    def work(number: int) -> None:
        choose = random.Random(number)
        with db.acting(SERVICE_ROLE) as connection:
            connection.commit()
            connection.autocommit = True
            connection.execute("set role service_role")
            connection.execute("set lock_timeout = '20s'")
            while time.monotonic() < deadline:
                try:
                    choose.choice(actions)(connection)
                except Error as error:
                    raised[error.sqlstate or str(error)] += 1

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    return raised


@pytest.mark.parametrize("jobs", [1, 32])
def test_no_deadlock_and_no_lost_count_while_everything_happens_at_once(
    db: Database, tenant: Tenant, jobs: int
) -> None:
    ids = [db.create_job(tenant) for _ in range(jobs)]
    totals = iter(range(1, 10**9))

    def reporting(connection: psycopg.Connection[Any]) -> None:
        unit = f"u{random.randrange(40)}"
        total = next(totals)
        connection.execute(REPORT, [random.choice(ids), unit, total, total // 3])

    def doing(statement: str, *arguments: object) -> Callable[[psycopg.Connection[Any]], object]:
        return lambda connection: connection.execute(
            statement.encode(),
            [*arguments, random.choice(ids)],
        )

    actions = [
        *[reporting] * 20,
        *(doing(END, status) for status in ("completed", "failed", "processing", "pending")),
        *[doing(END, "processing")] * 2,
        doing("update public.enrichment_tracking set metadata = '{}' where id = %s"),
        doing("select public.reset_enrichment_progress(%s)"),
        doing("select public.reset_enrichment_progress(p_unit => %s, p_job_id => %s)", "u1"),
        doing("select public.retry_enrichment_job(%s)"),
        doing("select public.retry_enrichment_job(%s, true)"),
        lambda connection: connection.execute(
            "select public.fail_stale_enrichment_jobs('1 minute')"
        ),
    ]
    raised = storm(db, actions)
    assert raised.keys() <= {"PT409"}
    for job in ids:
        end(db, job, "processing")
        assert counters(end(db, job)) == sum_of_units(db, job)


def test_counts_are_exact_if_the_job_ends_in_the_middle_of_the_reports(
    db: Database, tenant: Tenant
) -> None:
    for status in ("completed", "failed") * 3:
        job = db.create_job(tenant)

        def work(number: int, job: UUID = job) -> None:
            with suppress(Error):
                for done in range(1, 1000):
                    report(db, SERVICE_ROLE, job, f"u{number}", done, 0)

        with ThreadPoolExecutor(8) as pool:
            working = [pool.submit(work, number) for number in range(8)]
            time.sleep(0.3)
            ended = end(db, job, status)
            for future in working:
                future.result()
        assert counters(read(db, job)) == counters(ended) == sum_of_units(db, job)
        assert counters(ended)[0] > 8


def test_jobs_of_strangers_cannot_be_held_off(db: Database, tenant: Tenant, job: UUID) -> None:
    stranger: Actor = db.add_tenant().member
    with db.acting(stranger) as connection:
        with pytest.raises(Error) as refusal:
            connection.execute(REPORT, [job, f"{uuid4()}", 1, 0])
        assert refusal.value.sqlstate == "PT404"
        with psycopg.connect(db.admin_url) as ending:
            ending.execute("set local lock_timeout = '1s'")
            ending.execute(END.encode(), ["completed", job])
