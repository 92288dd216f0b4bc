"""Clients made from a supabase-py client, which signs in, refreshes and signs out.

Only the server of Supabase Auth is mocked.
"""

import time
import traceback
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import respx
import supabase

from audiencelab_sdk import AsyncAudienceLab, AudienceLab, ConfigurationError
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import API_KEY, KEY, PUBLISHABLE_KEY, SECRET_KEY, TOKEN, URL, VALID

CREDENTIALS: Any = {"email": "ada@example.com", "password": "of-ada"}

# supabase-py's asynchronous client runs on asyncio only.
pytestmark = pytest.mark.parametrize("client_kind", ["sync", "asyncio"])


class AuthServer:
    """Issues numbered tokens, as Supabase Auth does."""

    def __init__(self) -> None:
        self.issued = 0
        self.lifetime = 3600

    def token(self, _: httpx.Request) -> httpx.Response:
        self.issued += 1
        user = {
            "id": "33333333-3333-4333-8333-333333333333",
            "app_metadata": {},
            "user_metadata": {},
            "aud": "authenticated",
            "created_at": "2025-01-02T03:04:05Z",
        }
        session = {
            "access_token": f"token-{self.issued}",
            "refresh_token": f"refresh-{self.issued}",
            "token_type": "bearer",
            "expires_in": self.lifetime,
            "expires_at": int(time.time()) + self.lifetime,
            "user": user,
        }
        return httpx.Response(200, json=session)


@pytest.fixture
def auth_server() -> AuthServer:
    return AuthServer()


@pytest.fixture
def route(auth_server: AuthServer) -> Iterator[respx.Route]:
    """The route of `verify`. Its requests show which identity the client has."""
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        router.post("/auth/v1/token").mock(side_effect=auth_server.token)
        router.post("/auth/v1/logout").respond(204)
        yield router.post("/rest/v1/rpc/verify_api_key").respond(json=VALID)


async def make_supabase(client_kind: str, url: str = URL, key: str = KEY, **options: Any) -> Any:
    if client_kind == "sync":
        return supabase.create_client(url, key, supabase.ClientOptions(**options))
    return await supabase.create_async_client(url, key, supabase.AsyncClientOptions(**options))


async def identity(client: Any, route: respx.Route) -> str:
    assert await maybe_await(client.api_keys.verify(API_KEY))
    headers = route.calls.last.request.headers
    assert headers["apikey"] == KEY
    return str(headers["Authorization"]).removeprefix("Bearer ")


async def test_requests_follow_the_session(
    client_kind: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(client_kind, auto_refresh_token=False)
    client = client_class.from_supabase(base)
    assert type(client) is client_class
    assert client.url == URL
    assert await identity(client, route) == KEY
    await maybe_await(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(client, route) == "token-1"
    patient = client.with_options(timeout=60)
    await maybe_await(base.auth.refresh_session())
    assert await identity(client, route) == await identity(patient, route) == "token-2"
    await maybe_await(base.auth.sign_out())
    assert await identity(client, route) == await identity(patient, route) == KEY
    await close(client)


@pytest.mark.parametrize("key", [PUBLISHABLE_KEY, SECRET_KEY])
async def test_a_key_that_is_no_jwt_is_not_sent_as_a_token(
    client_kind: str, client_class: Any, route: respx.Route, key: str
) -> None:
    base = await make_supabase(client_kind, key=key, auto_refresh_token=False)
    client = client_class.from_supabase(base)

    async def headers() -> Any:
        assert await maybe_await(client.api_keys.verify(API_KEY))
        return route.calls.last.request.headers

    assert (await headers())["apikey"] == key
    assert "Authorization" not in await headers()
    await maybe_await(base.auth.sign_in_with_password(CREDENTIALS))
    assert (await headers())["apikey"] == key
    assert (await headers())["Authorization"] == "Bearer token-1"
    await maybe_await(base.auth.sign_out())
    assert "Authorization" not in await headers()
    await close(client)


async def test_another_key_as_authorization_is_refused(
    client_kind: str, client_class: Any, route: respx.Route
) -> None:
    headers = {"Authorization": f"Bearer {SECRET_KEY}"}
    base = await make_supabase(client_kind, key=PUBLISHABLE_KEY, headers=headers)
    client = client_class.from_supabase(base)
    with pytest.raises(ConfigurationError, match="access_token is a key of the project") as caught:
        await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)
    assert not route.called
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [str(frame.locals) for frame in shown.stack if "audiencelab_sdk" in frame.filename]
    assert ours
    assert not any(SECRET_KEY in frame_locals for frame_locals in ours)


async def test_requests_follow_automatic_refreshes(
    client_kind: str, client_class: Any, route: respx.Route, auth_server: AuthServer
) -> None:
    auth_server.lifetime = 2  # so the refresh is due within 1.5 s
    base = await make_supabase(client_kind)
    client = client_class.from_supabase(base)
    await maybe_await(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(client, route) == "token-1"
    auth_server.lifetime = 3600
    with anyio.fail_after(5):
        while await identity(client, route) != "token-2":  # noqa: ASYNC110 - no event for both
            await anyio.sleep(0.02)
    await maybe_await(base.auth.sign_out())
    await close(client)


async def test_an_existing_session_is_used(
    client_kind: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(client_kind, auto_refresh_token=False)
    await maybe_await(base.auth.sign_in_with_password(CREDENTIALS))
    client = client_class.from_supabase(base)
    assert await identity(client, route) == "token-1"
    await close(client)


async def test_an_authorization_header_is_used(
    client_kind: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(client_kind, headers={"Authorization": f"Bearer {TOKEN}"})
    client = client_class.from_supabase(base)
    assert await identity(client, route) == TOKEN
    await close(client)


async def test_as_user_does_not_follow_the_session(
    client_kind: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(client_kind, auto_refresh_token=False)
    client = client_class.from_supabase(base)
    user = client.as_user(TOKEN)
    await maybe_await(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(user, route) == TOKEN
    await close(client)


async def test_the_client_has_its_own_connections_and_options(
    client_kind: str, client_class: Any, route: respx.Route, pauses: list[float]
) -> None:
    base = await make_supabase(client_kind, f"{URL}/")
    client = client_class.from_supabase(base, timeout=3, max_retries=1)
    assert client.url == URL
    route.mock(side_effect=[httpx.Response(503), httpx.Response(200, json=VALID)])
    await identity(client, route)
    assert len(pauses) == 1
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0
    await close(client)
    assert not base.auth._http_client.is_closed


@pytest.mark.parametrize("option", [{"timeout": 0}, {"max_retries": -1}])
async def test_invalid_options_are_rejected(
    client_kind: str, client_class: Any, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        client_class.from_supabase(await make_supabase(client_kind), **option)


async def test_a_client_of_the_other_kind_is_rejected(client_kind: str, client_class: Any) -> None:
    other, ours = (
        ("asyncio", "AsyncAudienceLab") if client_kind == "sync" else ("sync", "AudienceLab")
    )
    with pytest.raises(ConfigurationError, match=rf"pass it to {ours}\.from_supabase"):
        client_class.from_supabase(await make_supabase(other))


@pytest.mark.parametrize("value", [None, URL, {"key": KEY}, AudienceLab, AsyncAudienceLab])
async def test_other_objects_are_rejected(client_kind: str, client_class: Any, value: Any) -> None:
    maker = (
        r"supabase\.create_client" if client_kind == "sync" else r"supabase\.create_async_client"
    )
    with pytest.raises(
        ConfigurationError, match=f" not {type(value).__name__}: .*{maker}"
    ) as caught:
        client_class.from_supabase(value)
    assert KEY not in str(caught.value)
