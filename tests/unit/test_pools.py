"""Connections: shared, limited in number, and closed."""

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest
import respx

from audiencelab_sdk import (
    APITimeoutError,
    AsyncAudienceLab,
    AudienceLab,
    AudienceLabError,
    ClientClosedError,
    ConfigurationError,
)
from audiencelab_sdk._http import _connections, _pools
from tests.unit._both_clients import close, maybe_await
from tests.unit._http_server import HeldResponses, Server, slow
from tests.unit._samples import API_KEY, KEY, URL, VALID


async def test_each_client_has_its_own_timeout(client_class: Any, server: Server, url: str) -> None:
    client = client_class(url, KEY, max_retries=0)
    server.respond = slow(seconds=0.3)
    with pytest.raises(APITimeoutError):
        await maybe_await(client.with_options(timeout=0.05).api_keys.verify(API_KEY))
    assert await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)


async def test_derived_clients_share_a_connection_until_it_is_closed(
    client_class: Any, server: Server, url: str
) -> None:
    client = client_class(url, KEY)
    for each in (client, client.as_user("token"), client.with_options(timeout=3)):
        for _ in range(3):
            assert await maybe_await(each.api_keys.verify(API_KEY))
    assert server.connections == 1
    await close(client)
    del client, each
    gc.collect()  # an unclosed socket warns here, which fails the test


async def test_responses_are_freed_without_the_garbage_collector(
    client_class: Any, server: Server, url: str
) -> None:
    def count() -> int:
        return sum(isinstance(thing, httpx.Response) for thing in gc.get_objects())

    client = client_class(url, KEY)
    gc.collect()
    gc.disable()
    try:
        before = count()
        assert await maybe_await(client.api_keys.verify(API_KEY))
        assert count() == before
    finally:
        gc.enable()
        await close(client)


def test_closing_raises_in_waiting_threads(server: Server, url: str) -> None:
    server.respond = held = HeldResponses()
    client = AudienceLab(url, KEY, max_retries=0)
    with ThreadPoolExecutor(30) as executor:
        calls = [executor.submit(client.api_keys.verify, API_KEY) for _ in range(30)]
        held.wait_for(20)
        client.close()
        held.release()
    errors = [call.exception() for call in calls]
    assert sum(isinstance(error, ClientClosedError) for error in errors) == 10
    assert server.connections <= 20
    del client, calls, errors
    gc.collect()  # an unclosed socket warns here, which fails the test


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_closing_raises_in_waiting_tasks(client_kind: str, server: Server, url: str) -> None:
    server.respond = held = HeldResponses()
    client = AsyncAudienceLab(url, KEY, max_retries=0)
    errors: list[AudienceLabError] = []

    async def verify() -> None:
        try:
            await client.api_keys.verify(API_KEY)
        except AudienceLabError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(verify)
        await anyio.to_thread.run_sync(held.wait_for, 20)
        await client.aclose()
        held.release()
    assert sum(isinstance(error, ClientClosedError) for error in errors) == 10
    assert server.connections <= 20


async def test_calls_wait_for_a_connection_no_longer_than_the_timeout(
    client_class: Any, server: Server, url: str
) -> None:
    released = threading.Event()
    server.respond = lambda handler: (released.wait(5), slow(0)(handler))[1]
    patient = client_class(url, KEY, timeout=5, max_retries=0)
    hasty = patient.with_options(timeout=0.1)
    errors: list[AudienceLabError] = []

    async def fail() -> None:
        try:
            await in_thread(hasty.api_keys.verify, API_KEY)
        except AudienceLabError as error:
            errors.append(error)
            released.set()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(in_thread, patient.api_keys.verify, API_KEY)
        await anyio.sleep(0.2)
        tasks.start_soon(fail)
    await close(patient)
    assert type(errors[0]) is APITimeoutError
    assert not errors[0].request_sent
    assert "make fewer calls at a time" in str(errors[0])


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call to either client without blocking the event loop."""
    if inspect.iscoroutinefunction(call):
        return await call(*arguments)
    return await anyio.to_thread.run_sync(call, *arguments)


def test_thirty_two_threads_share_a_client(server: Server, url: str) -> None:
    with AudienceLab(url, KEY) as client, ThreadPoolExecutor(32) as executor:
        verifications = executor.map(client.api_keys.verify, [API_KEY] * 320)
        assert all(verifications)
    assert server.connections <= 32


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_two_hundred_tasks_share_a_client(client_kind: str, server: Server, url: str) -> None:
    valid: list[bool] = []

    async with AsyncAudienceLab(url, KEY) as client:

        async def verify() -> None:
            valid.append(bool(await client.api_keys.verify(API_KEY)))

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(verify)
    assert valid == [True] * 200


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTPS_PROXY", "ftp://user:hunter2@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:port"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
async def test_invalid_proxy_and_certificate_variables_are_named(
    client_class: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    _connections._ssl_context.cache_clear()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        client_class(URL, KEY)
    assert "hunter2" not in str(caught.value)


async def test_each_process_has_its_own_connections(
    client_class: Any, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_class(url, KEY)
    assert await maybe_await(client.api_keys.verify(API_KEY))
    with monkeypatch.context() as child:
        child.setattr(_pools, "this_process", lambda: (0, 1))
        for _ in range(2):
            assert await maybe_await(client.api_keys.verify(API_KEY))
        assert server.connections == 2
        await close(client)
        with pytest.raises(ClientClosedError):
            await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)


def test_a_process_without_connections_can_close_the_client(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = AudienceLab(url, KEY)
    with monkeypatch.context() as child:
        child.setattr(_pools, "this_process", lambda: (0, 1))
        client.close()
        with pytest.raises(ClientClosedError):
            client.api_keys.verify(API_KEY)
    client.close()
    assert server.connections == 0


def test_each_event_loop_has_its_own_connections(server: Server, url: str) -> None:
    client = AsyncAudienceLab(url, KEY)

    async def verify() -> bool:
        return bool(await client.api_keys.verify(API_KEY))

    assert [asyncio.run(verify()) for _ in range(2)] == [True, True]
    assert server.connections == 2
    assert client._pool._by_loop == {}


def test_closed_event_loops_are_forgotten(api: respx.MockRouter) -> None:
    api.post("/rpc/verify_api_key").respond(json=VALID)
    client = AsyncAudienceLab(URL, KEY)

    async def verify() -> int:
        assert await client.api_keys.verify(API_KEY)
        return len(client._pool._by_loop)

    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(verify()) == 1
        loop.close()  # unlike asyncio.run, without closing its generators
