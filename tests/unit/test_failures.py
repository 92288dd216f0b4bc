"""Requests without a response: the class and the advice of the error."""

import socket
import ssl
import struct
import threading
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    APIConnectionError,
    APITimeoutError,
)
from audiencelab_sdk._http._failures import connection_error
from tests.unit._both_clients import close, settle
from tests.unit._http_server import Handler, Server, error_from
from tests.unit._samples import API_KEY, KEY, URL


def test_untrusted_certificate() -> None:
    # As it comes from httpx, the real cause two errors down.
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError()
    failure = connection_error(httpx.Request("GET", URL), error)
    assert "authority pass verify=" in str(failure)


def test_chain_that_ends_in_a_ring() -> None:
    error = httpx.ConnectError("refused")
    error.__cause__ = OSError()
    error.__cause__.__context__ = error
    failure = connection_error(httpx.Request("GET", URL), error)
    assert "is the server running?" in str(failure)


@pytest.mark.parametrize(
    ("outcome", "expected", "advice"),
    [
        (httpx.ConnectTimeout(""), APITimeoutError, "is the URL right, and does a firewall"),
        (httpx.PoolTimeout(""), APITimeoutError, "make fewer calls at a time"),
        (httpx.WriteTimeout(""), APITimeoutError, "client.with_options(timeout=...) waits longer"),
        (httpx.ProxyError("403 Forbidden"), APIConnectionError, "ALL_PROXY names the proxy"),
        (httpx.ReadError(""), APIConnectionError, "may have been executed"),
    ],
    ids=repr,
)
async def test_without_an_answer(
    client_class: Any,
    api: respx.MockRouter,
    outcome: httpx.RequestError,
    expected: type[APIConnectionError],
    advice: str,
) -> None:
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    client = client_class(URL, KEY, max_retries=0)
    with pytest.raises(expected) as caught:
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    assert type(caught.value) is expected
    assert f"no response from {URL} " in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("outcome", "expected", "sent"),
    [
        (httpx.ConnectError("refused"), APIConnectionError, False),
        (httpx.ConnectTimeout("slow"), APITimeoutError, False),
        (httpx.PoolTimeout("busy"), APITimeoutError, False),
        (httpx.ReadTimeout("slow"), APITimeoutError, True),
        (httpx.ReadError(""), APIConnectionError, True),
    ],
    ids=repr,
)
async def test_errors_without_an_answer(
    client_class: Any,
    api: respx.MockRouter,
    outcome: httpx.TransportError,
    expected: type[APIConnectionError],
    sent: bool,
) -> None:
    client = client_class(URL, KEY, max_retries=0)
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    with pytest.raises(APIConnectionError) as caught:
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    assert type(caught.value) is expected
    assert caught.value.request_sent is sent
    assert type(outcome).__name__ in str(caught.value)
    assert "/rest/v1/rpc/verify_api_key" in str(caught.value)


async def test_slow_answer_is_a_timeout(client_class: Any, server: Server, url: str) -> None:
    released = threading.Event()

    def wait(_: Handler) -> None:
        released.wait(5)

    server.respond = wait
    error = await error_from(client_class, url, seconds=0.1)
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
    error = await error_from(client_class, url, seconds=0.1)
    released.set()
    assert type(error) is APITimeoutError


async def test_nobody_listens(client_class: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert f"no response from {url} (ConnectError: " in str(error)
    assert "is the URL right, and is the server running?" in str(error)


async def test_unknown_host(client_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    error = await error_from(client_class, "https://project.invalid")
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert "host name is not known here: is the URL right" in str(error)


async def test_https_where_http_is_spoken(client_class: Any, server: Server, url: str) -> None:
    error = await error_from(client_class, url.replace("http:", "https:"))
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert "should the URL begin with http://?" in str(error)


async def test_http_where_https_is_spoken(client_class: Any, server: Server, url: str) -> None:
    def alert(handler: Handler) -> None:
        # What a TLS server sends to whom it does not understand.
        handler.wfile.write(b"\x15\x03\x01\x00\x02\x02\x16")
        handler.close_connection = True

    server.respond = alert
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert "should the URL begin with https://?" in str(error)


async def test_connection_closed_without_an_answer(
    client_class: Any, server: Server, url: str
) -> None:
    server.respond = lambda handler: setattr(handler, "close_connection", True)
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent


async def test_connection_closed_amid_the_answer(
    client_class: Any, server: Server, url: str
) -> None:
    def half(handler: Handler) -> None:
        handler.answer(b'{"valid": tr', Content_Length="1000")
        handler.close_connection = True

    server.respond = half
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent
    assert "may have been executed" in str(error)


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
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent
