"""The gateway's treatment of keys and tokens, in front of an application that repeats them."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from audiencelab_sdk.local import LocalStack, _keys
from audiencelab_sdk.local.rest import gateway
from audiencelab_sdk.local.rest.gateway import Gateway
from audiencelab_sdk.local.rest.server import BackgroundServer

PUBLISHABLE, SECRET = _keys.PUBLISHABLE_KEY, _keys.SECRET_KEY
ANON, SERVICE_ROLE = _keys.project_key("anon"), _keys.project_key("service_role")
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0"


async def repeat(scope: Any, receive: Any, send: Any) -> None:
    """Respond with the Authorization header."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b", ".join(values)})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = BackgroundServer(Gateway(repeat, _keys.tokens_of_keys()))
    yield f"http://127.0.0.1:{server.start()}/rest/v1/x"
    server.stop()


def get(url: str, key: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers={"apikey": key} | headers)


def forwarded(url: str, key: str, **headers: str) -> str:
    response = get(url, key, **headers)
    assert response.status_code == 200
    return response.text.removeprefix("Bearer ")


@pytest.mark.parametrize(("key", "role"), [(PUBLISHABLE, "anon"), (SECRET, "service_role")])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_key_that_is_no_jwt_becomes_a_short_lived_token_of_its_role(
    url: str, key: str, role: str, *, repeated: bool
) -> None:
    headers = {"Authorization": f"Bearer {key}"} if repeated else {}
    claims = jwt.decode(forwarded(url, key, **headers), _keys.JWT_SECRET, algorithms=["HS256"])
    assert claims["role"] == role
    assert 0 < claims["exp"] - claims["iat"] <= 60


@pytest.mark.parametrize("key", [ANON, SERVICE_ROLE])
def test_a_key_that_is_a_jwt_is_its_own_token(url: str, key: str) -> None:
    assert forwarded(url, key) == key


@pytest.mark.parametrize("key", [PUBLISHABLE, SECRET, ANON, SERVICE_ROLE])
@pytest.mark.parametrize("token", ["a.b.c", "sb_secret_other", f"{SECRET}x", f"{ANON}x"])
def test_another_token_is_forwarded_unchanged(url: str, key: str, token: str) -> None:
    assert forwarded(url, key, Authorization=f"Bearer {token}") == token
    assert forwarded(url, key, Authorization=token) == token


def test_the_other_key_as_a_token_is_forwarded_unchanged(url: str) -> None:
    assert forwarded(url, PUBLISHABLE, Authorization=f"Bearer {SECRET}") == SECRET
    assert forwarded(url, ANON, Authorization=f"Bearer {SECRET}") == SECRET


@pytest.mark.parametrize(
    "key",
    ["", "wrong", SECRET[:-1], f"{SECRET}x", SECRET.upper(), "sb_secret_", "sb_publishable_x"],
)
def test_another_key_is_rejected(url: str, key: str) -> None:
    response = get(url, key)
    assert (response.status_code, list(response.json())) == (401, ["message"])


def test_a_secret_key_from_a_browser_is_rejected(url: str) -> None:
    for headers in ({}, {"Authorization": f"Bearer {SECRET}"}, {"Authorization": "Bearer a.b.c"}):
        response = get(url, SECRET, **{"User-Agent": CHROME}, **headers)
        assert response.status_code == 401
        assert response.json()["message"] == "Forbidden use of secret API key in browser"
        assert response.json()["hint"].startswith("Secret API keys can only be used in a protected")
        assert response.headers["access-control-allow-origin"] == "*"
    for key in (PUBLISHABLE, ANON, SERVICE_ROLE):
        assert get(url, key, **{"User-Agent": CHROME}).status_code == 200
    for agent in ("python-httpx/0.28", "curl/8.5.0", "node", "like Mozilla/5.0"):
        assert get(url, SECRET, **{"User-Agent": agent}).status_code == 200


def test_every_key_is_compared_in_constant_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return secrets.compare_digest(given, known)

    monkeypatch.setattr(gateway, "compare_digest", compare)
    for key in (PUBLISHABLE, SECRET, "wrong"):
        compared.clear()
        get(url, key)
        assert {each.decode() for each in compared} == {PUBLISHABLE, SECRET, ANON, SERVICE_ROLE}


def test_postgrest_rejects_a_key_as_a_token(stack: LocalStack) -> None:
    url = f"{stack.url}/rest/v1/accounts?select=id"
    assert get(url, stack.secret_key).status_code == 200
    assert get(url, stack.publishable_key).json()["code"] == "42501"
    rejected = get(url, stack.publishable_key, Authorization=f"Bearer {stack.secret_key}")
    assert (rejected.status_code, rejected.json()["code"]) == (401, "PGRST301")
    assert rejected.json()["message"] == "Expected 3 parts in JWT; got 1"
