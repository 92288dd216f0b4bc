"""Many lines of the usage log at once: no event without an outcome."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from audiencelab_sdk import (
    APIConnectionError,
    Outcome,
    UnexpectedResponseError,
    UsageEvent,
    UsageLog,
    UsageLogError,
)
from audiencelab_sdk._http._operation import Request
from tests.unit._operations import KEY_ID, api_keys, success
from tests.unit.test_api_keys import sent

EVENT = UsageEvent(api_key_id=UUID(KEY_ID), endpoint="/v1", method="GET", status_code=200)


def line(index: int, **changes: Any) -> dict[str, Any]:
    good = {
        "event_index": index,
        "success": True,
        "log_id": str(UUID(int=index)),
        "timestamp": "2025-01-02T03:04:05+00:00",
        "error": None,
        "error_code": None,
    }
    return good | changes


def run(
    events: Sequence[UsageEvent], *answers: Any
) -> tuple[list[Request], list[Outcome[UsageLog]]]:
    """The calls made, and the outcomes, when each call is answered in turn."""
    steps = api_keys.log_usage_batch(events)
    calls = [next(steps)]
    for answer in answers:
        try:
            if isinstance(answer, Exception):
                calls.append(steps.throw(answer))
            else:
                calls.append(steps.send(success(answer)))
        except StopIteration as stop:
            return calls, stop.value
    raise AssertionError("more calls than answers")


def test_what_is_sent() -> None:
    (call,), _ = run([EVENT], [line(0)])
    assert not call.repeatable
    assert sent(call) == (
        "/rest/v1/rpc/log_api_key_usage_batch",
        {},
        {
            "p_events": [
                {"api_key_id": KEY_ID, "endpoint": "/v1", "method": "GET", "status_code": 200}
            ]
        },
    )


def test_nothing_is_sent_for_no_events() -> None:
    with pytest.raises(StopIteration) as stop:
        next(api_keys.log_usage_batch([]))
    assert stop.value.value == []


def test_each_event_has_its_outcome_in_order() -> None:
    refused = line(1, success=False, log_id=None, error="no such key", error_code="23503")
    _, outcomes = run([EVENT] * 3, [line(2), refused, line(0)])
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert [bool(outcome) for outcome in outcomes] == [True, False, True]
    assert [outcome.unwrap().log_id.int for outcome in outcomes if outcome] == [0, 2]
    with pytest.raises(UsageLogError, match=r"no such key \(SQLSTATE 23503\)"):
        outcomes[1].unwrap()


def test_at_most_a_thousand_a_call() -> None:
    answers = [[line(index) for index in range(size)] for size in (1000, 1000, 500)]
    calls, outcomes = run([EVENT] * 2500, *answers)
    assert [len(sent(call)[2]["p_events"]) for call in calls] == [1000, 1000, 500]
    assert [outcome.index for outcome in outcomes] == list(range(2500))
    assert all(outcomes)


def test_a_call_that_fails_is_the_outcome_of_its_events_only() -> None:
    error = APIConnectionError("reset")
    _, outcomes = run([EVENT] * 1001, error, [line(0)])
    assert [outcome.error for outcome in outcomes] == [error] * 1000 + [None]


@pytest.mark.parametrize("answer", [[line(0)], [line(0), line(1, log_id=None)]])
def test_an_event_of_which_nothing_is_said_is_not_believed(answer: Any) -> None:
    _, outcomes = run([EVENT] * 2, answer)
    assert outcomes[0]
    assert isinstance(outcomes[1].error, UnexpectedResponseError)


@pytest.mark.parametrize("answer", [None, {}, [line(0, event_index="x")], [{}]])
def test_an_answer_of_another_shape_is_the_outcome_of_all(answer: Any) -> None:
    _, outcomes = run([EVENT] * 2, answer)
    assert all(isinstance(outcome.error, UnexpectedResponseError) for outcome in outcomes)
