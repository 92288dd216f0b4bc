"""Enrichment jobs through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from audiencelab_sdk import (
    ConflictError,
    EnrichmentFailedError,
    EnrichmentJob,
    EnrichmentStatus,
    EnrichmentTimeoutError,
    EnrichmentType,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    Scope,
)
from audiencelab_sdk._resources import _tracking
from tests._waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

    Advance = Callable[..., None]

PENDING, PROCESSING, COMPLETED, FAILED = EnrichmentStatus


def create(client: Client, tenant: Tenant, **options: Any) -> EnrichmentJob:
    job = client.call("enrichment.create", tenant.account_id, uuid4(), "email", **options)
    assert isinstance(job, EnrichmentJob)
    return job


@pytest.fixture
def job(member: Client, tenant: Tenant) -> EnrichmentJob:
    return create(member, tenant, total_records=100, metadata={"source": "test"})


def test_create_and_get(member: Client, tenant: Tenant) -> None:
    job = create(
        member, tenant, total_records=7, enrichment_fields=["work_email"], metadata={"a": [1, None]}
    )
    assert job == member.call("enrichment.get", job.id)
    assert (job.account_id, job.created_by) == (tenant.account_id, tenant.user_id)
    assert job.enrichment_type is EnrichmentType.EMAIL
    assert (job.status, job.total_records, job.processed_records) == (PENDING, 7, 0)
    assert (job.enrichment_fields, job.metadata) == (("work_email",), {"a": [1, None]})
    assert (job.started_at, job.completed_at, job.error) == (None, None, None)


def test_the_service_role_passes_created_by(backend: Client, tenant: Tenant) -> None:
    with pytest.raises(InvalidArgumentError, match="created_by"):
        create(backend, tenant)
    assert create(backend, tenant, created_by=tenant.user_id).created_by == tenant.user_id


def test_strangers_have_no_access(
    stranger: Client, member: Client, tenant: Tenant, job: EnrichmentJob
) -> None:
    with pytest.raises(PermissionDeniedError):
        create(stranger, tenant)
    assert stranger.walk_all("enrichment.list") == []
    for name, arguments, options in (
        ("get", (), {}),
        ("start", (), {}),
        ("complete", (), {}),
        ("fail", ("x",), {}),
        ("wait", (), {}),
        ("report_progress", (), {"unit": "u", "processed": 1}),
    ):
        with pytest.raises(NotFoundError, match="enrichment job"):
            stranger.call(f"enrichment.{name}", job.id, *arguments, **options)
    assert member.call("enrichment.get", job.id) == job


def test_a_job_goes_from_pending_to_completed(member: Client, job: EnrichmentJob) -> None:
    started = member.call("enrichment.start", job.id)
    assert started.status is PROCESSING
    assert abs((started.started_at - datetime.now(UTC)).total_seconds()) < 60
    reported = member.call("enrichment.report_progress", job.id, unit="u", processed=100, failed=3)
    assert (reported.processed_records, reported.failed_records) == (100, 3)
    completed = member.call("enrichment.complete", job.id)
    assert completed.status is COMPLETED
    assert completed.completed_at >= started.started_at
    assert completed.metadata == {"source": "test"}
    assert member.call("enrichment.wait", job.id) == completed


def reach(client: Client, job: EnrichmentJob, status: EnrichmentStatus) -> EnrichmentJob:
    if status in {PROCESSING, COMPLETED}:
        client.call("enrichment.start", job.id)
    if status is COMPLETED:
        client.call("enrichment.complete", job.id)
    if status is FAILED:
        client.call("enrichment.fail", job.id, "first reason")
    reached = client.call("enrichment.get", job.id)
    assert isinstance(reached, EnrichmentJob)
    return reached


@pytest.mark.parametrize(
    ("status", "move"),
    [
        (PROCESSING, "start"),
        (COMPLETED, "start"),
        (FAILED, "start"),
        (PENDING, "complete"),
        (COMPLETED, "complete"),
        (FAILED, "complete"),
        (COMPLETED, "fail"),
        (FAILED, "fail"),
        (COMPLETED, "report_progress"),
        (FAILED, "report_progress"),
    ],
)
def test_invalid_transitions_conflict_and_change_nothing(
    member: Client, job: EnrichmentJob, status: EnrichmentStatus, move: str
) -> None:
    before = reach(member, job, status)
    arguments = ["second reason"] if move == "fail" else []
    options = {"unit": "u", "processed": 1} if move == "report_progress" else {}
    with pytest.raises(ConflictError, match=status):
        member.call(f"enrichment.{move}", job.id, *arguments, **options)
    assert member.call("enrichment.get", job.id) == before


def test_only_one_of_many_workers_starts_a_job(member: Client, job: EnrichmentJob) -> None:
    def start(_: int) -> bool:
        try:
            member.call("enrichment.start", job.id)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(start, range(16))) == 1


def test_fail_keeps_concurrent_changes_of_the_metadata(
    member: Client, job: EnrichmentJob, project: Project
) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            project.sql(
                "update public.enrichment_tracking"
                " set metadata = metadata || jsonb_build_object(%s::text, 1) where id = %s",
                f"key{number}",
                job.id,
            )
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            failed = member.call("enrichment.fail", job.id, ValueError("no budget"))
        finally:
            stop.set()
        writing.result()
    assert (failed.status, failed.error) == (FAILED, "no budget")
    metadata = member.call("enrichment.get", job.id).metadata
    written = sorted(int(key[3:]) for key in metadata if key.startswith("key"))
    assert written == list(range(1, len(written) + 1))
    assert (metadata["source"], metadata["error"]) == ("test", "no budget")


def test_wait_reports_each_change(member: Client, job: EnrichmentJob) -> None:
    seen: list[tuple[str, int]] = []

    def work(advance: Advance) -> None:
        time.sleep(0.3)
        advance(7)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            member.call,
            "enrichment.wait",
            job.id,
            timeout=30,
            poll_interval=0.02,
            on_progress=lambda job: seen.append((job.status, job.processed_records)),
        )
        wait_until(lambda: seen)
        completed = member.track(job, work)
        assert waiting.result() == completed
    assert seen[0] == ("pending", 0)
    assert ("processing", 0) in seen
    assert seen[-1] == ("completed", 7)
    assert len(seen) == len(set(seen))


def test_wait_ends(member: Client, job: EnrichmentJob) -> None:
    calls: list[EnrichmentJob] = []
    started = time.monotonic()
    with pytest.raises(EnrichmentTimeoutError, match="still pending") as late:
        member.call(
            "enrichment.wait", job.id, timeout=0.5, poll_interval=0.1, on_progress=calls.append
        )
    assert 0.5 <= time.monotonic() - started < 5
    assert late.value.job == job
    assert calls == [job]
    member.call("enrichment.fail", job.id, "no budget")
    with pytest.raises(EnrichmentFailedError, match="no budget") as failed:
        member.call("enrichment.wait", job.id)
    assert failed.value.job.status is FAILED


def test_track_reports_the_counts_and_completes_the_job(member: Client, job: EnrichmentJob) -> None:
    def work(advance: Advance) -> None:
        for _ in range(33):
            advance()
        advance(2, failed=1)

    job = member.track(job, work, unit="u1")
    assert (job.status, job.processed_records, job.failed_records) == (COMPLETED, 35, 1)
    assert job == member.call("enrichment.get", job.id)


def test_track_fails_the_job_with_the_exceptions_text(member: Client, job: EnrichmentJob) -> None:
    def work(advance: Advance) -> None:
        advance(7)
        raise ValueError("the vendor is down")

    with pytest.raises(ValueError, match="the vendor is down"):
        member.track(job.id, work)
    job = member.call("enrichment.get", job.id)
    assert (job.status, job.error) == (FAILED, "the vendor is down")
    assert job.processed_records == 7
    assert job.metadata["source"] == "test"


def test_two_units_share_a_job(member: Client, job: EnrichmentJob) -> None:
    def work(advance: Advance) -> None:
        for _ in range(25):
            advance(2)

    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(lambda unit: member.track(job, work, unit=unit, complete=False), ["a", "b"])
        )
    job = member.call("enrichment.complete", job.id)
    assert (job.status, job.processed_records) == (COMPLETED, 100)


def test_advance_raises_after_the_job_has_ended(member: Client, job: EnrichmentJob) -> None:
    def work(advance: Advance) -> None:
        member_thread.submit(member.call, "enrichment.fail", job.id, "stopped").result()
        time.sleep(1.1)
        advance()
        pytest.fail("advance did not raise")

    with (
        ThreadPoolExecutor(1) as member_thread,
        pytest.raises(ConflictError, match="already failed") as caught,
    ):
        member.track(job, work)
    assert "could not be marked as failed" in caught.value.__notes__[0]
    assert member.call("enrichment.get", job.id).error == "stopped"


def test_a_unit_that_is_processed_again_after_a_crash_counts_once(
    member: Client, job: EnrichmentJob
) -> None:
    def crash(advance: Advance) -> None:
        advance(30, failed=2)
        raise MemoryError

    def work(advance: Advance) -> None:
        for _ in range(10):
            advance(10)

    with pytest.raises(MemoryError):
        member.track(job, crash, unit="all records", on_error="leave")
    left = member.call("enrichment.get", job.id)
    assert (left.status, left.error) == (PROCESSING, None)

    done = member.track(job, work, unit="all records")

    assert (done.status, done.processed_records, done.failed_records) == (COMPLETED, 100, 2)


def test_a_block_without_progress_keeps_the_job_fresh(
    member: Client, job: EnrichmentJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracking, "_SECONDS_BETWEEN_HEARTBEATS", 0.3)
    updates = set[datetime]()

    def work(_: Advance) -> None:
        wait_until(has_four_updates)

    def has_four_updates() -> bool:
        read: EnrichmentJob = threads.submit(member.call, "enrichment.get", job.id).result()
        updates.add(read.updated_at)
        return len(updates) >= 4

    with ThreadPoolExecutor(1) as threads:
        assert member.track(job, work).processed_records == 0


def test_a_failed_job_is_retried(member: Client, job: EnrichmentJob) -> None:
    def work(advance: Advance) -> None:
        advance(60, failed=2)
        raise ValueError("the vendor is down")

    with pytest.raises(ValueError, match="the vendor is down"):
        member.track(job, work, unit="first half", complete=False)

    retried = member.call("enrichment.retry", job.id)
    assert (retried.status, retried.error, retried.completed_at) == (PENDING, None, None)
    assert (retried.processed_records, retried.failed_records) == (60, 2)
    assert retried.metadata == {"source": "test"}

    done = member.track(job, lambda advance: advance(40), unit="second half")
    assert (done.status, done.processed_records) == (COMPLETED, 100)


def test_a_failed_job_starts_again_from_the_beginning(member: Client, job: EnrichmentJob) -> None:
    member.call("enrichment.report_progress", job.id, unit="u", processed=60)
    member.call("enrichment.fail", job.id, "no budget")

    retried = member.call("enrichment.retry", job.id, reset=True)

    assert (retried.status, retried.processed_records) == (PENDING, 0)
    with pytest.raises(ConflictError, match="is pending: only a failed job can be retried"):
        member.call("enrichment.retry", job.id)


def test_jobs_that_nobody_works_on_are_listed_and_failed(
    member: Client, backend: Client, tenant: Tenant, project: Project, job: EnrichmentJob
) -> None:
    member.call("enrichment.start", job.id)
    ids = [
        project.sql(
            "insert into public.enrichment_tracking"
            " (account_id, audience_id, enrichment_type, created_by, status, updated_at)"
            " values (%s, gen_random_uuid(), 'email', %s, 'processing', now() - %s::interval)"
            " returning id",
            *(tenant.account_id, tenant.user_id, f"{minutes} minutes"),
        )[0]["id"]
        for minutes in (30, 20, 5)
    ]

    def stale(minutes: int, **options: Any) -> set[Any]:
        silence = timedelta(minutes=minutes)
        listed = member.walk_all("enrichment.list", stale_for=silence, **options)
        return {each.id for each in listed}

    assert stale(10) == stale(10, page_size=1) == set(ids[:2])
    assert stale(1) == set(ids)
    assert backend.call("enrichment.fail_stale", timedelta(minutes=10)) >= 2
    assert stale(1) == {ids[2]}
    failed = member.call("enrichment.get", ids[0])
    assert (failed.status, failed.error) == (FAILED, "no report for 00:10:00")


def test_track_raises_for_an_ended_job(member: Client, job: EnrichmentJob) -> None:
    reach(member, job, COMPLETED)
    with pytest.raises(ConflictError, match="already completed"):
        member.track(job, lambda _: pytest.fail("it was entered"))


def test_an_api_key_works_on_jobs(
    member: Client, backend: Client, tenant: Tenant, project: Project, job: EnrichmentJob
) -> None:
    scope = Scope(entity_type="enrichment", entity_id="*", action="write")
    key = member.call("create", tenant.account_id, "worker", scopes=[scope])
    as_key = backend.as_api_key(key.id, project.jwt_secret)
    done = as_key.track(job, lambda advance: advance(5))
    assert (done.status, done.processed_records) == (COMPLETED, 5)
    other = create(member, tenant)
    assert as_key.call("enrichment.fail", other.id, "no").error == "no"


def test_list_filters(member: Client, tenant: Tenant) -> None:
    jobs = [
        member.call("enrichment.create", tenant.account_id, uuid4(), kind)
        for kind in ("email", "phone", "email")
    ]
    member.call("enrichment.start", jobs[2].id)

    def found(**filters: Any) -> list[int]:
        listed = member.walk_all("enrichment.list", account_id=tenant.account_id, **filters)
        return [[job.id for job in jobs].index(each.id) for each in listed]

    assert found() == found(page_size=1) == [2, 1, 0]
    assert found(status="pending") == [1, 0]
    assert found(status=PROCESSING) == [2]
    assert found(enrichment_type="email") == [2, 0]
    assert found(audience_id=jobs[1].audience_id) == [1]
    assert found(created_after=jobs[0].created_at) == [2, 1]
    assert found(created_after=jobs[0].created_at, page_size=1) == [2, 1]
    assert found(created_before=jobs[2].created_at, enrichment_type="email") == [0]


def test_reset_progress_discards_the_totals_of_a_unit(
    backend: Client, member: Client, job: EnrichmentJob
) -> None:
    member.call("enrichment.report_progress", job.id, unit="honest", processed=10, failed=1)
    member.call("enrichment.report_progress", job.id, unit="rogue", processed=2**31 - 1)
    with pytest.raises(PermissionDeniedError):
        member.call("enrichment.reset_progress", job.id, "rogue")
    reset = backend.call("enrichment.reset_progress", job.id, "rogue")
    assert (reset.processed_records, reset.failed_records) == (10, 1)
    reset = backend.call("enrichment.reset_progress", job.id)
    assert (reset.processed_records, reset.failed_records) == (0, 0)
    with pytest.raises(NotFoundError):
        backend.call("enrichment.reset_progress", uuid4())
