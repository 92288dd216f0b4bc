"""Errors of requests that receive no response."""

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
from tests.unit._both_clients import close, maybe_await
from tests.unit._http_server import Handler, Server, error_from
from tests.unit._samples import API_KEY, KEY, URL


def test_untrusted_certificate_error_refers_to_ssl_cert_file() -> None:
    # httpx raises it like this, with the real cause two exceptions down.
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError()
    failure = connection_error(httpx.Request("GET", URL), error)
    assert "authority pass verify=" in str(failure)


def test_a_circular_exception_chain_is_handled() -> None:
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
async def test_connection_errors_give_advice(
    client_class: Any,
    api: respx.MockRouter,
    outcome: httpx.RequestError,
    expected: type[APIConnectionError],
    advice: str,
) -> None:
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    client = client_class(URL, KEY, max_retries=0)
    with pytest.raises(expected) as caught:
        await maybe_await(client.api_keys.verify(API_KEY))
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
async def test_connection_errors_say_whether_the_request_was_sent(
    client_class: Any,
    api: respx.MockRouter,
    outcome: httpx.TransportError,
    expected: type[APIConnectionError],
    sent: bool,
) -> None:
    client = client_class(URL, KEY, max_retries=0)
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    with pytest.raises(APIConnectionError) as caught:
        await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)
    assert type(caught.value) is expected
    assert caught.value.request_sent is sent
    assert type(outcome).__name__ in str(caught.value)
    assert "/rest/v1/rpc/verify_api_key" in str(caught.value)


async def test_a_slow_response_is_a_timeout(client_class: Any, server: Server, url: str) -> None:
    released = threading.Event()

    def wait(_: Handler) -> None:
        released.wait(5)

    server.respond = wait
    error = await error_from(client_class, url, seconds=0.1)
    released.set()
    assert type(error) is APITimeoutError
    assert error.request_sent
    assert "client.with_options(timeout=...) waits longer" in str(error)


async def test_a_stalled_response_is_a_timeout(client_class: Any, server: Server, url: str) -> None:
    released = threading.Event()

    def stall(handler: Handler) -> None:
        handler.send(b'{"valid": tr', Content_Length="1000")
        released.wait(5)

    server.respond = stall
    error = await error_from(client_class, url, seconds=0.1)
    released.set()
    assert type(error) is APITimeoutError


async def test_refused_connection(client_class: Any) -> None:
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


async def test_https_url_of_an_http_server(client_class: Any, server: Server, url: str) -> None:
    error = await error_from(client_class, url.replace("http:", "https:"))
    assert type(error) is APIConnectionError
    assert not error.request_sent
    assert "should the URL begin with http://?" in str(error)


async def test_http_url_of_an_https_server(client_class: Any, server: Server, url: str) -> None:
    def alert(handler: Handler) -> None:
        # A TLS server sends this alert in response to plain text.
        handler.wfile.write(b"\x15\x03\x01\x00\x02\x02\x16")
        handler.close_connection = True

    server.respond = alert
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert "should the URL begin with https://?" in str(error)


async def test_connection_closed_before_the_response(
    client_class: Any, server: Server, url: str
) -> None:
    server.respond = lambda handler: setattr(handler, "close_connection", True)
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent


async def test_connection_closed_during_the_response(
    client_class: Any, server: Server, url: str
) -> None:
    def half(handler: Handler) -> None:
        handler.send(b'{"valid": tr', Content_Length="1000")
        handler.close_connection = True

    server.respond = half
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent
    assert "may have been executed" in str(error)


async def test_connection_reset_during_the_response(
    client_class: Any, server: Server, url: str
) -> None:
    def reset(handler: Handler) -> None:
        handler.send(b'{"valid": tr', Content_Length="1000")
        # With a linger time of zero, close sends RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True

    server.respond = reset
    error = await error_from(client_class, url)
    assert type(error) is APIConnectionError
    assert error.request_sent
