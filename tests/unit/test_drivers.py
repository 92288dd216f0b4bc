"""Retries, pauses, logging and cancellation."""

import json
import logging
from typing import Any

import anyio
import httpx
import pytest
import respx

from audiencelab_sdk import (
    APIConnectionError,
    APIStatusError,
    AudienceLabError,
    RateLimitError,
)
from audiencelab_sdk._http import _drivers
from audiencelab_sdk._http._operation import Operation, Request
from tests.unit._both_clients import close, settle
from tests.unit._samples import ACCOUNT, API_KEY, CREATED, KEY, LISTED, URL, VALID

MAYBE_DONE = [
    httpx.ReadTimeout("slow"),
    httpx.WriteTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("Server disconnected"),
    httpx.Response(502),
    httpx.Response(503),
    httpx.Response(504),
]
NEVER_DONE = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("unreachable"),
    httpx.PoolTimeout("busy"),
    httpx.Response(429),
]
FINAL = [httpx.Response(status) for status in (400, 401, 403, 404, 409, 500, 501, 520)]


def named(outcome: Any) -> str:
    return str(getattr(outcome, "status_code", type(outcome).__name__))


def verify_route(api: respx.MockRouter, *outcomes: Any) -> respx.Route:
    return api.post("/rpc/verify_api_key").mock(side_effect=list(outcomes))


def create_route(api: respx.MockRouter, *outcomes: Any) -> respx.Route:
    return api.post("/rpc/create_api_key").mock(side_effect=list(outcomes))


@pytest.mark.parametrize("outcome", MAYBE_DONE + NEVER_DONE, ids=named)
async def test_what_is_safe_to_repeat_is_repeated(
    client: Any, api: respx.MockRouter, pauses: list[float], outcome: Any
) -> None:
    route = verify_route(api, outcome, outcome, httpx.Response(200, json=VALID))
    assert await settle(client.api_keys.verify(API_KEY))
    assert pauses == [0.25, 0.5]
    counts = [call.request.headers.get("X-Retry-Count") for call in route.calls]
    assert counts == [None, "1", "2"]


@pytest.mark.parametrize("outcome", NEVER_DONE, ids=named)
async def test_what_was_surely_not_done_is_repeated(
    client: Any, api: respx.MockRouter, pauses: list[float], outcome: Any
) -> None:
    create_route(api, outcome, httpx.Response(200, json=CREATED))
    assert (await settle(client.api_keys.create(ACCOUNT, "crm"))).name == "crm"
    assert pauses == [0.25]


@pytest.mark.parametrize("outcome", MAYBE_DONE, ids=named)
async def test_what_may_have_been_done_is_not_repeated(
    client: Any, api: respx.MockRouter, pauses: list[float], outcome: Any
) -> None:
    route = create_route(api, outcome)
    with pytest.raises((APIConnectionError, APIStatusError)) as caught:
        await settle(client.api_keys.create(ACCOUNT, "crm"))
    assert route.call_count == 1
    assert pauses == []
    assert getattr(caught.value, "request_sent", True)


@pytest.mark.parametrize("outcome", FINAL, ids=named)
async def test_an_answer_that_will_stay_the_same_is_not_repeated(
    client: Any, api: respx.MockRouter, pauses: list[float], outcome: httpx.Response
) -> None:
    route = verify_route(api, outcome)
    with pytest.raises(APIStatusError):
        await settle(client.api_keys.verify(API_KEY))
    assert route.call_count == 1


async def test_success_of_another_shape_is_not_repeated(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    route = verify_route(api, httpx.Response(200, html="<html>"))
    with pytest.raises(AudienceLabError):
        await settle(client.api_keys.verify(API_KEY))
    assert route.call_count == 1


@pytest.mark.parametrize("max_retries", [0, 1, 7])
async def test_max_retries(
    client_class: Any, api: respx.MockRouter, pauses: list[float], max_retries: int
) -> None:
    route = api.post("/rpc/verify_api_key").respond(503)
    client = client_class(URL, KEY, max_retries=max_retries)
    with pytest.raises(APIStatusError):
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    assert route.call_count == max_retries + 1
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0][:max_retries]


async def test_retry_after_is_honoured(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    limited = httpx.Response(429, headers={"Retry-After": "12"})
    verify_route(api, limited, httpx.Response(200, json=VALID))
    assert await settle(client.api_keys.verify(API_KEY))
    assert pauses == [12.0]


async def test_retry_after_is_honoured_of_a_server_that_restarts(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    restarting = httpx.Response(503, headers={"Retry-After": "5"})
    verify_route(api, restarting, httpx.Response(200, json=VALID))
    assert await settle(client.api_keys.verify(API_KEY))
    assert pauses == [5.0]


@pytest.mark.parametrize("date", ["soon", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"])
async def test_retry_after_that_is_no_time_is_ignored(
    client: Any, api: respx.MockRouter, pauses: list[float], date: str
) -> None:
    verify_route(api, httpx.Response(429, headers={"Retry-After": date}), httpx.Response(429))
    with pytest.raises(RateLimitError) as caught:
        await settle(client.with_options(max_retries=1).api_keys.verify(API_KEY))
    assert caught.value.retry_after is None


async def test_retry_after_too_long_is_raised_at_once(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    route = verify_route(api, httpx.Response(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimitError) as caught:
        await settle(client.api_keys.verify(API_KEY))
    assert caught.value.retry_after == 3600.0
    assert route.call_count == 1
    assert pauses == []


def test_jitter_spreads_the_callers() -> None:
    call = Request(lambda api: api.rpc("f", {}), repeatable=True)
    drawn = {_drivers._pause_before_retry(call, APIConnectionError("x"), 3, 9) for _ in range(50)}
    assert len(drawn) == 50
    assert all(pause is not None and 0 <= pause <= 2 for pause in drawn)


async def test_a_call_may_ask_for_a_delay(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    api.post("/rpc/f").respond(json=1)

    def steps() -> Operation[Any]:
        answer = yield Request(lambda api: api.rpc("f", {}), repeatable=True, delay=1.5)
        return json.loads(answer.content)

    assert await settle(client.api_keys._driver("segments.get", steps())) == 1
    assert pauses == [1.5]


async def test_a_call_that_its_operation_repeats_is_not_retried_besides(
    client: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    route = api.post("/rpc/f").respond(429)

    def steps() -> Operation[Any]:
        yield Request(lambda api: api.rpc("f", {}), repeatable=True, retried=False)

    with pytest.raises(RateLimitError):
        await settle(client.api_keys._driver("segments.get", steps()))
    assert route.call_count == 1
    assert pauses == []


async def test_steps_may_handle_an_error_and_go_on(client: Any, api: respx.MockRouter) -> None:
    api.post("/rpc/first").respond(404, json={"message": "no"})
    api.post("/rpc/second").respond(json=2)

    def steps() -> Operation[Any]:
        with pytest.raises(APIStatusError, match="no"):
            yield Request(lambda api: api.rpc("first", {}), repeatable=True)
        answer = yield Request(lambda api: api.rpc("second", {}), repeatable=True)
        return json.loads(answer.content)

    assert await settle(client.api_keys._driver("segments.get", steps())) == 2


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
async def test_interruptions_pass_untouched(
    client: Any, api: respx.MockRouter, interruption: type[BaseException]
) -> None:
    requests: list[httpx.Request] = []

    def interrupt(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        raise interruption

    api.post("/rpc/verify_api_key").mock(side_effect=interrupt)
    with pytest.raises(interruption):
        client.api_keys.verify(API_KEY)
    assert len(requests) == 1


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_cancellation_passes_untouched(client: Any, api: respx.MockRouter) -> None:
    requests: list[httpx.Request] = []

    async def hang(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        await anyio.sleep_forever()
        raise AssertionError

    api.post("/rpc/verify_api_key").mock(side_effect=hang)
    with anyio.move_on_after(0.05) as scope:
        await client.api_keys.verify(API_KEY)
    assert scope.cancelled_caught
    assert len(requests) == 1


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_a_cancelled_operation_cleans_up_at_once(client: Any, api: respx.MockRouter) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    api.post("/rpc/f").mock(side_effect=hang)
    cleaned: list[bool] = []

    def wait() -> Operation[Any]:
        try:
            yield Request(lambda api: api.rpc("f", {}), repeatable=True)
        finally:
            cleaned.append(True)

    operation = wait()
    with anyio.move_on_after(0.05):
        await client.api_keys._driver("segments.get", operation)
    assert cleaned == [True]


async def test_one_line_a_request(
    client: Any, api: respx.MockRouter, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="audiencelab_sdk")
    outcomes: list[Any] = [
        httpx.ReadTimeout("slow"),
        httpx.Response(503),
        httpx.Response(200, json=[LISTED]),
    ]
    api.post("/rpc/list_api_keys").mock(side_effect=outcomes)
    await settle(client.api_keys.list(ACCOUNT))
    ours = [record for record in caplog.records if record.name == "audiencelab_sdk"]
    assert [record.levelno for record in ours] == [logging.DEBUG] * 3
    path = "POST /rest/v1/rpc/list_api_keys: "
    starts = [path + outcome for outcome in ("APITimeoutError in ", "503 in ", "200 in ")]
    for attempt, (record, start) in enumerate(zip(ours, starts, strict=True), start=1):
        message = record.getMessage()
        assert message.startswith(start)
        assert message.endswith(f" ms (attempt {attempt})")
