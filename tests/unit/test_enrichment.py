"""Enrichment jobs: the requests of each method, and what it returns."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from audiencelab_sdk import (
    APIConnectionError,
    AudienceLabError,
    ConflictError,
    EnrichmentJob,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from audiencelab_sdk._resources import enrichment as enrichment_module
from tests.unit._operations import drive, enrichment, enrichment_of_nobody, sent, success
from tests.unit._samples import ACCOUNT, JOB, KEY_ID


def job(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "total_records": 0,
        "enrichment_fields": (),
        "metadata": None,
        "created_by": None,
    }
    return enrichment.create(ACCOUNT, KEY_ID, "email", **(given | changes))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: job(total_records=-1), "total_records must be from 0"),
        (lambda: job(metadata={"a": object()}), "metadata must be JSON"),
        (lambda: job(metadata="abc"), "metadata must be a mapping"),
        (lambda: job(metadata=[("a", 1)]), "metadata must be a mapping"),
        (
            lambda: enrichment_of_nobody.create(ACCOUNT, KEY_ID, "email"),
            "created_by is missing",
        ),
        (
            lambda: enrichment.report_progress(KEY_ID, worker="", processed=1, failed=0),
            "worker is empty",
        ),
        (
            lambda: enrichment.report_progress(KEY_ID, worker="w", processed=-1, failed=0),
            "processed must be from 0",
        ),
        (lambda: enrichment.fail(KEY_ID, ""), "error is empty"),
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
def test_bad_arguments_are_refused_before_any_request(
    operation: Callable[[], Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        next(operation())


def test_a_transition_whose_answer_was_lost_is_known_as_ours() -> None:
    steps = enrichment.complete(KEY_ID)
    body = sent(next(steps))[2]
    steps.send(success([]))
    with pytest.raises(StopIteration) as stop:
        steps.send(success(JOB | body))
    assert stop.value.value.status == "completed"


def test_the_same_state_by_somebody_else_is_a_conflict() -> None:
    steps = enrichment.complete(KEY_ID)
    body = sent(next(steps))[2] | {"completed_at": "2025-01-02T03:04:05+00:00"}
    steps.send(success([]))
    with pytest.raises(ConflictError, match="is already completed"):
        steps.send(success(JOB | body))


def test_fail_writes_over_nothing_but_what_it_read() -> None:
    meanwhile = JOB | {"updated_at": "2025-01-02T03:04:06.000001+00:00", "metadata": {"b": 2}}
    steps = enrichment.fail(KEY_ID, RuntimeError())
    requests, failed = drive(steps, JOB, [], meanwhile, lambda body: [meanwhile | body])
    guards = [query["updated_at"] for path, query, body in requests if body]
    assert guards == [
        "eq.2025-01-02T03:04:05.678901+00:00",
        "eq.2025-01-02T03:04:06.000001+00:00",
    ]
    assert failed.metadata == {"b": 2, "error": "RuntimeError"}


def test_fail_gives_up_on_a_job_that_never_holds_still() -> None:
    reads: list[Any] = [{**JOB, "processed_records": number} for number in range(50)]
    answers: list[Any] = []
    for read in reads:
        answers += [[], read]
    with pytest.raises(ConflictError, match="try again"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, *answers)


def test_a_job_that_may_only_be_read_is_not_failed() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, [], JOB)


def test_a_job_that_may_only_be_read_is_not_started() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.start(KEY_ID), [], JOB)


def test_wait_ends_whatever_the_clock_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 102.0, 110.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = enrichment.wait(KEY_ID, timeout=10, poll_interval=3)
    calls = [next(steps)]
    calls += [steps.send(success(JOB)) for _ in range(2)]
    assert [call.delay for call in calls] == [0, 3, 3]
    with pytest.raises(EnrichmentTimeoutError, match="pending after 10 s, with 3 of 10"):
        steps.send(success(JOB))


def test_looks_of_a_wait_are_not_retried_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = enrichment.wait(KEY_ID, timeout=9, poll_interval=1)
    assert next(steps).retried
    assert not steps.send(success(JOB)).retried


def test_an_outage_does_not_end_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_wait_that_ends_in_an_outage_tells_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    outage = APIConnectionError("reset")
    with pytest.raises(EnrichmentTimeoutError) as caught:
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, outage)
    assert caught.value.__cause__ is outage


@pytest.mark.parametrize("error", [PermissionDeniedError(403, "", ""), NotFoundError(404, "", "")])
def test_a_refusal_ends_a_wait(error: AudienceLabError) -> None:
    with pytest.raises(type(error)):
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, error)


def test_an_infinite_time_is_the_last_one_that_python_has() -> None:
    job = EnrichmentJob.model_validate(JOB | {"started_at": "infinity"})
    assert job.started_at == datetime.max.replace(tzinfo=UTC)
