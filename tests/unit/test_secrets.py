"""No repr, log line, error or traceback shows a key or a token."""

import json
import logging
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    AudienceLabError,
    ConfigurationError,
    InvalidArgumentError,
    RequestAttempt,
)
from audiencelab_sdk._signing_keys import checked_signing_key, hidden_key
from audiencelab_sdk._tokens import ApiKeyTokens
from tests.unit._both_clients import close, maybe_await
from tests.unit._private_keys import EC, EC_JWK_TEXT, KID, RSA, jwk, pem, secrets_of
from tests.unit._samples import (
    ACCOUNT,
    API_KEY,
    CREATED,
    KEY,
    KEY_ID,
    LISTED,
    PUBLISHABLE_KEY,
    SECRET_KEY,
    TOKEN,
    URL,
    VALID,
)

JWT_SECRET = "a-secret-of-at-least-thirty-two-bytes"
PRIVATE = [*secrets_of(EC), *secrets_of(RSA)]
SECRETS = (KEY, TOKEN, API_KEY, JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY)


def assert_nothing_leaks(*texts: str) -> None:
    for text in texts:
        for secret in SECRETS:
            assert secret not in text


@pytest.fixture
async def user(client: Any) -> Any:
    return client.as_user(TOKEN)


async def test_reprs_of_clients_and_settings(client: Any, user: Any) -> None:
    as_key = client.as_api_key(KEY_ID, jwt_secret=JWT_SECRET)
    for each in (client, user, as_key):
        assert repr(each) == f"{type(client).__name__}('{URL}')"
        assert_nothing_leaks(str(each), str(vars(each)), repr(each.api_keys), repr(each._settings))


async def test_models(client: Any, api: respx.MockRouter) -> None:
    api.post("/rpc/create_api_key").respond(json=CREATED)
    created = await maybe_await(client.api_keys.create(ACCOUNT, "crm"))
    assert created.key.get_secret_value() == API_KEY
    assert_nothing_leaks(
        repr(created),
        str(created),
        str(created.model_dump()),
        created.model_dump_json(),
        f"{created.key}",
    )


async def test_logs(
    client: Any, user: Any, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.post("/rpc/create_api_key").respond(json=CREATED)
    api.post("/rpc/verify_api_key").respond(json=VALID)
    api.post("/rpc/list_api_keys").respond(json=[LISTED])
    await maybe_await(user.api_keys.create(ACCOUNT, "crm"))
    await maybe_await(client.api_keys.verify(API_KEY))
    await maybe_await(user.api_keys.list(ACCOUNT))
    assert_nothing_leaks(caplog.text, *(str(vars(record)) for record in caplog.records))


OUTCOMES: list[Any] = [
    httpx.Response(400, json={"message": "no", "details": "no"}),
    httpx.Response(401, text=f"bad key {KEY}, token {TOKEN}"),
    httpx.Response(403, json={"message": f"you sent {API_KEY}"}),
    httpx.Response(200, text=API_KEY),
    httpx.Response(200, json={"valid": API_KEY}),
    httpx.ReadTimeout("slow"),
    httpx.ConnectError("refused"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: repr(outcome)[:30])
async def test_errors_and_their_tracebacks(
    client_class: Any, api: respx.MockRouter, outcome: Any
) -> None:
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    owner = client_class(URL, KEY, max_retries=0)
    with pytest.raises(AudienceLabError) as caught:
        await maybe_await(owner.as_user(TOKEN).api_keys.verify(API_KEY))
    await close(owner)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert_nothing_leaks(
        str(error),
        repr(error),
        str(vars(error)),
        "".join(traceback.format_exception(error)),
        str(pickle.dumps(error)),
    )


async def test_local_variables_of_a_failed_request(client: Any, api: respx.MockRouter) -> None:
    api.post("/rpc/log_api_key_usage").respond(400, json={"message": "no"})
    log_usage = client.as_user(TOKEN).api_keys.log_usage
    with pytest.raises(AudienceLabError) as caught:
        await maybe_await(log_usage(KEY_ID, endpoint="/", method="GET"))
    assert_no_frame_leaks(caught.value)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert not any("postgrest" in frame.filename or "httpx" in frame.filename for frame in frames)


async def test_local_variables_of_a_verification(client: Any, api: respx.MockRouter) -> None:
    api.post("/rpc/verify_api_key").mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(AudienceLabError) as caught:
        await maybe_await(client.with_options(max_retries=0).api_keys.verify(API_KEY))
    assert_no_frame_leaks(caught.value)


async def test_local_variables_of_a_failing_hook(
    client_class: Any, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: RequestAttempt) -> None:
        raise ZeroDivisionError

    api.post("/rpc/verify_api_key").respond(500, json={"message": "no"})
    client = client_class(URL, KEY, access_token=TOKEN, on_response=fail, max_retries=0)
    with pytest.raises(AudienceLabError):
        await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)
    (logged,) = [record.exc_info for record in caplog.records if record.exc_info]
    error = logged[1]
    assert isinstance(error, ZeroDivisionError)
    assert error.__context__ is None
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert_nothing_leaks(*(str(frame.locals) for frame in shown.stack))


async def test_local_variables_of_an_interrupted_call(
    client_class: Any, api: respx.MockRouter
) -> None:
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    api.post("/rpc/revoke_api_key").mock(side_effect=interrupt)
    client = client_class(URL, KEY, access_token=TOKEN, headers={"X-Gateway": "with-a-blank"})
    with pytest.raises(KeyboardInterrupt) as caught:
        await maybe_await(client.api_keys.revoke(KEY_ID))
    await close(client)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    named = [
        str(frame.locals)
        for frame in shown.stack
        if "audiencelab_sdk" in frame.filename or "postgrest" in frame.filename
    ]
    assert len(named) >= 5
    assert_nothing_leaks(*named)
    assert not any("with-a-blank" in text for text in named)


async def test_an_unusable_environment_leaks_no_password(
    client_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:with-a-blank@127.0.0.1:port")
    with pytest.raises(ConfigurationError) as caught:
        client_class(URL, KEY)
    assert caught.value.__context__ is None
    assert_no_frame_leaks(caught.value)


BLANK = "secret with-a-blank"
REFUSED: list[Callable[[Any], Any]] = [
    lambda kind: kind(URL, KEY, access_token=TOKEN, timeout=-1),
    lambda kind: kind(7, KEY, access_token=TOKEN),
    lambda kind: kind(URL, BLANK),
    lambda kind: kind(URL, KEY, access_token=BLANK),
    lambda kind: kind(URL, KEY.encode()),
    lambda kind: kind(URL, KEY, access_token=TOKEN.encode()),
    lambda kind: kind(URL, KEY, headers={"X-Gateway": b"with-a-blank"}),
    lambda kind: kind(URL, KEY, proxy=b"http://me:with-a-blank@proxy:1"),
    lambda kind: kind(URL, KEY, access_token=SECRET_KEY),
    lambda kind: kind(URL, PUBLISHABLE_KEY, timeout=-1),
    lambda kind: kind.from_env(access_token=TOKEN, max_retries=-1),
    lambda kind: kind(URL, KEY, proxy="http://me:with-a-blank@proxy:1", timeout=-1),
    lambda kind: kind(URL, KEY, headers={"X-Gateway": "with-a-blank"}, timeout=-1),
    lambda kind: kind(URL, "key", api_key="sk_with-a-blank"),
    lambda kind: kind(URL, "sb_secret_x", api_key=API_KEY),
    lambda kind: kind.from_env(api_key=API_KEY, max_retries=-1),
    lambda kind: without_a_url(kind.from_env),
    lambda kind: kind(URL, "key").as_user(BLANK),
    lambda kind: kind(URL, "key").as_user(SECRET_KEY),
    lambda kind: kind(URL, "key").as_api_key("no uuid", jwt_secret=JWT_SECRET),
    lambda kind: kind(URL, "key").as_api_key(KEY_ID, jwt_secret="with-a-blank"),
]


def without_a_url(make: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPABASE_URL")
        return make()


@pytest.mark.parametrize("make", REFUSED)
def test_local_variables_of_refused_settings(
    client_kind: str, client_class: Any, make: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("SUPABASE_KEY", KEY)
    with pytest.raises(AudienceLabError) as caught:
        make(client_class)
    assert_no_frame_leaks(caught.value)


def assert_no_frame_leaks(error: BaseException) -> None:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in shown.stack if "audiencelab_sdk" in frame.filename]
    assert ours
    assert_nothing_leaks(*(str(frame.locals) for frame in ours))
    assert not any("with-a-blank" in str(frame.locals) for frame in ours)


@pytest.mark.parametrize("form", [jwk(EC), EC_JWK_TEXT, pem(EC), jwk(RSA), pem(RSA)])
def test_signing_keys_and_tokens_hide_what_they_hold(form: Any) -> None:
    hidden = hidden_key(form)
    key = checked_signing_key(None, hidden, KID)
    tokens = ApiKeyTokens(KEY_ID, key, timedelta(minutes=1))
    shown = f"{hidden!r} {key!r} {tokens!r} {vars(tokens)} {vars(key)} {tokens()!r}"
    assert tokens().get_secret_value() not in shown
    assert not [secret for secret in PRIVATE if secret in shown]


DAMAGED: list[dict[str, Any]] = [
    {"signing_key": jwk(EC), "kid": "another"},
    {"signing_key": jwk(EC), "api_key_id": "no uuid"},
    {"signing_key": jwk(EC), "expires_in": timedelta(0)},
    {"signing_key": jwk(EC, x="AA")},
    {"signing_key": jwk(EC, kid=None)},
    {"signing_key": jwk(RSA, alg="PS256")},
    {"signing_key": jwk(RSA, n="AQAB")},
    {"signing_key": {"keys": [jwk(EC), jwk(RSA)]}},
    {"signing_key": [jwk(EC)]},
    {"signing_key": json.dumps(jwk(RSA))[:-1]},
    {"signing_key": EC_JWK_TEXT, "kid": 5},
    {"signing_key": EC_JWK_TEXT, "jwt_secret": JWT_SECRET},
    {"signing_key": pem(RSA)},
    {"signing_key": pem(RSA)[:-40], "kid": KID},
    {"signing_key": pem(EC).encode(), "kid": KID},
    {"signing_key": bytearray(pem(RSA).encode()), "kid": KID},
    {"signing_key": JWT_SECRET},
    {"jwt_secret": JWT_SECRET.encode()},
    {"jwt_secret": pem(RSA)},
    {"jwt_secret": f"ssh-rsa {JWT_SECRET}"},
    {"jwt_secret": f"{JWT_SECRET}\ud800"},
    {"jwt_secret": jwk(EC)},
    {"jwt_secret": EC_JWK_TEXT},
]


@pytest.mark.parametrize("options", DAMAGED)
def test_local_variables_of_refused_signing_keys(
    client_kind: str, client_class: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = client_class(URL, KEY)
    arguments = {"api_key_id": KEY_ID, **options}
    with pytest.raises(InvalidArgumentError) as caught:
        client.as_api_key(**arguments)
    assert_no_frame_leaks(caught.value)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    texts = [str(frame.locals) for frame in frames if "test_secrets" not in frame.filename]
    shown = f"{texts} {caught.value!r} {vars(caught.value)} {caplog.text}"
    assert not [secret for secret in PRIVATE if secret in shown]


async def test_local_variables_of_a_wrong_call(client: Any) -> None:
    with pytest.raises(TypeError) as caught:
        await maybe_await(client.api_keys.verify(API_KEY, API_KEY))
    assert_no_frame_leaks(caught.value)
