"""Connections on real sockets: shared, limited and closed."""

import gc
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest

from audiencelab_sdk import (
    APITimeoutError,
    AsyncAudienceLab,
    AudienceLab,
    AudienceLabError,
    ClientClosedError,
    ConfigurationError,
)
from audiencelab_sdk._http import _connections
from tests.unit._both_clients import close, settle
from tests.unit._http_server import Held, Server, slow
from tests.unit._samples import API_KEY, KEY, URL


async def test_each_client_has_its_own_timeout(client_class: Any, server: Server, url: str) -> None:
    client = client_class(url, KEY, max_retries=0)
    server.respond = slow(seconds=0.3)
    with pytest.raises(APITimeoutError):
        await settle(client.with_options(timeout=0.05).api_keys.verify(API_KEY))
    assert await settle(client.api_keys.verify(API_KEY))
    await close(client)


async def test_connections_are_kept_and_closed(client_class: Any, server: Server, url: str) -> None:
    client = client_class(url, KEY)
    for each in (client, client.as_user("token"), client.with_options(timeout=3)):
        for _ in range(3):
            assert await settle(each.api_keys.verify(API_KEY))
    assert server.connections == 1
    await close(client)
    del client, each
    gc.collect()  # a socket left open is a ResourceWarning here, and so an error


async def test_answers_do_not_wait_for_the_garbage_collector(
    client_class: Any, server: Server, url: str
) -> None:
    def answers() -> int:
        return sum(isinstance(thing, httpx.Response) for thing in gc.get_objects())

    client = client_class(url, KEY)
    gc.collect()
    gc.disable()
    try:
        before = answers()
        assert await settle(client.api_keys.verify(API_KEY))
        assert answers() == before
    finally:
        gc.enable()
        await close(client)


def test_threads_that_wait_when_the_client_is_closed(server: Server, url: str) -> None:
    server.respond = held = Held()
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
    gc.collect()  # a socket left open is a ResourceWarning here, and so an error


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_tasks_that_wait_when_the_client_is_closed(
    colour: str, server: Server, url: str
) -> None:
    server.respond = held = Held()
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


async def test_calls_wait_for_their_turn_no_longer_than_the_timeout(
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
    """The result of a call of either client, which waits without stopping the event loop."""
    if inspect.iscoroutinefunction(call):
        return await call(*arguments)
    return await anyio.to_thread.run_sync(call, *arguments)


def test_thirty_two_threads_share_a_client(server: Server, url: str) -> None:
    with AudienceLab(url, KEY) as client, ThreadPoolExecutor(32) as executor:
        verifications = executor.map(client.api_keys.verify, [API_KEY] * 320)
        assert all(verifications)
    assert server.connections <= 32


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_two_hundred_tasks_share_a_client(colour: str, server: Server, url: str) -> None:
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
async def test_an_environment_that_httpx_cannot_use(
    client_class: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    _connections._ssl_context.cache_clear()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        client_class(URL, KEY)
    assert "hunter2" not in str(caught.value)
