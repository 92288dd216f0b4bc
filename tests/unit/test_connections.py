"""Connections that fail in every way, proxies, headers and private certificates."""

import asyncio
import json
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiencelab_sdk import APIConnectionError, AudienceLabError
from tests.unit._both_clients import close, maybe_await
from tests.unit._http_server import Server
from tests.unit._samples import ACCOUNT, API_KEY, KEY, KEY_ID, TOKEN, VALID

CALLS = {
    "api_keys.verify": lambda client: client.api_keys.verify(API_KEY),
    "api_keys.list": lambda client: client.api_keys.list(ACCOUNT),
    "api_keys.revoke": lambda client: client.api_keys.revoke(KEY_ID),
    "api_keys.log_usage": lambda client: client.api_keys.log_usage(
        KEY_ID, endpoint="/", method="GET"
    ),
    "segments.list": lambda client: client.segments.list(),
    "segments.get": lambda client: client.segments.get(KEY_ID),
    "segments.delete": lambda client: client.segments.delete(KEY_ID),
    "enrichment.create": lambda client: client.enrichment.create(
        ACCOUNT, ACCOUNT, "email", created_by=ACCOUNT
    ),
    "enrichment.complete": lambda client: client.enrichment.complete(KEY_ID),
    "enrichment.wait": lambda client: client.enrichment.wait(KEY_ID, timeout=0.001),
}
ERRORS: list[Exception] = [
    *(kind("broken") for kind in httpx.RequestError.__subclasses__()),
    *(kind("broken") for kind in httpx.TransportError.__subclasses__()),
    httpx.InvalidURL("broken"),
    httpx.StreamClosed(),
    ssl.SSLError("broken"),
    OSError("broken"),
    socket.gaierror("broken"),
    ValueError("broken"),
    UnicodeEncodeError("ascii", "ü", 0, 1, "broken"),
    LookupError("broken"),
    RuntimeError("Event loop is closed"),
    anyio.ClosedResourceError(),
    anyio.BrokenResourceError(),
    anyio.BusyResourceError("broken"),
    ExceptionGroup("broken", [OSError("broken")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_whatever_a_transport_raises_becomes_a_typed_error(
    client: Any, api: respx.MockRouter, error: Exception
) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    api.route().mock(side_effect=fail)
    once = client.with_options(max_retries=0)
    with pytest.raises(AudienceLabError, match=type(error).__name__) as caught:
        await maybe_await(once.api_keys.verify(API_KEY))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


class TimeLimitError(Exception):
    """What the signal handler of a job queue may raise anywhere."""


@pytest.mark.parametrize(
    "error",
    [
        *(KeyboardInterrupt, SystemExit, asyncio.CancelledError, AssertionError),
        *(RecursionError, MemoryError, TimeLimitError),
    ],
)
@pytest.mark.parametrize("client_kind", ["sync", "asyncio"])
async def test_what_is_no_failure_of_the_request_is_raised_unchanged(
    client: Any, api: respx.MockRouter, error: type[BaseException]
) -> None:
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise error

    api.route().mock(side_effect=interrupt)
    with pytest.raises(error):
        await maybe_await(client.api_keys.verify(API_KEY))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(KEY_ID),
    lambda value: (
        st.lists(value, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "code", "message", "hint", "valid", "success", "error"])
            | st.text(),
            value,
            max_size=4,
        )
    ),
    max_leaves=8,
)
BODIES = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Type",
            "Content-Encoding",
            "Retry-After",
            "sb-request-id",
            "Location",
            "Set-Cookie",
        ]
    ),
    st.sampled_from(
        ["gzip", "deflate", "application/json", "text/html; charset=klingon", "x", "-1", "9" * 400]
    )
    | st.binary(max_size=8).map(lambda value: value.translate(None, b"\r\n\x00").decode("latin-1")),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    call=st.sampled_from(list(CALLS)),
    status=st.integers(200, 599),
    headers=HEADERS,
    body=BODIES,
)
@pytest.mark.parametrize("client_kind", ["sync"])
def test_whatever_a_server_returns_is_a_result_or_a_typed_error(
    client_class: Any, call: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(body)
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return httpx.Response(status, headers=raw, stream=stream, request=request)

    with respx.mock() as router:
        router.route().mock(side_effect=respond)
        client = client_class("https://project.test", KEY, access_token=TOKEN, max_retries=0)
        with client, suppress(AudienceLabError):
            CALLS[call](client)


async def test_a_proxy_forwards_the_requests(client_class: Any, server: Server, url: str) -> None:
    paths: list[str] = []

    def respond(handler: Any) -> None:
        paths.append(handler.path)
        handler.send(json.dumps(VALID).encode())

    server.respond = respond
    client = client_class("http://project.invalid", KEY, proxy=url, allow_http=True)
    assert await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)
    assert paths == ["http://project.invalid/rest/v1/rpc/verify_api_key"]


async def test_headers_are_part_of_every_request(
    client_class: Any, server: Server, url: str
) -> None:
    received: list[str] = []

    def respond(handler: Any) -> None:
        received.append(handler.headers["X-Gateway"])
        handler.send(json.dumps(VALID).encode())

    server.respond = respond
    client = client_class(url, KEY, headers={"X-Gateway": "team a"})
    for each in (client, client.as_user(TOKEN), client.with_options(timeout=3)):
        await maybe_await(each.api_keys.verify(API_KEY))
    await close(client)
    assert received == ["team a"] * 3


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The certificate of 127.0.0.1, signed by itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "authority.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def tls_url(server: Server, authority: Path, url: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return url.replace("http:", "https:")


async def test_a_private_certificate_authority_is_trusted_with_verify(
    client_class: Any, tls_url: str, authority: Path
) -> None:
    stranger = client_class(tls_url, KEY, max_retries=0)
    with pytest.raises(APIConnectionError, match="pass verify=ssl"):
        await maybe_await(stranger.api_keys.verify(API_KEY))
    await close(stranger)

    trusting = client_class(tls_url, KEY, verify=ssl.create_default_context(cafile=authority))
    assert await maybe_await(trusting.api_keys.verify(API_KEY))
    await close(trusting)


async def test_the_user_agent_can_be_replaced(client_class: Any, server: Server, url: str) -> None:
    received: list[Any] = []

    def respond(handler: Any) -> None:
        received.extend(handler.headers.get_all("User-Agent"))
        handler.send(json.dumps(VALID).encode())

    server.respond = respond
    client = client_class(url, KEY, headers={"user-agent": "mine"})
    await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)
    assert received == ["mine"]
