"""Identities, headers, options and closing."""

import copy
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
import respx
from pydantic import SecretStr

from audiencelab_sdk import (
    AudienceLab,
    ClientClosedError,
    ConfigurationError,
    InvalidArgumentError,
    ServerError,
    __version__,
)
from audiencelab_sdk._secrets import header_secret
from tests.unit._both_clients import close, settle
from tests.unit._samples import API_KEY, KEY, KEY_ID, TOKEN, URL, VALID

JWT_SECRET = "a-secret-of-at-least-thirty-two-bytes"


@pytest.fixture
def route(api: respx.MockRouter) -> respx.Route:
    return api.post("/rpc/verify_api_key").respond(json=VALID)


async def headers_of(client: Any, route: respx.Route) -> httpx.Headers:
    assert await settle(client.api_keys.verify(API_KEY))
    headers: httpx.Headers = route.calls.last.request.headers
    return headers


async def test_the_key_is_the_identity_without_a_token(client: Any, route: respx.Route) -> None:
    headers = await headers_of(client, route)
    assert headers["apikey"] == KEY
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["X-Client-Info"] == f"audiencelab-sdk/{__version__}"
    assert headers["Accept"] == headers["Content-Type"] == "application/json"
    assert "X-Retry-Count" not in headers


async def test_cookies_of_one_identity_are_not_for_the_next(
    client: Any, route: respx.Route
) -> None:
    route.respond(json=VALID, headers={"Set-Cookie": "session=of-the-first; Path=/"})
    await headers_of(client, route)
    assert "Cookie" not in await headers_of(client.as_user(TOKEN), route)


@pytest.mark.parametrize("token", [TOKEN, SecretStr(TOKEN), f" {TOKEN}\n"])
async def test_as_user_is_another_client(
    client: Any, route: respx.Route, token: str | SecretStr
) -> None:
    user = client.as_user(token)
    assert type(user) is type(client)
    headers = await headers_of(user, route)
    assert (headers["apikey"], headers["Authorization"]) == (KEY, f"Bearer {TOKEN}")
    assert (await headers_of(client, route))["Authorization"] == f"Bearer {KEY}"


async def test_access_token_of_the_constructor(client_class: Any, route: respx.Route) -> None:
    client = client_class(URL, KEY, access_token=TOKEN)
    headers = await headers_of(client, route)
    await close(client)
    assert (headers["apikey"], headers["Authorization"]) == (KEY, f"Bearer {TOKEN}")


@pytest.mark.parametrize("secret", [JWT_SECRET, SecretStr(JWT_SECRET)])
async def test_as_api_key_mints_the_token(
    client: Any, route: respx.Route, secret: str | SecretStr
) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=secret, expires_in=timedelta(minutes=2))
    authorization = (await headers_of(as_key, route))["Authorization"]
    claims = jwt.decode(authorization.removeprefix("Bearer "), JWT_SECRET, algorithms=["HS256"])
    assert (claims["role"], claims["sub"]) == ("api_key", KEY_ID)
    assert claims["exp"] - claims["iat"] == 120
    assert abs(datetime.now(UTC).timestamp() - claims["iat"]) < 10


async def test_as_api_key_lasts_five_minutes(client: Any, route: respx.Route) -> None:
    authorization = (await headers_of(client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET), route))[
        "Authorization"
    ]
    claims = jwt.decode(authorization.removeprefix("Bearer "), JWT_SECRET, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"api_key_id": API_KEY}, "api_key_id must be a UUID"),
        ({"jwt_secret": "x" * 31}, "at least 32 bytes"),
        ({"jwt_secret": SecretStr("")}, "at least 32 bytes"),
        ({"jwt_secret": None}, "jwt_secret must be a str"),
        ({"expires_in": timedelta(0)}, "more than 0 seconds"),
        ({"expires_in": 300}, "must be a timedelta"),
    ],
)
async def test_as_api_key_refuses(client: Any, arguments: dict[str, Any], message: str) -> None:
    good = {"api_key_id": KEY_ID, "jwt_secret": JWT_SECRET, "expires_in": timedelta(minutes=1)}
    with pytest.raises(InvalidArgumentError, match=message):
        client.as_api_key(**(good | arguments))


@pytest.mark.parametrize("token", ["", None, "two words"])
async def test_as_user_refuses(client: Any, token: Any) -> None:
    with pytest.raises(ConfigurationError, match="access_token"):
        client.as_user(token)


async def test_with_options_keeps_the_identity(client: Any, route: respx.Route) -> None:
    user = client.as_user(TOKEN).with_options(timeout=3, max_retries=0)
    assert type(user) is type(client)
    headers = await headers_of(user, route)
    assert (headers["apikey"], headers["Authorization"]) == (KEY, f"Bearer {TOKEN}")
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0
    await headers_of(client, route)
    assert route.calls.last.request.extensions["timeout"]["read"] == 10.0


async def test_options_outlive_a_change_of_identity(client: Any, route: respx.Route) -> None:
    await headers_of(client.with_options(timeout=3).as_user(TOKEN), route)
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0


async def test_with_options_changes_only_what_is_given(
    client: Any, route: respx.Route, pauses: list[float]
) -> None:
    hasty = client.with_options(timeout=3).with_options(max_retries=1)
    route.respond(503)
    with pytest.raises(ServerError):
        await settle(hasty.api_keys.verify(API_KEY))
    assert len(pauses) == 1
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0
    with pytest.raises(ServerError):
        await settle(client.with_options().api_keys.verify(API_KEY))
    assert len(pauses) == 1 + 2


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": "3"}, {"max_retries": -1}])
async def test_with_options_refuses(client: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        client.with_options(**options)


async def test_a_closed_client_says_so(client: Any, route: respx.Route) -> None:
    user = client.as_user(TOKEN)
    await close(client)
    await close(client)
    for closed in (client, user, client.with_options(timeout=3)):
        with pytest.raises(ClientClosedError, match="closed"):
            await settle(closed.api_keys.verify(API_KEY))
    assert not route.called


async def test_closing_a_derived_client_leaves_the_connections(
    client: Any, route: respx.Route
) -> None:
    user = client.as_user(TOKEN)
    await close(user)
    await close(client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET))
    await close(client.with_options(timeout=3))
    assert await settle(client.api_keys.verify(API_KEY))
    assert await settle(user.api_keys.verify(API_KEY))


async def test_context_manager_closes(client_class: Any, route: respx.Route) -> None:
    if client_class is AudienceLab:
        with client_class(URL, KEY) as client:
            assert client.api_keys.verify(API_KEY)
    else:
        async with client_class(URL, KEY) as client:
            assert await client.api_keys.verify(API_KEY)
    with pytest.raises(ClientClosedError):
        await settle(client.api_keys.verify(API_KEY))


async def test_a_subclass_stays_itself(client_class: Any) -> None:
    class Ours(client_class):  # type: ignore[misc] # the base is one of two
        pass

    client = Ours(URL, KEY)
    assert type(client.as_user(TOKEN)) is Ours
    assert repr(client.as_user(TOKEN)) == f"Ours('{URL}')"
    await close(client)


async def test_url_with_a_path(client_class: Any) -> None:
    with respx.mock(base_url="https://host.test/supabase/rest/v1") as api:
        route = api.post("/rpc/verify_api_key").respond(json=VALID)
        client = client_class("https://host.test/supabase/", KEY)
        assert await settle(client.api_keys.verify(API_KEY))
        await close(client)
        assert route.called


def test_a_client_that_was_not_made_has_a_repr() -> None:
    assert repr(object.__new__(AudienceLab)) == "AudienceLab"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_client_is_neither_copied_nor_pickled(client: Any, duplicate: Any) -> None:
    for thing in (client, client.as_user(TOKEN), client.api_keys._driver):
        with pytest.raises(TypeError, match="create one in each process"):
            duplicate(thing)


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_close_and_aclose_are_the_same(client_class: Any, route: respx.Route) -> None:
    client = client_class(URL, KEY)
    await client.close()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await client.api_keys.verify(API_KEY)


async def test_a_session_without_a_token_is_a_typed_error(client: Any) -> None:
    def token() -> SecretStr:
        return header_secret("access_token", "")

    derived = client._from_settings(replace(client._settings, token=token), client._pool)
    with pytest.raises(ConfigurationError, match="access_token is empty"):
        await settle(derived.api_keys.verify(API_KEY))
