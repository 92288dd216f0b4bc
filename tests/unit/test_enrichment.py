"""Enrichment jobs: the requests of each method, and what it returns."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from audiencelab_sdk import (
    APIConnectionError,
    AudienceLabError,
    ConflictError,
    EnrichmentFailedError,
    EnrichmentJob,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from audiencelab_sdk._http._listing import Place
from audiencelab_sdk._resources import enrichment as enrichment_module
from tests.unit._operations import (
    drive,
    enrichment,
    enrichment_of_nobody,
    json_response,
    listing_of,
    result_of,
    sent,
)
from tests.unit._samples import ACCOUNT, JOB, KEY_ID, USER


def create(**options: Any) -> Any:
    return enrichment.create(ACCOUNT, KEY_ID, "email", **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create(total_records=-1), "total_records must be from 0"),
        (lambda: create(metadata={"a": object()}), "metadata must be JSON"),
        (lambda: create(metadata="abc"), "metadata must be a mapping"),
        (lambda: create(metadata=[("a", 1)]), "metadata must be a mapping"),
        (
            lambda: enrichment_of_nobody.create(ACCOUNT, KEY_ID, "email"),
            "created_by is missing",
        ),
        (
            lambda: enrichment.report_progress(KEY_ID, unit="", processed=1, failed=0),
            "unit is empty",
        ),
        (
            lambda: enrichment.report_progress(KEY_ID, unit="u", processed=-1, failed=0),
            "processed must be from 0",
        ),
        (lambda: enrichment.fail(KEY_ID, ""), "error is empty"),
        (lambda: enrichment.fail_stale(600), "older_than must be a timedelta, not int"),
        (
            lambda: enrichment.fail_stale(timedelta(seconds=59)),
            "older_than must be from 0:01:00 to 365 days, 0:00:00, not 0:00:59",
        ),
        (lambda: enrichment.fail(KEY_ID, None), "error must be a str"),
        (
            lambda: enrichment.wait(KEY_ID, timeout=0, poll_interval=1),
            "timeout must be more than 0",
        ),
        (
            lambda: enrichment.wait(KEY_ID, timeout=1, poll_interval=float("inf")),
            "poll_interval must be",
        ),
        (
            lambda: enrichment.wait(KEY_ID, timeout=True, poll_interval=1),
            "timeout must be a number",
        ),
    ],
)
def test_invalid_arguments_raise_before_any_request(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        next(call())


def test_create_inserts_a_row() -> None:
    options = {"total_records": 7, "enrichment_fields": ["email"], "metadata": {"a": 1}}
    requests, job = drive(create(**options), lambda rows: [JOB | rows[0]])
    ((path, query, (row,)),) = requests
    assert (path, query["on_conflict"]) == ("/rest/v1/enrichment_tracking", "id")
    assert row == {
        "id": str(job.id),
        "account_id": ACCOUNT,
        "audience_id": KEY_ID,
        "enrichment_type": "email",
        **options,
        "created_by": str(USER),
    }


def test_list_sends_the_filters() -> None:
    listing = listing_of(
        enrichment.list,
        account_id=ACCOUNT,
        audience_id=KEY_ID,
        status="pending",
        enrichment_type="email",
    )
    assert sent(next(listing.page())) == (
        "/rest/v1/enrichment_tracking",
        {
            "select": "*",
            "account_id": f"eq.{ACCOUNT}",
            "audience_id": f"eq.{KEY_ID}",
            "status": "eq.pending",
            "enrichment_type": "eq.email",
            "order": "created_at.desc,id.desc",
            "limit": "100",
        },
        None,
    )


def test_list_sends_the_time_of_the_last_update() -> None:
    before = datetime.now(UTC)
    listing = listing_of(enrichment.list, stale_for=timedelta(minutes=10))
    query = sent(next(listing.page()))[1]
    operator, _, text = query["updated_at"].partition(".")
    asked = datetime.fromisoformat(text) + timedelta(minutes=10)
    assert (query["status"], operator) == ("eq.processing", "lt")
    assert before <= asked <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stale_for": timedelta(1), "status": "failed"}, "stale_for is for processing jobs"),
        ({"stale_for": 600}, "stale_for must be a timedelta, not int"),
        ({"stale_for": timedelta(seconds=-1)}, "stale_for must be from 0:00:00"),
    ],
)
def test_list_rejects_an_invalid_silence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        listing_of(enrichment.list, **options)


def test_the_cursor_of_stale_jobs_remains_valid() -> None:
    def stale(minutes: int, cursor: str | None = None) -> Any:
        silence = timedelta(minutes=minutes)
        return listing_of(enrichment.list, stale_for=silence, cursor=cursor)

    cursor = stale(10).cursor(Place("2026-01-02T03:04:05.678901+00:00", UUID(KEY_ID)))

    assert stale(10, cursor).start is not None
    with pytest.raises(InvalidCursorError, match="belongs to another list"):
        stale(11, cursor)


@pytest.mark.parametrize("reset", [False, True])
def test_retry(reset: bool) -> None:
    request = next(enrichment.retry(KEY_ID, reset=reset))
    assert not request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/retry_enrichment_job",
        {},
        {"p_job_id": KEY_ID, "p_reset": reset},
    )
    assert str(result_of(enrichment.retry(KEY_ID), JOB).id) == KEY_ID


def test_fail_stale_calls_the_function_until_no_stale_job_is_left() -> None:
    requests, count = drive(enrichment.fail_stale(timedelta(minutes=10)), 1000, 1000, 7)
    assert count == 2007
    assert (
        requests
        == [
            (
                "/rest/v1/rpc/fail_stale_enrichment_jobs",
                {},
                {"p_older_than": "600.000000 seconds"},
            )
        ]
        * 3
    )


@pytest.mark.parametrize(
    ("units", "arguments"),
    [((), {"p_job_id": KEY_ID}), (("u1",), {"p_job_id": KEY_ID, "p_unit": "u1"})],
)
def test_reset_progress(units: tuple[str, ...], arguments: dict[str, str]) -> None:
    request = next(enrichment.reset_progress(KEY_ID, *units))
    assert request.repeatable
    assert sent(request) == ("/rest/v1/rpc/reset_enrichment_progress", {}, arguments)
    assert str(result_of(enrichment.reset_progress(KEY_ID), JOB).id) == KEY_ID


def test_complete_succeeds_if_the_first_response_was_lost() -> None:
    operation = enrichment.complete(KEY_ID)
    body = sent(next(operation))[2]
    operation.send(json_response([]))
    with pytest.raises(StopIteration) as stop:
        operation.send(json_response(JOB | body))
    assert stop.value.value.status == "completed"


def test_complete_conflicts_with_another_completion() -> None:
    operation = enrichment.complete(KEY_ID)
    body = sent(next(operation))[2] | {"completed_at": "2025-01-02T03:04:05+00:00"}
    operation.send(json_response([]))
    with pytest.raises(ConflictError, match="is already completed"):
        operation.send(json_response(JOB | body))


def test_fail_updates_only_the_version_that_it_read() -> None:
    meanwhile = JOB | {"updated_at": "2025-01-02T03:04:06.000001+00:00", "metadata": {"b": 2}}
    operation = enrichment.fail(KEY_ID, RuntimeError())
    requests, failed = drive(operation, JOB, [], meanwhile, lambda body: [meanwhile | body])
    guards = [query["updated_at"] for path, query, body in requests if body]
    assert guards == [
        "eq.2025-01-02T03:04:05.678901+00:00",
        "eq.2025-01-02T03:04:06.000001+00:00",
    ]
    assert failed.metadata == {"b": 2, "error": "RuntimeError"}


def test_fail_succeeds_if_the_first_response_was_lost() -> None:
    written: dict[str, Any] = {}

    def write(body: dict[str, Any]) -> list[Any]:
        written.update(body)
        return []

    _, failed = drive(enrichment.fail(KEY_ID, "no budget"), JOB, write, lambda _: JOB | written)
    assert (failed.status, failed.error) == ("failed", "no budget")


def test_fail_conflicts_with_another_end_of_the_job() -> None:
    completed = JOB | {"status": "completed"}
    with pytest.raises(ConflictError, match="is completed and cannot become failed"):
        drive(enrichment.fail(KEY_ID, "no budget"), completed)


def lost_attempts(number: int, **changes: Any) -> list[Any]:
    """Return the responses to updates of a job that changes, and to the reads after them."""
    responses: list[Any] = []
    for processed in range(number):
        responses += [[], {**JOB, "processed_records": processed, **changes}]
    return responses


def test_fail_ends_a_job_that_keeps_changing_before_it_stores_the_reason() -> None:
    written: dict[str, Any] = {}

    def end(body: dict[str, Any]) -> list[Any]:
        written.update(body)
        return [JOB | body]

    requests, failed = drive(
        enrichment.fail(KEY_ID, "x"),
        JOB,
        *lost_attempts(3),
        end,
        *lost_attempts(1, status="failed"),
        lambda body: [JOB | written | body],
    )
    assert written.keys() == {"status", "completed_at"}
    assert requests[-1][2] == {"metadata": {**JOB["metadata"], "error": "x"}}
    assert (failed.status, failed.error) == ("failed", "x")


def test_fail_raises_if_it_cannot_store_the_reason() -> None:
    responses = [*lost_attempts(3), lambda body: [JOB | body], *lost_attempts(10, status="failed")]
    with pytest.raises(ConflictError, match="to store why"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, *responses)


NO_ROOM = InvalidRequestError(400, "23514", "enrichment_tracking_metadata_limit is exceeded")


def test_fail_without_room_for_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    requests, failed = drive(enrichment.fail(KEY_ID, "x"), JOB, NO_ROOM, lambda body: [JOB | body])
    assert requests[-1][2].keys() == {"status", "completed_at"}
    assert failed.status == "failed"
    assert "no room in its metadata" in caplog.text

    responses = [*lost_attempts(3), lambda body: [JOB | body], NO_ROOM]
    _, failed = drive(enrichment.fail(KEY_ID, "x"), JOB, *responses)
    assert failed.status == "failed"


def test_fail_raises_other_errors() -> None:
    with pytest.raises(InvalidRequestError, match="no"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, InvalidRequestError(400, "22023", "no"))


def test_fail_raises_for_a_read_only_job() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, [], JOB)


def test_start_raises_for_a_read_only_job() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.start(KEY_ID), [], JOB)


def test_wait_polls_until_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 102.0, 110.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    operation = enrichment.wait(KEY_ID, timeout=10, poll_interval=3)
    requests = [next(operation)]
    requests += [operation.send(json_response(JOB)) for _ in range(2)]
    assert [request.delay for request in requests] == [0, 3, 3]
    with pytest.raises(EnrichmentTimeoutError, match="pending after 10 s, with 3 of 10"):
        operation.send(json_response(JOB))


def test_polls_after_the_first_are_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    operation = enrichment.wait(KEY_ID, timeout=9, poll_interval=1)
    assert next(operation).retried
    assert not operation.send(json_response(JOB)).retried


def test_wait_continues_after_transient_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = JOB | {"status": "completed"}
    outage = APIConnectionError("reset")
    requests, waited = drive(
        enrichment.wait(KEY_ID, timeout=9, poll_interval=1),
        JOB,
        outage,
        outage,
        done,
    )
    assert len(requests) == 4
    assert waited.status == "completed"


def test_the_timeout_error_of_wait_is_caused_by_the_last_transient_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 1.0, 10.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    outage = APIConnectionError("reset")
    with pytest.raises(EnrichmentTimeoutError) as caught:
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, outage)
    assert caught.value.__cause__ is outage


@pytest.mark.parametrize("error", [PermissionDeniedError(403, "", ""), NotFoundError(404, "", "")])
def test_wait_raises_permanent_errors(error: AudienceLabError) -> None:
    with pytest.raises(type(error)):
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, error)


def test_wait_raises_for_a_failed_job() -> None:
    failed = JOB | {"status": "failed", "metadata": {"error": "no budget"}}
    seen: list[EnrichmentJob] = []
    with pytest.raises(EnrichmentFailedError, match="no budget") as caught:
        drive(enrichment.wait(KEY_ID, on_progress=seen.append, poll_interval=0.01), JOB, failed)
    assert [job.status for job in seen] == ["pending", "failed"]
    assert caught.value.job == seen[-1]


def test_wait_with_a_bar_calls_the_observer_too(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[EnrichmentJob] = []
    completed = JOB | {"status": "completed"}
    operation = enrichment.wait(KEY_ID, on_progress=seen.append, show=True)
    drive(operation, JOB, completed)
    assert [job.status for job in seen] == ["pending", "completed"]
    assert "email enrichment completed" in capsys.readouterr().err


def test_infinity_is_read_as_the_latest_datetime() -> None:
    job = EnrichmentJob.model_validate(JOB | {"started_at": "infinity"})
    assert job.started_at == datetime.max.replace(tzinfo=UTC)
