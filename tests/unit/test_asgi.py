"""API keys in applications of Starlette: refusals, usage, rate limits and websockets."""

import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import respx
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from audiencelab_sdk import (
    APIConnectionError,
    AsyncAudienceLab,
    AsyncUsageRecorder,
    AuthenticationOverloadedError,
    ConfigurationError,
    InvalidArgumentError,
    RateLimitError,
    Scope,
)
from audiencelab_sdk._asgi import _auth, _exchanges, _rate_limits
from audiencelab_sdk._asgi._requests import template_of
from audiencelab_sdk.starlette import (
    ApiKeyAuth,
    ApiKeyBackend,
    Caller,
    Problem,
    install_error_handlers,
)
from audiencelab_sdk.testing import AsyncFakeAuthenticator, authenticated_key
from tests.unit._asgi import connect, denial, get, messages_of, running
from tests.unit._backends import event, invented
from tests.unit._private_keys import EC, EC_JWK_TEXT, KID, jwk, pem, secrets_of
from tests.unit._samples import ACCOUNT, API_KEY, KEY, KEY_ID, URL
from tests.unit.test_recorders import Log, all_logged

READ = Scope(entity_type="segment", entity_id="*", action="read")
READ_42 = Scope(entity_type="segment", entity_id="42", action="read")
READER = {"X-API-Key": "sk_reader"}
ONE = {"Authorization": "bearer  sk_one"}
PROBLEM = "application/problem+json"


def request_without_an_app() -> Request:
    return Request({"type": "http", "headers": [(b"x-api-key", b"sk_reader")], "path": "/"})


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client() -> AsyncIterator[AsyncAudienceLab]:
    async with AsyncAudienceLab(URL, KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def keys() -> AsyncFakeAuthenticator:
    return AsyncFakeAuthenticator({"sk_reader": [READ], "sk_one": [READ_42], "sk_none": []})


@pytest.fixture
def auth(client: AsyncAudienceLab, keys: AsyncFakeAuthenticator) -> ApiKeyAuth:
    return ApiKeyAuth(client, authenticator=keys, usage=True)


def routes(auth: ApiKeyAuth) -> list[Any]:  # noqa: C901 - one function for each route
    async def read(request: Request) -> Response:
        caller = await auth.check(request, "segment", "read", id="segment_id")
        return JSONResponse([caller.name, str(caller.account_id)])

    async def any_key(request: Request) -> Response:
        return PlainTextResponse((await auth.authenticate(request)).name)

    async def export(request: Request) -> Response:
        await auth.check(request, "segment", "read")
        return PlainTextResponse("all")

    async def fail(request: Request) -> Response:
        await auth.authenticate(request)
        raise ZeroDivisionError

    async def odd(request: Request) -> Response:
        await auth.authenticate(request)
        return PlainTextResponse("odd", 42)

    async def stream(request: Request) -> Response:
        await auth.authenticate(request)

        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            if "cut" in request.url.path:
                raise ZeroDivisionError
            yield b"b"

        return StreamingResponse(parts(), 206)

    async def hang(request: Request) -> Response:
        await auth.authenticate(request)
        await anyio.sleep_forever()
        raise AssertionError

    async def opened(_: Request) -> Response:
        return PlainTextResponse("open")

    async def socket(websocket: WebSocket) -> None:
        caller = await auth.check(websocket, "segment", "read", id="42")
        await websocket.accept()
        await websocket.send_text(caller.name)
        await websocket.close()

    async def late(websocket: WebSocket) -> None:
        await websocket.accept()
        await auth.authenticate(websocket)

    async def shut(websocket: WebSocket) -> None:
        await auth.authenticate(websocket)
        await websocket.close()

    return [
        Route("/v1/segments/{segment_id}", read),
        Mount("/tenants/{tenant}", routes=[Route("/segments/{segment_id:path}", read)]),
        Route("/any", any_key),
        Route("/export", export),
        Route("/fail", fail),
        Route("/odd", odd),
        Route("/stream", stream),
        Route("/cut", stream),
        Route("/hang", hang),
        Route("/open", opened),
        WebSocketRoute("/socket/{segment_id}", socket),
        WebSocketRoute("/late", late),
        WebSocketRoute("/shut", shut),
    ]


@pytest.fixture
def app(auth: ApiKeyAuth) -> Starlette:
    return Starlette(routes=routes(auth), lifespan=auth.lifespan)


async def test_a_valid_key_with_the_scope(app: Starlette) -> None:
    for headers in (READER, ONE, {"authorization": "Bearer sk_one"}):
        response = await get(app, "/v1/segments/42", headers)
        assert response.status == 200
        assert response.json[0] == "test"
    assert (await get(app, "/any", {"x-api-key": "sk_none"})).status == 200
    assert (await get(app, "/export", READER)).status == 200
    assert (await get(app, "/open")).body == b"open"


REFUSED: list[tuple[Any, str]] = [
    ({}, "Bearer"),
    ({"X-API-Key": ""}, 'Bearer error="invalid_token"'),
    ({"X-API-Key": "sk_other"}, 'Bearer error="invalid_token"'),
    ({"X-API-Key": "sk_\0\xff"}, 'Bearer error="invalid_token"'),
    ({"Authorization": "Bearer eyJ.a.token"}, "Bearer"),
    ({"Authorization": "Basic sk_reader"}, "Bearer"),
]


@pytest.mark.parametrize(("headers", "challenge"), REFUSED)
async def test_no_valid_key(app: Starlette, headers: Any, challenge: str) -> None:
    response = await get(app, "/v1/segments/42", headers)
    assert response.status == 401
    assert response.headers["www-authenticate"] == challenge
    assert response.headers["content-type"] == PROBLEM
    assert response.json["title"] == "Unauthorized"
    assert response.json["status"] == 401
    assert response.json["type"] == "about:blank"


@pytest.mark.parametrize(
    "headers",
    [
        [("X-API-Key", "sk_reader"), ("Authorization", "Bearer sk_reader")],
        [("X-API-Key", "sk_reader")] * 10,
    ],
)
async def test_several_keys(app: Starlette, headers: Any) -> None:
    response = await get(app, "/v1/segments/42", headers)
    assert response.status == 400
    assert response.headers["content-type"] == PROBLEM
    assert "sk_reader" not in response.body.decode()


async def test_a_key_and_a_token_of_another_kind(app: Starlette) -> None:
    assert (await get(app, "/any", {**READER, "Authorization": "Bearer eyJ.a.b"})).status == 200


@pytest.mark.parametrize("path", ["/v1/segments/43", "/v1/segments/*", "/export"])
async def test_a_missing_scope(app: Starlette, path: str) -> None:
    response = await get(app, path, ONE)
    assert response.status == 403
    assert response.headers["content-type"] == PROBLEM
    assert response.json["missing_scope"] == {
        "entity_type": "segment",
        "entity_id": "43" if "43" in path else "*",
        "action": "read",
    }
    assert "insufficient_scope" in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (APIConnectionError("refused"), None),
        (AuthenticationOverloadedError(0.4), "1"),
        (AuthenticationOverloadedError(2.1), "3"),
    ],
)
async def test_keys_cannot_be_checked(
    app: Starlette,
    keys: AsyncFakeAuthenticator,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    retry_after: str | None,
) -> None:
    keys.error = error
    response = await get(app, "/any", READER)
    assert response.status == 503
    assert response.headers.get("retry-after") == retry_after
    assert f"cannot be checked: {error}" in caplog.text


async def test_what_prevents_checks_is_logged_once_a_minute(
    app: Starlette,
    keys: AsyncFakeAuthenticator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        for keys.error in [APIConnectionError("refused"), AuthenticationOverloadedError(1)] * 3:
            assert (await get(app, "/any", READER)).status == 503

    await fail()
    assert len(caplog.records) == 2
    monkeypatch.setattr(_auth, "_SECONDS_BETWEEN_LINES", 0.0)
    await fail()
    assert len(caplog.records) == 8


async def test_a_rate_limit_of_the_database(app: Starlette, keys: AsyncFakeAuthenticator) -> None:
    keys.error = RateLimitError(429, None, "slow down")
    keys.error.retry_after = 7
    response = await get(app, "/any", READER)
    assert response.status == 503
    assert response.headers["retry-after"] == "7"


async def test_an_own_handler_answers_instead(auth: ApiKeyAuth) -> None:
    async def handle(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return PlainTextResponse(f"own {error.detail}", error.status_code, error.headers)

    app = Starlette(routes=routes(auth), exception_handlers={HTTPException: handle})
    response = await get(app, "/any")
    assert response.status == 401
    assert response.body == b"own The request has no API key."
    assert response.headers["www-authenticate"] == "Bearer"
    app = Starlette(routes=routes(auth), exception_handlers={401: handle})
    assert (await get(app, "/any")).body.startswith(b"own")


async def test_errors_show_no_key(auth: ApiKeyAuth, keys: AsyncFakeAuthenticator) -> None:
    keys.error = APIConnectionError("refused")
    request = Request({"type": "http", "headers": [(b"x-api-key", API_KEY.encode())], "path": "/"})
    with pytest.raises(HTTPException) as caught:
        await auth.authenticate(request)
    assert caught.value.__cause__ is None
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [str(frame.locals) for frame in shown.stack if "audiencelab_sdk" in frame.filename]
    assert ours
    assert not any(API_KEY in text for text in ours)


async def sent(log: Log) -> list[dict[str, Any]]:
    return [each for batch in log.batches for each in batch]


@pytest.fixture
def log(api: respx.MockRouter) -> Log:
    return Log(api)


async def test_usage_is_logged_with_the_real_status(
    app: Starlette, auth: ApiKeyAuth, log: Log
) -> None:
    agent = {"User-Agent": "test/1.0 \xff"}
    async with running(app):
        recorder = auth.recorder
        await get(app, "/v1/segments/42", {**READER, **agent})
        await get(app, "/v1/segments/43", {**ONE, **agent}, client=("::ffff:192.0.2.7", 1))
        await get(app, "/tenants/t/segments/a/b", READER, client=("/run/x.sock", 0))
        await get(app, "/fail", READER, client=None)
        await get(app, "/stream", READER)
        await get(app, "/cut", READER)
        with anyio.move_on_after(0.05):
            await get(app, "/hang", READER)
        for path, headers in (("/open", READER), ("/any", {}), ("/any", {"X-API-Key": "sk_bad"})):
            await get(app, path, headers)
    assert recorder is not None
    assert auth.recorder is None
    logged = [
        (each["endpoint"], each["status_code"], each.get("ip_address"), each.get("user_agent"))
        for each in await sent(log)
    ]
    assert logged == [
        ("/v1/segments/{segment_id}", 200, "192.0.2.1", "test/1.0 \xff"),
        ("/v1/segments/{segment_id}", 403, "192.0.2.7", "test/1.0 \xff"),
        ("/tenants/{tenant}/segments/{segment_id}", 200, None, None),
        ("/fail", 500, None, None),
        ("/stream", 206, "192.0.2.1", None),
        ("/cut", 206, "192.0.2.1", None),
        ("/hang", 499, "192.0.2.1", None),
    ]
    assert {each["method"] for each in await sent(log)} == {"GET"}


@pytest.mark.parametrize(("longest_wait", "statuses"), [(1.0, [499]), (0.01, [])])
async def test_the_end_waits_for_requests_that_clean_up(
    auth: ApiKeyAuth,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    longest_wait: float,
    statuses: list[int],
) -> None:
    async def hang(request: Request) -> Response:
        await auth.authenticate(request)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)
        raise AssertionError

    async def cancelled() -> None:
        with anyio.move_on_after(0.02):
            await get(app, "/hang", READER)

    monkeypatch.setattr(_exchanges, "_LONGEST_WAIT", longest_wait)
    app = Starlette(routes=[Route("/hang", hang)], lifespan=auth.lifespan)
    async with anyio.create_task_group() as group, running(app):
        group.start_soon(cancelled)
        await anyio.sleep(0.05)
    assert [each["status_code"] for each in await sent(log)] == statuses


async def test_a_status_that_the_log_does_not_accept(app: Starlette, log: Log) -> None:
    async with running(app):
        await get(app, "/odd", READER)
        await get(app, "/any", READER)
    logged = [(each["endpoint"], each.get("status_code")) for each in await sent(log)]
    assert logged == [("/odd", None), ("/any", 200)]


async def test_an_application_runs_again(app: Starlette, log: Log) -> None:
    for _ in range(2):
        async with running(app):
            await get(app, "/any", READER)
    assert len(await sent(log)) == 2


async def test_an_own_recorder_stays_open(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator, log: Log
) -> None:
    async with AsyncUsageRecorder(client) as recorder:
        auth = ApiKeyAuth(client, authenticator=keys, usage=recorder)
        app = Starlette(routes=routes(auth), lifespan=auth.lifespan)
        async with running(app):
            await get(app, "/any", READER)
        assert recorder.statistics.queued == 1
        recorder.record(event())
    assert len(await sent(log)) == 2


async def test_each_auth_of_an_application_logs_for_itself(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator, log: Log
) -> None:
    async with AsyncUsageRecorder(client) as first, AsyncUsageRecorder(client) as second:
        auths = [
            ApiKeyAuth(client, authenticator=keys, usage=usage) for usage in (first, second, False)
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with auths[0].lifespan(app), auths[1].lifespan(app), auths[2].lifespan(app):
                yield

        app = Starlette(
            routes=[Mount(f"/{index}", routes=routes(auth)) for index, auth in enumerate(auths)],
            lifespan=lifespan,
        )
        async with running(app):
            for path in ("/0/any", "/0/any", "/1/any", "/2/any"):
                await get(app, path, READER)
        assert [each.statistics.queued for each in (first, second)] == [2, 1]


async def test_without_the_lifespan_usage_is_not_logged(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert (await get(app, "/any", READER)).status == 200
    assert caplog.text.count("auth.lifespan does not run") == 1


async def test_an_application_without_usage_and_limits_is_not_wrapped(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator
) -> None:
    auth = ApiKeyAuth(client, authenticator=keys)
    app = Starlette(routes=routes(auth), lifespan=auth.lifespan)
    async with running(app):
        assert (await get(app, "/any", READER)).status == 200
        assert auth.recorder is None


async def test_a_request_that_cannot_be_logged_is_answered(
    app: Starlette,
    log: Log,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    async with running(app):
        monkeypatch.setattr(AsyncUsageRecorder, "_record_plain", fail)
        assert (await get(app, "/any", READER)).status == 200
    assert "could not be added to the usage log" in caplog.text


async def test_websockets(app: Starlette, log: Log) -> None:
    async with running(app):
        for headers, status in (({}, 401), ({"X-API-Key": "sk_none"}, 403)):
            response = denial(await connect(app, "/socket/7", headers))
            assert response.status == status
            assert response.headers["content-type"] == PROBLEM
        messages = await connect(app, "/socket/7", ONE)
        assert [each["type"] for each in messages] == [
            "websocket.accept",
            "websocket.send",
            "websocket.close",
        ]
        (closed,) = await connect(app, "/socket/7", extensions={})
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        _, closed = await connect(app, "/late")
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        (closed,) = await connect(app, "/shut", READER)
        assert closed["code"] == 1000
    logged = [(each["endpoint"], each["method"], each["status_code"]) for each in await sent(log)]
    assert logged == [
        ("/socket/{segment_id}", "WEBSOCKET", 403),
        ("/socket/{segment_id}", "WEBSOCKET", 101),
        ("/shut", "WEBSOCKET", 403),
    ]


async def test_problems_of_open_and_closed_websockets() -> None:
    async def fail(websocket: WebSocket) -> None:
        await websocket.accept()
        raise Problem(409, "é" * 100)

    async def fail_after_the_end(websocket: WebSocket) -> None:
        await websocket.accept()
        if websocket.url.path == "/left":
            await websocket.receive()
        else:
            await websocket.close()
        raise Problem(409, "late")

    app = Starlette(
        routes=[
            WebSocketRoute("/open", fail),
            WebSocketRoute("/left", fail_after_the_end),
            WebSocketRoute("/closed", fail_after_the_end),
        ]
    )
    install_error_handlers(app)
    _, closed = await connect(app, "/open")
    assert (closed["code"], closed["reason"]) == (1008, "é" * 61)
    assert len(await connect(app, "/left")) == 1
    _, closed = await connect(app, "/closed")
    assert closed["code"] == 1000


@pytest.mark.parametrize(
    ("scope", "template"),
    [
        ({"path": "/a/b"}, "/a/b"),
        ({"path": "/"}, "/"),
        ({"path": ""}, "/"),
        ({"path": "/a/7/b", "path_params": {"id": 7}}, "/a/{id}/b"),
        ({"path": "/7/7", "path_params": {"id": 7, "other": 9}}, "/{id}/7"),
        ({"path": "/7/7/b", "path_params": {"id": 7, "other": 7}}, "/{id}/{other}/b"),
    ],
)
def test_templates_without_a_route(scope: Any, template: str) -> None:
    assert template_of(scope) == template


async def test_templates_below_mounts(auth: ApiKeyAuth, log: Log) -> None:
    async def answer(request: Request) -> Response:
        return PlainTextResponse("")

    below = [Route("/{y}", answer)]
    app = Starlette(
        routes=[
            Mount("/files", PlainTextResponse("")),
            Mount("/v1", routes=below),
            Mount("/t/{tenant}/api", routes=below),
            Mount("/z/{a}/{b}", routes=below),
        ],
        middleware=[Middleware(AuthenticationMiddleware, backend=ApiKeyBackend(auth))],
        lifespan=auth.lifespan,
    )
    async with running(app):
        for path in ("/files/a/b.txt", "/v1/no/route", "/v1/5", "/t/api/api/5", "/z/1/1/5"):
            await get(app, path, READER)
    assert [each["endpoint"] for each in await sent(log)] == [
        "/files/a/b.txt",
        "/v1/no/route",
        "/v1/{y}",
        "/t/{tenant}/api/{y}",
        "/z/{a}/{b}/{y}",
    ]


@pytest.fixture
def limited(client: AsyncAudienceLab, keys: AsyncFakeAuthenticator) -> Callable[..., Starlette]:
    def make(limit: Any, **options: Any) -> Starlette:
        auth = ApiKeyAuth(client, authenticator=keys, limit=limit, **options)
        return Starlette(routes=routes(auth), lifespan=auth.lifespan)

    return make


@pytest.mark.parametrize("app", [None, anyio.sleep])
async def test_the_lifespan_of_something_else(auth: ApiKeyAuth, app: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"auth\.lifespan\(app\)"):
        async with auth.lifespan(app):
            raise AssertionError


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_rate_limits(limited: Callable[..., Starlette]) -> None:
    app = limited("2/minute; 100/hour")
    async with running(app):
        for remaining in ("1", "0"):
            response = await get(app, "/any", READER)
            assert response.status == 200
            assert response.headers["ratelimit-limit"] == "2"
            assert response.headers["ratelimit-remaining"] == remaining
            assert 0 < int(response.headers["ratelimit-reset"]) <= 60
        response = await get(app, "/any", READER)
        assert response.status == 429
        assert response.headers["content-type"] == PROBLEM
        assert 0 < int(response.headers["retry-after"]) <= 60
        assert (await get(app, "/any", ONE)).status == 200
        assert (await get(app, "/open", READER)).status == 200
        assert denial(await connect(app, "/socket/1", READER)).status == 429


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_the_headers_of_rate_limits_are_in_the_message_that_has_headers(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator
) -> None:
    auth = ApiKeyAuth(client, authenticator=keys, limit="9/minute")

    async def debugged(scope: Any, receive: Any, send: Any) -> None:
        await auth.authenticate(Request(scope))
        await send({"type": "http.response.debug", "info": {}})
        await PlainTextResponse("")(scope, receive, send)

    async def late(websocket: WebSocket) -> None:
        await websocket.accept()
        await auth.authenticate(websocket)
        await websocket.send_text("")

    app = Starlette(
        routes=[
            Mount("/debugged", debugged),
            WebSocketRoute("/late", late),
            *routes(auth),
        ],
        lifespan=auth.lifespan,
    )
    async with running(app):
        messages = [
            *await messages_of(app, "/debugged/", READER),
            *await connect(app, "/late", READER),
            *await connect(app, "/socket/42", READER),
        ]
    limited = [
        each["type"]
        for each in messages
        if any(b"ratelimit" in name for name, _ in each.get("headers", ()))
    ]
    assert limited == ["http.response.start", "websocket.accept"]
    assert not any("headers" in each for each in messages if each["type"] == "websocket.send")


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_rate_limits_of_each_key(limited: Callable[..., Starlette]) -> None:
    app = limited(lambda caller: "1/minute" if caller.allows("segment", "*", "read") else None)
    for headers, statuses in ((READER, [200, 429]), (ONE, [200, 200])):
        for status in statuses:
            assert (await get(app, "/any", headers)).status == status


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_request_counts_once(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator
) -> None:
    auth = ApiKeyAuth(client, authenticator=keys, limit="2/minute")
    app = Starlette(
        routes=routes(auth),
        middleware=[Middleware(AuthenticationMiddleware, backend=ApiKeyBackend(auth))],
        lifespan=auth.lifespan,
    )
    async with running(app):
        assert (await get(app, "/any", READER)).headers["ratelimit-remaining"] == "1"
    for request in [request_without_an_app()] * 3 + [request_without_an_app()]:
        await auth.authenticate(request)
    with pytest.raises(Problem):
        await auth.authenticate(request_without_an_app())


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_refusal_has_the_headers_of_the_limit_that_is_exceeded(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator
) -> None:
    outer, inner = (
        ApiKeyAuth(client, authenticator=keys, limit=limit) for limit in ("9/minute", "1/minute")
    )
    app = Starlette(
        routes=routes(inner),
        middleware=[Middleware(AuthenticationMiddleware, backend=ApiKeyBackend(outer))],
        lifespan=outer.lifespan,
    )
    async with running(app):
        assert (await get(app, "/any", READER)).status == 200
        start, *_ = await messages_of(app, "/any", READER)
    assert start["status"] == 429
    assert [value for name, value in start["headers"] if name == b"ratelimit-limit"] == [b"1"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_application_that_starts_again_counts_anew(
    limited: Callable[..., Starlette],
) -> None:
    app = limited("1/minute")
    for _ in range(2):
        async with running(app):
            assert [(await get(app, "/any", READER)).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_redis_cannot_be_reached(
    limited: Callable[..., Starlette], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        storage = f"redis://:secret@127.0.0.1:{unused.getsockname()[1]}"
        app = limited("1/minute", limit_storage=storage)
        async with running(app):
            assert [(await get(app, "/any", READER)).status for _ in range(2)] == [200, 429]
    assert caplog.text.count("the storage fails: ConnectionError") == 1
    assert "secret" not in caplog.text


async def test_wrong_limits(
    limited: Callable[..., Starlette], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="limit must be such as"):
        limited("many")
    for wrong in (100, b"1/minute", anyio.sleep, partial(anyio.sleep, 1)):
        with pytest.raises(ConfigurationError, match="limit must be a text"):
            limited(wrong)
    with pytest.raises(ConfigurationError, match="storage"):
        limited("1/minute", limit_storage="nothing://secret")
    with pytest.raises(ConfigurationError, match="malformed") as malformed:
        limited("1/minute", limit_storage="redis://:secret@host:port")
    assert "secret" not in str(malformed.value)
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"audiencelab-sdk\[redis\]"):
        limited("1/minute", limit_storage="redis://localhost")
    monkeypatch.setitem(__import__("sys").modules, "limits.aio.strategies", None)
    with pytest.raises(ConfigurationError, match=r"audiencelab-sdk\[limits\]"):
        limited("1/minute")
    assert _rate_limits.parsed("5/second")[0].amount == 5


async def test_the_backend_of_the_authentication_middleware(
    auth: ApiKeyAuth, keys: AsyncFakeAuthenticator, log: Log
) -> None:
    @requires(["authenticated", "segment:read"])
    async def read(request: Request) -> Response:
        user = request.user
        return JSONResponse(
            [user.is_authenticated, user.display_name, user.identity, list(request.auth.scopes)]
        )

    @requires("segment:42:read")
    async def read_42(request: Request) -> Response:
        return PlainTextResponse(request.user.caller.name)

    app = Starlette(
        routes=[Route("/all", read), Route("/42", read_42), *routes(auth)],
        middleware=[
            Middleware(
                AuthenticationMiddleware,
                backend=ApiKeyBackend(auth),
                on_error=ApiKeyBackend.on_error,
            )
        ],
        lifespan=auth.lifespan,
    )
    async with running(app):
        response = await get(app, "/all", READER)
        assert response.json[:2] == [True, "test"]
        assert response.json[3] == ["authenticated", "segment:read"]
        statuses = {
            (path, headers.get("X-API-Key")): (await get(app, path, headers)).status
            for path in ("/all", "/42", "/open")
            for headers in (READER, {"X-API-Key": "sk_one"}, {"X-API-Key": "sk_none"}, {})
        }
        response = await get(app, "/open", {"X-API-Key": "sk_bad"})
        assert response.status == 401
        assert response.headers["content-type"] == PROBLEM
        keys.error = APIConnectionError("refused")
        assert (await get(app, "/open", READER)).status == 503
    assert {place: status for place, status in statuses.items() if status == 200} == {
        ("/all", "sk_reader"): 200,
        ("/42", "sk_reader"): 200,
        ("/42", "sk_one"): 200,
        ("/open", "sk_reader"): 200,
        ("/open", "sk_one"): 200,
        ("/open", "sk_none"): 200,
        ("/open", None): 200,
    }
    assert {each["endpoint"] for each in await sent(log)} == {"/all", "/42", "/open"}
    assert ApiKeyBackend.on_error(Request({"type": "http"}), ValueError("other")).status_code == 400


@pytest.mark.parametrize(
    "options",
    [
        {"jwt_secret": "a-secret-of-at-least-thirty-two-bytes"},
        {"signing_key": EC_JWK_TEXT},
        {"signing_key": jwk(EC)},
        {"signing_key": pem(EC), "kid": KID},
    ],
)
async def test_the_client_of_a_caller(
    client: AsyncAudienceLab, api: respx.MockRouter, options: dict[str, Any]
) -> None:
    caller = Caller(authenticated_key(READ))
    with pytest.raises(ConfigurationError, match="pass jwt_secret"):
        _ = caller.client
    assert caller.scopes == (READ,)
    assert caller.expires_at is None
    assert caller.metadata == {}
    assert str(caller.api_key_id) in repr(caller)

    keys = AsyncFakeAuthenticator({"sk_reader": [READ]})
    auth = ApiKeyAuth(client, authenticator=keys, **options)
    caller = await auth.authenticate(request_without_an_app())
    route = api.post("/rpc/get_api_key_account_id").respond(json=ACCOUNT)
    assert str(await caller.client.api_keys.account_id()) == ACCOUNT
    assert route.calls.last.request.headers["Authorization"] != f"Bearer {KEY}"
    secrets = [options.get("jwt_secret", KEY), *secrets_of(EC)]
    assert not any(secret in str(vars(auth)) for secret in secrets)


async def test_the_client_of_a_caller_is_made_once_and_the_key_read_once(
    client: AsyncAudienceLab, keys: AsyncFakeAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = ApiKeyAuth(client, authenticator=keys, signing_key=jwk(EC))
    monkeypatch.setattr("audiencelab_sdk._client.checked_signing_key", None)
    caller = await auth.authenticate(request_without_an_app())
    assert caller.client is caller.client


@pytest.mark.parametrize("options", [{"jwt_secret": "short"}, {"signing_key": "no key"}])
async def test_a_key_that_cannot_sign_is_refused_at_once(
    client: AsyncAudienceLab, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        ApiKeyAuth(client, **options)


async def test_the_default_authenticator(client: AsyncAudienceLab, api: respx.MockRouter) -> None:
    answer = {
        **json.loads(authenticated_key(READ).model_dump_json()),
        "api_key_id": KEY_ID,
    }
    route = api.post("/rpc/authenticate_api_key").respond(json=answer)
    auth = ApiKeyAuth(client)
    app = Starlette(routes=routes(auth), lifespan=auth.lifespan)
    for _ in range(3):
        assert (await get(app, "/any", {"X-API-Key": invented(1)})).status == 200
    assert route.call_count == 1
    assert json.loads(route.calls.last.request.content)["p_ip"] == "192.0.2.1"


async def test_a_header_of_a_megabyte(
    client: AsyncAudienceLab, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = Starlette(routes=routes(ApiKeyAuth(client)))
    for text in ("sk_" + "A" * 1_000_000, "sk_" + "A" * 43 + "\0", "A" * 10, "'; drop table x; --"):
        response = await get(app, "/any", {"X-API-Key": text})
        assert response.status == 401
        assert text not in response.body.decode()
    assert "AAAA" not in caplog.text


async def test_fakes_forget_keys(
    auth: ApiKeyAuth, keys: AsyncFakeAuthenticator, app: Starlette
) -> None:
    added = keys.add("sk_new", authenticated_key(READ, name="new"))
    assert added.name == "new"
    assert (await get(app, "/any", {"X-API-Key": "sk_new"})).body == b"new"
    keys.remove("sk_new")
    keys.remove("sk_new")
    assert (await get(app, "/any", {"X-API-Key": "sk_new"})).status == 401
    assert all_logged([]).status_code == 200
