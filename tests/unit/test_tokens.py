"""The tokens of a client that acts as an API key, over time."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx
import jwt
import pytest
import respx
from pydantic import SecretStr

from audiencelab_sdk import ServerError, _tokens
from audiencelab_sdk._process import this_process
from audiencelab_sdk._signing_keys import SigningKey
from audiencelab_sdk._tokens import ApiKeyTokens
from tests.unit._both_clients import maybe_await
from tests.unit._private_keys import EC, EC_JWK_TEXT
from tests.unit._samples import ACCOUNT, API_KEY, JOB, KEY_ID, TOKEN, VALID

SECRET = "a-secret-of-at-least-thirty-two-bytes"
START = 1_750_000_000.25


class Clock:
    """The time, which passes only when a test says so, and how often a key signs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.signatures = 0
        sign = SigningKey.sign

        def counted(key: SigningKey, claims: Any) -> SecretStr:
            self.signatures += 1
            return sign(key, claims)

        monkeypatch.setattr(_tokens, "time", SimpleNamespace(time=lambda: self.now))
        monkeypatch.setattr(SigningKey, "sign", counted)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def route(api: respx.MockRouter) -> respx.Route:
    return api.post("/rpc/verify_api_key").respond(json=VALID)


def claims_of(request: httpx.Request) -> dict[str, Any]:
    token = request.headers["Authorization"].removeprefix("Bearer ")
    return dict(jwt.decode(token, options={"verify_signature": False}))


async def expiry(client: Any, route: respx.Route) -> int:
    """Return when the token of the client's next request expires, in seconds after the start."""
    assert await maybe_await(client.api_keys.verify(API_KEY))
    return int(claims_of(route.calls.last.request)["exp"] - int(START))


@pytest.mark.parametrize("key", [{"jwt_secret": SECRET}, {"signing_key": EC_JWK_TEXT}])
async def test_a_token_is_renewed_before_it_expires(
    client: Any, route: respx.Route, clock: Clock, key: dict[str, Any]
) -> None:
    as_key = client.as_api_key(KEY_ID, **key)
    assert [await expiry(as_key, route) for _ in range(3)] == [300] * 3
    clock.now += 239
    assert await expiry(as_key, route) == 300
    assert clock.signatures == 1
    clock.now += 1
    assert [await expiry(as_key, route) for _ in range(3)] == [540] * 3
    assert clock.signatures == 2
    clock.now += 86_400
    assert await expiry(as_key, route) == 86_940


async def test_a_token_states_when_it_was_signed(
    client: Any, route: respx.Route, clock: Clock
) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=SECRET, expires_in=timedelta(minutes=2))
    clock.now += 500
    await expiry(as_key, route)
    claims = claims_of(route.calls.last.request)
    issued = int(START) + 500
    assert claims == {"role": "api_key", "sub": KEY_ID, "iat": issued, "exp": issued + 120}


@pytest.mark.parametrize("change", [-1, -3600, 300])
async def test_a_token_is_renewed_after_the_clock_was_set(
    client: Any, route: respx.Route, clock: Clock, change: int
) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=SECRET)
    clock.now += change
    assert await expiry(as_key, route) == change + 300


@pytest.mark.parametrize(
    ("milliseconds", "step"), [(1, 0.4), (500, 0.1), (1000, 0.3), (1500, 0.7), (3000, 0.2)]
)
async def test_short_lifetimes(
    client: Any, route: respx.Route, clock: Clock, milliseconds: int, step: float
) -> None:
    as_key = client.as_api_key(
        KEY_ID, jwt_secret=SECRET, expires_in=timedelta(milliseconds=milliseconds)
    )
    for _ in range(20):
        clock.now += step
        assert await expiry(as_key, route) > clock.now - int(START)


async def test_each_attempt_has_a_valid_token(
    client: Any, route: respx.Route, clock: Clock, pauses: list[float]
) -> None:
    def fail_late(_: httpx.Request) -> httpx.Response:
        clock.now += 250
        return httpx.Response(503)

    as_key = client.as_api_key(KEY_ID, jwt_secret=SECRET)
    assert await expiry(as_key, route) == 300
    route.mock(side_effect=fail_late)
    with pytest.raises(ServerError):
        await maybe_await(as_key.api_keys.verify(API_KEY))
    expiries = [claims_of(call.request)["exp"] - int(START) for call in route.calls]
    assert expiries == [300, 300, 550, 800]
    assert len(pauses) == 2


async def test_with_options_keeps_the_renewal_and_as_user_ends_it(
    client: Any, route: respx.Route, clock: Clock
) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=SECRET)
    patient = as_key.with_options(timeout=60)
    clock.now += 1000
    assert await expiry(patient, route) == await expiry(as_key, route) == 1300
    assert clock.signatures == 2
    assert await maybe_await(patient.as_user(TOKEN).api_keys.verify(API_KEY))
    assert route.calls.last.request.headers["Authorization"] == f"Bearer {TOKEN}"


async def test_the_api_key_creates_rows_after_a_renewal(
    client: Any, api: respx.MockRouter, clock: Clock
) -> None:
    as_key = client.as_api_key(KEY_ID, signing_key=EC_JWK_TEXT)
    api.post("/enrichment_tracking").mock(
        side_effect=lambda request: httpx.Response(201, json=[JOB | json.loads(request.content)[0]])
    )
    clock.now += 1000
    assert await maybe_await(as_key.enrichment.create(ACCOUNT, ACCOUNT, "email"))


@pytest.fixture
def tokens(clock: Clock) -> ApiKeyTokens:
    return ApiKeyTokens(KEY_ID, SigningKey("ES256", "k", EC), timedelta(minutes=5))


def test_threads_sign_one_token_between_them(tokens: ApiKeyTokens, clock: Clock) -> None:
    for signatures in (1, 2, 3):
        start = threading.Barrier(16)

        def take(start: threading.Barrier = start) -> str:
            start.wait(10)
            return tokens().get_secret_value()

        with ThreadPoolExecutor(16) as pool:
            taken = {each.result(10) for each in [pool.submit(take) for _ in range(16)]}
        assert len(taken) == 1
        assert clock.signatures == signatures
        clock.now += 300


def test_a_thread_that_waits_for_another_does_not_sign_again(
    tokens: ApiKeyTokens, clock: Clock
) -> None:
    class SignedMeanwhile:
        def __enter__(self) -> None:
            tokens._token = tokens._signed()

        def __exit__(self, *_: object) -> None:
            pass

    tokens._locks[this_process()] = cast("Any", SignedMeanwhile())
    clock.now += 300
    assert tokens() == tokens._token.text
    assert clock.signatures == 2


def test_a_child_does_not_wait_for_a_thread_of_its_parent(
    tokens: ApiKeyTokens, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now += 300
    first = tokens()
    clock.now += 300
    (lock,) = tokens._locks.values()
    with lock, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(_tokens, "this_process", lambda: (0, 1))
        assert pool.submit(tokens).result(10) != first
    assert clock.signatures == 3
