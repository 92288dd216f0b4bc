"""Attempts in the log, and those that `on_response` is called with."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    APITimeoutError,
    AsyncAudienceLab,
    AudienceLab,
    ConfigurationError,
    NotFoundError,
    RequestAttempt,
    ServerError,
)
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import API_KEY, JOB, KEY, KEY_ID, TOKEN, URL, VALID

VERIFY = "/rest/v1/rpc/verify_api_key"


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "audiencelab_sdk"]


async def test_each_attempt_is_passed_to_on_response(
    client_class: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    responses: list[Any] = [
        httpx.ReadTimeout("slow"),
        httpx.Response(503, headers={"sb-request-id": "r-2"}),
        httpx.Response(200, headers={"sb-request-id": "r-3"}, json=VALID),
    ]
    api.post("/rpc/verify_api_key").mock(side_effect=responses)
    attempts: list[RequestAttempt] = []
    client = client_class(URL, KEY, on_response=attempts.append)

    await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)

    assert all(0 <= attempt.duration < 10 for attempt in attempts)
    assert [
        (attempt.call, attempt.method, attempt.path, attempt.attempt) for attempt in attempts
    ] == [("api_keys.verify", "POST", VERIFY, number) for number in (1, 2, 3)]
    assert [(attempt.status, attempt.request_id, attempt.error) for attempt in attempts] == [
        (None, None, APITimeoutError),
        (503, "r-2", ServerError),
        (200, "r-3", None),
    ]


async def test_on_response_gets_the_http_status(client_class: Any, api: respx.MockRouter) -> None:
    api.get("/enrichment_tracking").respond(406, json={"code": "PGRST116"})
    attempts: list[RequestAttempt] = []
    client = client_class(URL, KEY, on_response=attempts.append)

    with pytest.raises(NotFoundError):
        await maybe_await(client.enrichment.get(KEY_ID))
    await close(client)

    assert [(each.call, each.status, each.error) for each in attempts] == [
        ("enrichment.get", 406, NotFoundError)
    ]


async def test_derived_clients_call_the_same_on_response(
    client_class: Any, api: respx.MockRouter
) -> None:
    api.get("/enrichment_tracking").respond(json=JOB)
    calls: list[str] = []
    client = client_class(URL, KEY, on_response=lambda attempt: calls.append(attempt.call))

    for each in (client, client.as_user(TOKEN), client.with_options(timeout=3)):
        await maybe_await(each.enrichment.get(KEY_ID))
    await close(client)

    assert calls == ["enrichment.get"] * 3


async def test_what_on_response_raises_is_logged_and_costs_no_call(
    client_class: Any, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: RequestAttempt) -> None:
        raise ZeroDivisionError

    api.post("/rpc/verify_api_key").respond(json=VALID)
    client = client_class(URL, KEY, on_response=fail)

    assert await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)

    (record,) = ours(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "on_response raised ZeroDivisionError"
    assert record.exc_info


async def test_a_keyboard_interrupt_in_on_response_is_raised(
    client_class: Any, api: respx.MockRouter
) -> None:
    def interrupt(_: RequestAttempt) -> None:
        raise KeyboardInterrupt

    api.post("/rpc/verify_api_key").respond(json=VALID)
    client = client_class(URL, KEY, on_response=interrupt)

    with pytest.raises(KeyboardInterrupt):
        await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_an_asynchronous_client_awaits_on_response(
    client_kind: str,
    api: respx.MockRouter,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts: list[RequestAttempt] = []

    async def collect(attempt: RequestAttempt) -> None:
        attempts.append(attempt)
        raise ZeroDivisionError

    responses = [httpx.Response(503), httpx.Response(200, json=VALID)]
    api.post("/rpc/verify_api_key").mock(side_effect=responses)
    async with AsyncAudienceLab(URL, KEY, on_response=collect) as client:
        assert await client.api_keys.verify(API_KEY)

    assert [attempt.status for attempt in attempts] == [503, 200]
    warnings = [record.getMessage() for record in ours(caplog)]
    assert warnings == ["on_response raised ZeroDivisionError"] * 2


def test_a_synchronous_client_refuses_a_coroutine_function() -> None:
    async def collect(_: RequestAttempt) -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match="pass a plain function, or use AsyncAudienceLab"):
        AudienceLab(URL, KEY, on_response=collect)


async def test_a_log_record_has_the_facts_as_attributes(
    client_class: Any, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="audiencelab_sdk")
    api.post("/rpc/verify_api_key").respond(headers={"x-request-id": "r-1"}, json=VALID)
    attempts: list[RequestAttempt] = []
    client = client_class(URL, KEY, on_response=attempts.append)

    await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)

    (record,) = ours(caplog)
    (attempt,) = attempts
    facts = {name: getattr(record, name) for name in RequestAttempt.__slots__}
    assert facts == {name: getattr(attempt, name) for name in RequestAttempt.__slots__}
    assert facts["request_id"] == "r-1"


async def test_a_key_that_is_refused_without_a_request_is_logged(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="audiencelab_sdk")

    assert not await maybe_await(client.api_keys.verify("sk_mistyped-and-secret"))

    (record,) = ours(caplog)
    assert record.getMessage() == "api_keys.verify: no request for a malformed API key"


class Hook:
    """A callable object whose call is a coroutine, which cannot be seen beforehand."""

    async def __call__(self, _: RequestAttempt) -> None:
        """Do nothing."""


class Later:
    """An awaitable that is not a coroutine."""

    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.mark.parametrize("hook", [Hook(), lambda _: Later()])
def test_a_synchronous_client_warns_of_an_awaitable(
    api: respx.MockRouter, caplog: pytest.LogCaptureFixture, hook: Any
) -> None:
    api.post("/rpc/verify_api_key").respond(json=VALID)
    with AudienceLab(URL, KEY, on_response=hook) as client:
        assert client.api_keys.verify(API_KEY)
    (record,) = ours(caplog)
    assert "TypeError" in record.getMessage()
    assert "the client is synchronous" in caplog.text


def test_a_task_that_on_response_awaits_may_be_cancelled(
    api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_for_another_task(_: RequestAttempt) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def verify() -> None:
        async with AsyncAudienceLab(URL, KEY, on_response=wait_for_another_task) as client:
            assert await client.api_keys.verify(API_KEY)

    api.post("/rpc/verify_api_key").respond(json=VALID)
    asyncio.run(verify())
    assert "on_response raised CancelledError" in caplog.text


def test_a_call_is_cancelled_while_on_response_runs(api: respx.MockRouter) -> None:
    async def wait(_: RequestAttempt) -> None:
        await asyncio.sleep(60)

    async def verify() -> None:
        async with AsyncAudienceLab(URL, KEY, on_response=wait) as client:
            task = asyncio.create_task(client.api_keys.verify(API_KEY))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    api.post("/rpc/verify_api_key").respond(json=VALID)
    asyncio.run(verify())
