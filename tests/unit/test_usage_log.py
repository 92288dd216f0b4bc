"""The usage log: the requests of each method, and the outcome of each event."""

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
from tests.unit._operations import api_keys, json_response, result_of, sent
from tests.unit._samples import KEY_ID

EVENT = UsageEvent(
    api_key_id=UUID(KEY_ID), endpoint="/v1", method="GET", status_code=200, log_id=UUID(KEY_ID)
)


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
    events: Sequence[UsageEvent], *responses: Any
) -> tuple[list[Request], list[Outcome[UsageLog]]]:
    """Return the requests and the outcomes of a batch, given a response or an error for each."""
    operation = api_keys.log_usage_batch(events)
    requests = [next(operation)]
    for response in responses:
        try:
            if isinstance(response, Exception):
                requests.append(operation.throw(response))
            else:
                requests.append(operation.send(json_response(response)))
        except StopIteration as stop:
            return requests, stop.value
    raise AssertionError("more requests than responses")


def test_log_usage_batch_sends_the_events() -> None:
    (request,), _ = run([EVENT], [line(0)])
    assert request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/log_api_key_usage_batch",
        {},
        {
            "p_events": [
                {
                    "api_key_id": KEY_ID,
                    "endpoint": "/v1",
                    "method": "GET",
                    "status_code": 200,
                    "log_id": KEY_ID,
                }
            ]
        },
    )


def test_an_event_without_an_id_gets_a_new_one_in_each_call() -> None:
    event = EVENT.model_copy(update={"log_id": None})
    ids = [
        UUID(row["log_id"])
        for _ in range(2)
        for row in sent(run([event] * 3, [line(0), line(1), line(2)])[0][0])[2]["p_events"]
    ]
    assert len(set(ids)) == 6


def test_log_usage_batch_sends_no_request_for_no_events() -> None:
    with pytest.raises(StopIteration) as stop:
        next(api_keys.log_usage_batch([]))
    assert stop.value.value == []


def test_each_event_has_its_outcome_in_order() -> None:
    refused = line(1, success=False, log_id=None, error="no such key", error_code="23503")
    _, outcomes = run([EVENT] * 3, [line(2), refused, line(0)])
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert [bool(outcome) for outcome in outcomes] == [True, False, True]
    assert [outcome.unwrap().log_id.int for outcome in outcomes if outcome] == [0, 2]
    with pytest.raises(UsageLogError, match=r"the API key does not exist \(SQLSTATE 23503\)"):
        outcomes[1].unwrap()


def test_a_request_has_at_most_a_thousand_events() -> None:
    responses = [[line(index) for index in range(size)] for size in (1000, 1000, 500)]
    requests, outcomes = run([EVENT] * 2500, *responses)
    assert [len(sent(request)[2]["p_events"]) for request in requests] == [1000, 1000, 500]
    assert [outcome.index for outcome in outcomes] == list(range(2500))
    assert all(outcomes)


def test_a_failed_request_is_the_outcome_of_its_events_only() -> None:
    error = APIConnectionError("reset")
    _, outcomes = run([EVENT] * 1001, error, [line(0)])
    assert [outcome.error for outcome in outcomes] == [error] * 1000 + [None]


@pytest.mark.parametrize("response", [[line(0)], [line(0), line(1, log_id=None)]])
def test_an_event_without_a_result_is_an_unexpected_response(response: Any) -> None:
    _, outcomes = run([EVENT] * 2, response)
    assert outcomes[0]
    assert isinstance(outcomes[1].error, UnexpectedResponseError)


@pytest.mark.parametrize("response", [None, {}, [line(0, event_index="x")], [{}]])
def test_a_malformed_response_is_the_outcome_of_all_events(response: Any) -> None:
    _, outcomes = run([EVENT] * 2, response)
    assert all(isinstance(outcome.error, UnexpectedResponseError) for outcome in outcomes)


LOGGED = {
    "success": True,
    "log_id": KEY_ID,
    "timestamp": "2025-01-02T03:04:05+00:00",
    "error": None,
    "error_code": None,
}


def test_log_usage() -> None:
    request = next(
        api_keys.log_usage(
            KEY_ID,
            endpoint="/v1",
            method="GET",
            status_code=200,
            ip_address="::1",
            user_agent="curl/8",
        )
    )
    assert not request.repeatable
    assert sent(request) == (
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


def test_log_usage_returns_the_row() -> None:
    log = result_of(log_usage(), LOGGED)
    assert log.log_id == UUID(KEY_ID)
    assert log.timestamp == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_log_usage_raises_the_error_of_the_database() -> None:
    operation = log_usage()
    next(operation)
    response = {"success": False, "error": "fkey", "error_code": "23503"}
    with pytest.raises(UsageLogError, match="the API key does not exist") as caught:
        operation.send(json_response(response))
    assert caught.value.code == "23503"


def test_log_usage_requires_the_id_of_the_row() -> None:
    operation = log_usage()
    next(operation)
    with pytest.raises(UnexpectedResponseError, match="log_id"):
        operation.send(json_response({**LOGGED, "log_id": None}))


@pytest.mark.parametrize(
    ("call", "message"),
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
def test_invalid_arguments_raise_before_any_request(
    call: Callable[[], Operation[Any]], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        next(call())


def test_the_lowest_status_code_and_an_empty_user_agent_are_accepted() -> None:
    body = sent(next(log_usage(status_code=100, user_agent="")))[2]
    assert (body["p_status_code"], body["p_user_agent"]) == (100, None)


@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_unstorable_characters_are_replaced(text: str) -> None:
    request = next(log_usage(endpoint=text, method=text, ip_address=text, user_agent=text))
    body = json.loads(json.dumps(sent(request)[2], ensure_ascii=False).encode())
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint=text, method=text, ip_address=text, user_agent=text
    )
    for name in ("endpoint", "method", "ip_address", "user_agent"):
        logged = body[f"p_{name}"]
        assert logged == getattr(event, name)
        assert len(logged) == len(text)
        assert all(new in {old, "\ufffd"} for new, old in zip(logged, text, strict=True))
        assert "\x00" not in logged


def test_long_values_are_truncated() -> None:
    long = {"endpoint": "/" * 3_000, "method": "M" * 300, "user_agent": "u" * 3_000}
    sizes = [2_000, 255, 1_000, 255]
    operation = api_keys.log_usage(KEY_ID, status_code=200, ip_address="i" * 300, **long)
    body = sent(next(operation))[2]
    columns = ("endpoint", "method", "user_agent", "ip_address")
    assert [len(body[f"p_{column}"]) for column in columns] == sizes
    event = UsageEvent.model_validate({"api_key_id": KEY_ID, "ip_address": "i" * 300, **long})
    assert [len(getattr(event, column)) for column in columns] == sizes


@pytest.mark.parametrize(
    "field", [{"endpoint": ""}, {"method": ""}, {"endpoint": 7}, {"status_code": 99}]
)
def test_usage_events_reject_invalid_fields(field: dict[str, Any]) -> None:
    event: dict[str, Any] = {"api_key_id": KEY_ID, "endpoint": "/", "method": "GET"}
    UsageEvent.model_validate(event)
    with pytest.raises(ValidationError, match=next(iter(field))):
        UsageEvent.model_validate(event | field)


def test_empty_strings_of_a_usage_event_are_none() -> None:
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint="/", method="GET", ip_address="", user_agent=""
    )
    assert event.ip_address is event.user_agent is None
