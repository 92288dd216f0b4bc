"""The usage log: each event has its outcome."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audiencelab_sdk import (
    APIConnectionError,
    InvalidArgumentError,
    Outcome,
    UnexpectedResponseError,
    UsageEvent,
    UsageLog,
    UsageLogError,
)
from audiencelab_sdk._http._operation import Operation, Request
from tests.unit._operations import answered, api_keys, sent, success
from tests.unit._samples import KEY_ID

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


LOGGED = {
    "success": True,
    "log_id": KEY_ID,
    "timestamp": "2025-01-02T03:04:05+00:00",
    "error": None,
    "error_code": None,
}


def test_log_usage() -> None:
    call = next(
        api_keys.log_usage(
            KEY_ID,
            endpoint="/v1",
            method="GET",
            status_code=200,
            ip_address="::1",
            user_agent="curl/8",
        )
    )
    assert not call.repeatable
    assert sent(call) == (
        "/rest/v1/rpc/log_api_key_usage",
        {},
        {
            "p_api_key_id": KEY_ID,
            "p_endpoint": "/v1",
            "p_method": "GET",
            "p_status_code": 200,
            "p_ip_address": "::1",
            "p_user_agent": "curl/8",
        },
    )


def log_usage(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "endpoint": "/",
        "method": "GET",
        "status_code": None,
        "ip_address": None,
        "user_agent": None,
    }
    return api_keys.log_usage(KEY_ID, **(arguments | changes))


def test_log_usage_returns_the_line() -> None:
    log = answered(log_usage(), LOGGED)
    assert log.log_id == UUID(KEY_ID)
    assert log.timestamp == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_log_usage_that_failed_raises_what_the_database_said() -> None:
    steps = log_usage()
    next(steps)
    answer = {"success": False, "error": "no such key", "error_code": "23503"}
    with pytest.raises(UsageLogError, match="no such key") as caught:
        steps.send(success(answer))
    assert caught.value.code == "23503"


def test_log_usage_without_the_line_is_not_believed() -> None:
    steps = log_usage()
    next(steps)
    with pytest.raises(UnexpectedResponseError, match="log_id"):
        steps.send(success({**LOGGED, "log_id": None}))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: log_usage(endpoint=""), "endpoint is empty"),
        (lambda: log_usage(method=""), "method is empty"),
        (lambda: log_usage(endpoint=b"/"), "endpoint must be a str"),
        (lambda: log_usage(status_code=0), "status_code must be from 100 to 999"),
        (lambda: log_usage(status_code="200"), "status_code must be an int"),
        (lambda: log_usage(ip_address=1), "ip_address must be a str"),
        (lambda: api_keys.log_usage_batch([{}]), "sequence of UsageEvent; item 0 is dict"),
        (lambda: api_keys.log_usage_batch(None), "sequence of UsageEvent"),
    ],
)
def test_bad_arguments_are_refused_before_any_request(
    operation: Callable[[], Operation[Any]], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        next(operation())


def test_the_lowest_status_code_and_an_empty_user_agent_are_accepted() -> None:
    body = sent(next(log_usage(status_code=100, user_agent="")))[2]
    assert (body["p_status_code"], body["p_user_agent"]) == (100, None)


@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_any_text_of_a_client_is_logged(text: str) -> None:
    call = next(log_usage(endpoint=text, method=text, ip_address=text, user_agent=text))
    body = json.loads(json.dumps(sent(call)[2], ensure_ascii=False).encode())
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint=text, method=text, ip_address=text, user_agent=text
    )
    for name in ("endpoint", "method", "ip_address", "user_agent"):
        logged = body[f"p_{name}"]
        assert logged == getattr(event, name)
        assert len(logged) == len(text)
        assert all(new in {old, "\ufffd"} for new, old in zip(logged, text, strict=True))
        assert "\x00" not in logged


def test_long_texts_of_the_log_are_cut() -> None:
    long = {"endpoint": "/" * 3_000, "method": "M" * 300, "user_agent": "u" * 3_000}
    sizes = [2_000, 255, 1_000, 255]
    steps = api_keys.log_usage(KEY_ID, status_code=200, ip_address="i" * 300, **long)
    body = sent(next(steps))[2]
    columns = ("endpoint", "method", "user_agent", "ip_address")
    assert [len(body[f"p_{column}"]) for column in columns] == sizes
    event = UsageEvent.model_validate({"api_key_id": KEY_ID, "ip_address": "i" * 300, **long})
    assert [len(getattr(event, column)) for column in columns] == sizes


@pytest.mark.parametrize(
    "field", [{"endpoint": ""}, {"method": ""}, {"endpoint": 7}, {"status_code": 99}]
)
def test_a_usage_event_that_says_too_little_is_refused(field: dict[str, Any]) -> None:
    event: dict[str, Any] = {"api_key_id": KEY_ID, "endpoint": "/", "method": "GET"}
    UsageEvent.model_validate(event)
    with pytest.raises(ValidationError, match=next(iter(field))):
        UsageEvent.model_validate(event | field)


def test_empty_texts_of_a_usage_event_are_none() -> None:
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint="/", method="GET", ip_address="", user_agent=""
    )
    assert event.ip_address is event.user_agent is None
