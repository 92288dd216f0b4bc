"""Real sockets: what mocks cannot show of timeouts, broken connections, sharing and closing."""

import gc
import inspect
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import httpx
import pytest

from audiencelab_sdk import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncAudienceLab,
    AudienceLab,
    AudienceLabError,
    ClientClosedError,
    UnexpectedResponseError,
)
from tests.unit._operations import API_KEY, KEY, VALID, close, settle


class Server(ThreadingHTTPServer):
    """Answers every request as `respond` does; counts the connections."""

    daemon_threads = True
    request_queue_size = 256
    respond: Callable[["Handler"], None]
    connections = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Server)
        self.server.respond(self)

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Keep the tests' output clean."""


class Held:
    """Responds to no request until all are released."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._released = threading.Event()

    def __call__(self, handler: Handler) -> None:
        self._arrived.release()
        assert self._released.wait(30)
        handler.answer(json.dumps(VALID).encode())

    def wait_for(self, requests: int) -> None:
        for _ in range(requests):
            assert self._arrived.acquire(timeout=30)

    def release(self) -> None:
        self._released.set()


def slow(seconds: float) -> Callable[[Handler], None]:
    def respond(handler: Handler) -> None:
        time.sleep(seconds)
        handler.answer(json.dumps(VALID).encode())

    return respond


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.respond = lambda handler: handler.answer(json.dumps(VALID).encode())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


async def failure(client_class: Any, url: str, seconds: float = 5.0) -> Any:
    client = client_class(url, KEY, timeout=seconds, max_retries=0)
    with pytest.raises(AudienceLabError) as caught:
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    return caught.value


async def test_slow_answer_is_a_timeout(client_class: Any, server: Server, url: str) -> None:
    released = threading.Event()

    def wait(_: Handler) -> None:
        released.wait(5)

    server.respond = wait
    error = await failure(client_class, url, seconds=0.1)
    released.set()
    assert type(error) is APITimeoutError
    assert error.request_sent
    assert "client.with_options(timeout=...) waits longer" in str(error)


async def test_answer_that_stalls_half_way_is_a_timeout(
    client_class: Any, server: Server, url: str
) -> None:
    released = threading.Event()

    def stall(handler: Handler) -> None:
        handler.answer(b'{"valid": tr', Content_Length="1000")
        released.wait(5)

    server.respond = stall
    error = await failure(client_class, url, seconds=0.1)
    released.set()
    assert type(error) is APITimeoutError


async def test_each_client_has_its_own_timeout(client_class: Any, server: Server, url: str) -> None:
    client = client_class(url, KEY, max_retries=0)
    server.respond = slow(seconds=0.3)
    with pytest.raises(APITimeoutError):
        await settle(client.with_options(timeout=0.05).api_keys.verify(API_KEY))
    assert await settle(client.api_keys.verify(API_KEY))
    await close(client)


async def test_nobody_listens(client_class: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await failure(client_class, url)
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert f"no answer from {url} (ConnectError: " in str(error)
    assert "is the URL right, and does the server run?" in str(error)


async def test_unknown_host(client_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    error = await failure(client_class, "https://project.invalid")
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert "host name is not known here: is the URL right" in str(error)


async def test_https_where_http_is_spoken(client_class: Any, server: Server, url: str) -> None:
    error = await failure(client_class, url.replace("http:", "https:"))
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert "should the URL begin with http://?" in str(error)


async def test_http_where_https_is_spoken(client_class: Any, server: Server, url: str) -> None:
    def alert(handler: Handler) -> None:
        # What a TLS server sends to whom it does not understand.
        handler.wfile.write(b"\x15\x03\x01\x00\x02\x02\x16")
        handler.close_connection = True

    server.respond = alert
    error = await failure(client_class, url)
    assert type(error) is APIConnectionError
    assert "should the URL begin with https://?" in str(error)


async def test_connection_closed_without_an_answer(
    client_class: Any, server: Server, url: str
) -> None:
    server.respond = lambda handler: setattr(handler, "close_connection", True)
    error = await failure(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent


async def test_connection_closed_amid_the_answer(
    client_class: Any, server: Server, url: str
) -> None:
    def half(handler: Handler) -> None:
        handler.answer(b'{"valid": tr', Content_Length="1000")
        handler.close_connection = True

    server.respond = half
    error = await failure(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent
    assert "may have been carried out" in str(error)


async def test_connection_reset_amid_the_answer(
    client_class: Any, server: Server, url: str
) -> None:
    def reset(handler: Handler) -> None:
        handler.answer(b'{"valid": tr', Content_Length="1000")
        # With no time to linger, closing sends RST in place of FIN.
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True

    server.respond = reset
    error = await failure(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent


@pytest.mark.parametrize(
    ("body", "kind", "advice"),
    [
        (b"<html><title>Sign in</title></html>", "text/html", "does the URL lead to the project's"),
        (b"OK", "text/plain", "does the URL lead to the project's"),
        (b'{"valid": tr', "application/json", "may cut answers off"),
        (b'[{"valid": true}, {"valid": true}', "application/json", "may cut answers off"),
        (b'"' + b"x" * 50, "application/json; charset=utf-8", "may cut answers off"),
    ],
)
async def test_success_without_json(
    client_class: Any, server: Server, url: str, body: bytes, kind: str, advice: str
) -> None:
    server.respond = lambda handler: handler.answer(body, Content_Type=kind)
    error = await failure(client_class, url)
    assert type(error) is UnexpectedResponseError
    assert str(error).startswith("POST /rest/v1/rpc/verify_api_key answered 200 with ")
    assert str(error).endswith(f"({kind}, {len(body)} bytes)")
    assert advice in str(error)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'""', b"{}", b"<"])
async def test_empty_answer_where_a_value_is_needed(
    client_class: Any, server: Server, url: str, body: bytes
) -> None:
    server.respond = lambda handler: handler.answer(body)
    error = await failure(client_class, url)
    assert type(error) is UnexpectedResponseError
    assert "does the URL lead to" in str(error)


async def test_redirect_is_not_followed(client_class: Any, server: Server, url: str) -> None:
    def redirect(handler: Handler) -> None:
        handler.send_response(301)
        handler.send_header("Location", f"{url}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.respond = redirect
    error = await failure(client_class, url)
    assert type(error) is APIStatusError
    assert "the URL is probably wrong (HTTP 301)" in str(error)
    assert server.connections == 1


# On trio, httpx itself leaves its generators open when it cannot decode.
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
async def test_answer_that_cannot_be_decompressed(
    client_class: Any, server: Server, url: str
) -> None:
    server.respond = lambda handler: handler.answer(b"no gzip", Content_Encoding="gzip")
    assert type(await failure(client_class, url)) is UnexpectedResponseError


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
