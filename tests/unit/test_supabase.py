"""Clients made from those of supabase-py, which signs in, refreshes and signs out for real.

Only the server of Supabase Auth is a mock.
"""

import time
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import respx
import supabase

from audiencelab_sdk import AsyncAudienceLab, AudienceLab, ConfigurationError
from tests.unit._both_clients import close, settle
from tests.unit._samples import API_KEY, KEY, TOKEN, URL, VALID

CREDENTIALS: Any = {"email": "ada@example.com", "password": "of-ada"}

# supabase-py's asynchronous client runs on asyncio only.
pytestmark = pytest.mark.parametrize("colour", ["sync", "asyncio"])


class AuthServer:
    """Answers as Supabase Auth does, with tokens numbered in the order of their issue."""

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
def server() -> AuthServer:
    return AuthServer()


@pytest.fixture
def route(server: AuthServer) -> Iterator[respx.Route]:
    """The function that the tests call; its requests show whom the client acts as."""
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        router.post("/auth/v1/token").mock(side_effect=server.token)
        router.post("/auth/v1/logout").respond(204)
        yield router.post("/rest/v1/rpc/verify_api_key").respond(json=VALID)


async def make_supabase(colour: str, url: str = URL, **options: Any) -> Any:
    if colour == "sync":
        return supabase.create_client(url, KEY, supabase.ClientOptions(**options))
    return await supabase.create_async_client(url, KEY, supabase.AsyncClientOptions(**options))


async def identity(client: Any, route: respx.Route) -> str:
    assert await settle(client.api_keys.verify(API_KEY))
    headers = route.calls.last.request.headers
    assert headers["apikey"] == KEY
    return str(headers["Authorization"]).removeprefix("Bearer ")


async def test_follows_the_session(colour: str, client_class: Any, route: respx.Route) -> None:
    base = await make_supabase(colour, auto_refresh_token=False)
    client = client_class.from_supabase(base)
    assert type(client) is client_class
    assert client.url == URL
    assert await identity(client, route) == KEY
    await settle(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(client, route) == "token-1"
    patient = client.with_options(timeout=60)
    await settle(base.auth.refresh_session())
    assert await identity(client, route) == await identity(patient, route) == "token-2"
    await settle(base.auth.sign_out())
    assert await identity(client, route) == await identity(patient, route) == KEY
    await close(client)


async def test_follows_what_supabase_py_refreshes_by_itself(
    colour: str, client_class: Any, route: respx.Route, server: AuthServer
) -> None:
    server.lifetime = 2  # so the refresh is due within 1.5 s
    base = await make_supabase(colour)
    client = client_class.from_supabase(base)
    await settle(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(client, route) == "token-1"
    server.lifetime = 3600
    with anyio.fail_after(5):
        while await identity(client, route) != "token-2":  # noqa: ASYNC110 - no event for both
            await anyio.sleep(0.02)
    await settle(base.auth.sign_out())
    await close(client)


async def test_a_session_from_before_is_used(
    colour: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(colour, auto_refresh_token=False)
    await settle(base.auth.sign_in_with_password(CREDENTIALS))
    client = client_class.from_supabase(base)
    assert await identity(client, route) == "token-1"
    await close(client)


async def test_a_token_of_another_issuer_is_used(
    colour: str, client_class: Any, route: respx.Route
) -> None:
    base = await make_supabase(colour, headers={"Authorization": f"Bearer {TOKEN}"})
    client = client_class.from_supabase(base)
    assert await identity(client, route) == TOKEN
    await close(client)


async def test_as_user_follows_no_more(colour: str, client_class: Any, route: respx.Route) -> None:
    base = await make_supabase(colour, auto_refresh_token=False)
    client = client_class.from_supabase(base)
    user = client.as_user(TOKEN)
    await settle(base.auth.sign_in_with_password(CREDENTIALS))
    assert await identity(user, route) == TOKEN
    await close(client)


async def test_has_its_own_connections_and_options(
    colour: str, client_class: Any, route: respx.Route, pauses: list[float]
) -> None:
    base = await make_supabase(colour, f"{URL}/")
    client = client_class.from_supabase(base, timeout=3, max_retries=1)
    assert client.url == URL
    route.mock(side_effect=[httpx.Response(503), httpx.Response(200, json=VALID)])
    await identity(client, route)
    assert len(pauses) == 1
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0
    await close(client)
    assert not base.auth._http_client.is_closed


@pytest.mark.parametrize("option", [{"timeout": 0}, {"max_retries": -1}])
async def test_refuses_unusable_options(
    colour: str, client_class: Any, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        client_class.from_supabase(await make_supabase(colour), **option)


async def test_refuses_a_client_of_the_other_kind(colour: str, client_class: Any) -> None:
    other, ours = ("asyncio", "AsyncAudienceLab") if colour == "sync" else ("sync", "AudienceLab")
    with pytest.raises(ConfigurationError, match=rf"pass it to {ours}\.from_supabase"):
        client_class.from_supabase(await make_supabase(other))


@pytest.mark.parametrize("value", [None, URL, {"key": KEY}, AudienceLab, AsyncAudienceLab])
async def test_refuses_what_is_no_client(colour: str, client_class: Any, value: Any) -> None:
    maker = r"supabase\.create_client" if colour == "sync" else r"supabase\.create_async_client"
    with pytest.raises(
        ConfigurationError, match=f" not {type(value).__name__}: .*{maker}"
    ) as caught:
        client_class.from_supabase(value)
    assert KEY not in str(caught.value)
