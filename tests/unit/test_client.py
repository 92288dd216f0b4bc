"""Identities, headers, options and closing."""

import copy
import json
import pickle
from base64 import urlsafe_b64encode
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
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import (
    ACCOUNT,
    API_KEY,
    JOB,
    KEY,
    KEY_ID,
    PUBLISHABLE_KEY,
    SECRET_KEY,
    TOKEN,
    URL,
    VALID,
)

JWT_SECRET = "a-secret-of-at-least-thirty-two-bytes"


@pytest.fixture
def route(api: respx.MockRouter) -> respx.Route:
    return api.post("/rpc/verify_api_key").respond(json=VALID)


async def headers_of(client: Any, route: respx.Route) -> httpx.Headers:
    assert await maybe_await(client.api_keys.verify(API_KEY))
    headers: httpx.Headers = route.calls.last.request.headers
    return headers


async def test_requests_carry_the_key_without_a_token(client: Any, route: respx.Route) -> None:
    headers = await headers_of(client, route)
    assert headers["apikey"] == KEY
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["X-Client-Info"] == f"audiencelab-sdk/{__version__}"
    assert headers["Accept"] == headers["Content-Type"] == "application/json"
    assert "X-Retry-Count" not in headers


@pytest.mark.parametrize("key", [PUBLISHABLE_KEY, SECRET_KEY, SecretStr(f" {SECRET_KEY}\n")])
async def test_a_key_that_is_no_jwt_is_not_sent_as_a_token(
    client_class: Any, route: respx.Route, key: str | SecretStr
) -> None:
    client = client_class(URL, key)
    headers = await headers_of(client, route)
    assert headers["apikey"] in {PUBLISHABLE_KEY, SECRET_KEY}
    assert "Authorization" not in headers
    as_key = client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET)
    for derived in (client.as_user(TOKEN), client.as_user(TOKEN).with_options(timeout=3), as_key):
        derived_headers = await headers_of(derived, route)
        assert derived_headers["apikey"] == headers["apikey"]
        assert derived_headers["Authorization"].startswith("Bearer ")
    assert "Authorization" not in await headers_of(client.with_options(timeout=3), route)
    await close(client)


async def test_an_access_token_goes_with_a_key_that_is_no_jwt(
    client_class: Any, route: respx.Route
) -> None:
    client = client_class(URL, PUBLISHABLE_KEY, access_token=TOKEN)
    headers = await headers_of(client, route)
    await close(client)
    assert (headers["apikey"], headers["Authorization"]) == (PUBLISHABLE_KEY, f"Bearer {TOKEN}")


@pytest.mark.parametrize("token", [PUBLISHABLE_KEY, SecretStr(SECRET_KEY)])
async def test_a_key_of_the_project_is_no_access_token(
    client: Any, client_class: Any, token: str | SecretStr
) -> None:
    for use in (client.as_user, lambda token: client_class(URL, KEY, access_token=token)):
        with pytest.raises(ConfigurationError, match="access_token is a key of the project"):
            use(token)


async def test_nobody_creates_rows_with_a_key_that_is_no_jwt(
    client_class: Any, api: respx.MockRouter
) -> None:
    route = api.post("/enrichment_tracking")
    client = client_class(URL, SECRET_KEY)
    with pytest.raises(InvalidArgumentError, match="created_by is missing"):
        await maybe_await(client.enrichment.create(ACCOUNT, KEY_ID, "email"))
    await close(client)
    assert not route.called


@pytest.mark.parametrize("key", [PUBLISHABLE_KEY, KEY])
async def test_an_api_key_goes_in_a_header_of_its_own(
    client_class: Any, route: respx.Route, key: str
) -> None:
    client = client_class(URL, key, api_key=SecretStr(f" {API_KEY}\n"))
    for same in (client, client.with_options(timeout=3)):
        headers = await headers_of(same, route)
        assert (headers["apikey"], headers["x-api-key"]) == (key, API_KEY)
        assert headers.get("Authorization") == (f"Bearer {KEY}" if key == KEY else None)
    as_key = client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET)
    for other in (client.as_user(TOKEN), as_key):
        assert "x-api-key" not in await headers_of(other, route)
    await close(client)


async def test_an_api_key_creates_rows_without_a_creator(
    client_class: Any, api: respx.MockRouter
) -> None:
    def insert(request: httpx.Request) -> httpx.Response:
        (row,) = json.loads(request.content)
        assert "created_by" not in row
        return httpx.Response(201, json=[JOB | row])

    api.post("/enrichment_tracking").mock(side_effect=insert)
    client = client_class(URL, PUBLISHABLE_KEY, api_key=API_KEY)
    assert await maybe_await(client.enrichment.create(ACCOUNT, KEY_ID, "email"))
    await close(client)


@pytest.mark.parametrize("claims", [{"role": "authenticated", "sub": "no uuid"}, ["a list"], {}])
async def test_nobody_creates_rows_with_a_token_without_a_user(client: Any, claims: Any) -> None:
    payload = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgumentError, match="created_by is missing"):
        await maybe_await(
            client.as_user(f"a.{payload}.c").enrichment.create(ACCOUNT, KEY_ID, "email")
        )


async def test_cookies_are_not_shared_between_identities(client: Any, route: respx.Route) -> None:
    route.respond(json=VALID, headers={"Set-Cookie": "session=of-the-first; Path=/"})
    await headers_of(client, route)
    assert "Cookie" not in await headers_of(client.as_user(TOKEN), route)


@pytest.mark.parametrize("token", [TOKEN, SecretStr(TOKEN), f" {TOKEN}\n"])
async def test_as_user_returns_another_client(
    client: Any, route: respx.Route, token: str | SecretStr
) -> None:
    user = client.as_user(token)
    assert type(user) is type(client)
    headers = await headers_of(user, route)
    assert (headers["apikey"], headers["Authorization"]) == (KEY, f"Bearer {TOKEN}")
    assert (await headers_of(client, route))["Authorization"] == f"Bearer {KEY}"


async def test_the_constructor_takes_an_access_token(client_class: Any, route: respx.Route) -> None:
    client = client_class(URL, KEY, access_token=TOKEN)
    headers = await headers_of(client, route)
    await close(client)
    assert (headers["apikey"], headers["Authorization"]) == (KEY, f"Bearer {TOKEN}")


@pytest.mark.parametrize("secret", [JWT_SECRET, SecretStr(JWT_SECRET)])
async def test_as_api_key_signs_a_token(
    client: Any, route: respx.Route, secret: str | SecretStr
) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=secret, expires_in=timedelta(minutes=2))
    authorization = (await headers_of(as_key, route))["Authorization"]
    claims = jwt.decode(authorization.removeprefix("Bearer "), JWT_SECRET, algorithms=["HS256"])
    assert (claims["role"], claims["sub"]) == ("api_key", KEY_ID)
    assert claims["exp"] - claims["iat"] == 120
    assert abs(datetime.now(UTC).timestamp() - claims["iat"]) < 10


async def test_the_token_of_as_api_key_expires_after_five_minutes(
    client: Any, route: respx.Route
) -> None:
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
        ({"jwt_secret": None}, "pass jwt_secret"),
        ({"jwt_secret": b"x" * 32}, "jwt_secret must be a str or SecretStr, not bytes"),
        ({"expires_in": timedelta(0)}, "more than 0 seconds"),
        ({"expires_in": 300}, "must be a timedelta"),
    ],
)
async def test_as_api_key_rejects_invalid_arguments(
    client: Any, arguments: dict[str, Any], message: str
) -> None:
    good = {"api_key_id": KEY_ID, "jwt_secret": JWT_SECRET, "expires_in": timedelta(minutes=1)}
    with pytest.raises(InvalidArgumentError, match=message):
        client.as_api_key(**(good | arguments))


@pytest.mark.parametrize("token", ["", None, "two words"])
async def test_as_user_rejects_invalid_tokens(client: Any, token: Any) -> None:
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


async def test_as_user_keeps_the_options(client: Any, route: respx.Route) -> None:
    await headers_of(client.with_options(timeout=3).as_user(TOKEN), route)
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0


async def test_with_options_changes_only_the_given_options(
    client: Any, route: respx.Route, pauses: list[float]
) -> None:
    hasty = client.with_options(timeout=3).with_options(max_retries=1)
    route.respond(503)
    with pytest.raises(ServerError):
        await maybe_await(hasty.api_keys.verify(API_KEY))
    assert len(pauses) == 1
    assert route.calls.last.request.extensions["timeout"]["read"] == 3.0
    with pytest.raises(ServerError):
        await maybe_await(client.with_options().api_keys.verify(API_KEY))
    assert len(pauses) == 1 + 2


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": "3"}, {"max_retries": -1}])
async def test_with_options_rejects_invalid_options(client: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        client.with_options(**options)


async def test_a_closed_client_raises(client: Any, route: respx.Route) -> None:
    user = client.as_user(TOKEN)
    await close(client)
    await close(client)
    for closed in (client, user, client.with_options(timeout=3)):
        with pytest.raises(ClientClosedError, match="closed"):
            await maybe_await(closed.api_keys.verify(API_KEY))
    assert not route.called


async def test_closing_a_derived_client_keeps_the_connections_open(
    client: Any, route: respx.Route
) -> None:
    user = client.as_user(TOKEN)
    await close(user)
    await close(client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET))
    await close(client.with_options(timeout=3))
    assert await maybe_await(client.api_keys.verify(API_KEY))
    assert await maybe_await(user.api_keys.verify(API_KEY))


async def test_the_context_manager_closes_the_client(client_class: Any, route: respx.Route) -> None:
    if client_class is AudienceLab:
        with client_class(URL, KEY) as client:
            assert client.api_keys.verify(API_KEY)
    else:
        async with client_class(URL, KEY) as client:
            assert await client.api_keys.verify(API_KEY)
    with pytest.raises(ClientClosedError):
        await maybe_await(client.api_keys.verify(API_KEY))


async def test_derived_clients_keep_the_subclass(client_class: Any) -> None:
    class Ours(client_class):  # type: ignore[misc] # the base is one of two
        pass

    client = Ours(URL, KEY)
    assert type(client.as_user(TOKEN)) is Ours
    assert repr(client.as_user(TOKEN)) == f"Ours('{URL}')"
    await close(client)


async def test_the_url_may_have_a_path(client_class: Any) -> None:
    with respx.mock(base_url="https://host.test/supabase/rest/v1") as api:
        route = api.post("/rpc/verify_api_key").respond(json=VALID)
        client = client_class("https://host.test/supabase/", KEY)
        assert await maybe_await(client.api_keys.verify(API_KEY))
        await close(client)
        assert route.called


def test_repr_of_an_uninitialized_client() -> None:
    assert repr(object.__new__(AudienceLab)) == "AudienceLab"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_clients_cannot_be_copied_or_pickled(client: Any, duplicate: Any) -> None:
    for thing in (client, client.as_user(TOKEN), client.api_keys._driver):
        with pytest.raises(TypeError, match="create one in each process"):
            duplicate(thing)


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_close_and_aclose_are_synonyms(client_class: Any, route: respx.Route) -> None:
    client = client_class(URL, KEY)
    await client.close()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await client.api_keys.verify(API_KEY)


async def test_an_empty_session_token_raises_a_configuration_error(client: Any) -> None:
    def token() -> SecretStr:
        return header_secret("access_token", "")

    derived = client._from_settings(replace(client._settings, current_token=token), client._pool)
    with pytest.raises(ConfigurationError, match="access_token is empty"):
        await maybe_await(derived.api_keys.verify(API_KEY))


@pytest.mark.parametrize(
    ("role", "expected"), [("authenticated", KEY_ID), ("service_role", None), ("anon", None)]
)
async def test_the_user_of_an_access_token_creates_rows(
    client: Any, api: respx.MockRouter, role: str, expected: str | None
) -> None:
    token = jwt.encode({"role": role, "sub": KEY_ID}, JWT_SECRET, algorithm="HS256")
    route = api.post("/enrichment_tracking").mock(
        side_effect=lambda request: httpx.Response(201, json=[JOB | json.loads(request.content)[0]])
    )
    create = client.as_user(token).enrichment.create
    if expected is None:
        with pytest.raises(InvalidArgumentError, match="created_by is missing"):
            await maybe_await(create(ACCOUNT, KEY_ID, "email"))
        assert not route.called
    else:
        job = await maybe_await(create(ACCOUNT, KEY_ID, "email"))
        assert str(job.created_by) == expected
