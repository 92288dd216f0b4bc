"""API keys in applications of FastAPI: dependencies, OpenAPI, and errors as responses."""

import importlib
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import pytest
import respx
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from audiencelab_sdk import (
    APIConnectionError,
    AsyncAudienceLab,
    AudienceLabError,
    AuthenticationError,
    AuthenticationOverloadedError,
    ConflictError,
    InvalidArgumentError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RejectedApiKey,
    SchemaError,
    Scope,
    ServerError,
)
from audiencelab_sdk.fastapi import ApiKeyAuth, Caller, Problem, install_error_handlers
from audiencelab_sdk.testing import AsyncFakeAuthenticator, FakeAuthenticator, authenticated_key
from tests.unit._asgi import connect, denial, get, running
from tests.unit._samples import ACCOUNT, KEY, URL
from tests.unit.test_recorders import Log

READ = Scope(entity_type="segment", entity_id="*", action="read")
READER = {"X-API-Key": "sk_reader"}
PROBLEM = "application/problem+json"
SEGMENT = "7f3b5a52-8a4f-4d0e-9d0c-2f1f6f0c9a11"


@pytest.fixture
async def auth() -> AsyncIterator[ApiKeyAuth]:
    keys = AsyncFakeAuthenticator({"sk_reader": [READ], "sk_none": []})
    async with AsyncAudienceLab(URL, KEY) as client:
        yield ApiKeyAuth(client, authenticator=keys, usage=True)


@pytest.fixture
def app(auth: ApiKeyAuth) -> FastAPI:
    app = FastAPI(lifespan=auth.lifespan)
    router = APIRouter(prefix="/segments")

    @router.get("/{segment_id}")
    async def read_segment(
        segment_id: UUID,
        caller: Annotated[Caller, auth.require("segment", "read", id="segment_id")],
    ) -> list[str]:
        return [caller.name, str(segment_id)]

    @router.get("")
    def list_segments(caller: Annotated[Caller, auth.require_key()]) -> str:
        return caller.name

    @app.get("/open")
    async def opened() -> str:
        return "open"

    @app.websocket("/socket")
    async def socket(
        websocket: WebSocket, caller: Annotated[Caller, auth.require("segment", "read")]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(caller.name)
        await websocket.close()

    app.include_router(router, prefix="/v1")
    return app


async def test_dependencies(app: FastAPI) -> None:
    response = await get(app, f"/v1/segments/{SEGMENT}", READER)
    assert response.json == ["test", SEGMENT]
    assert (await get(app, "/v1/segments", {"X-API-Key": "sk_none"})).json == "test"
    assert (await get(app, "/open")).status == 200
    response = await get(app, f"/v1/segments/{SEGMENT}", {"X-API-Key": "sk_none"})
    assert response.status == 403
    assert response.json["missing_scope"]["entity_id"] == SEGMENT
    for headers in ({}, {"X-API-Key": "sk_bad"}):
        response = await get(app, f"/v1/segments/{SEGMENT}", headers)
        assert response.status == 401
        assert response.headers["content-type"] == PROBLEM
        assert "www-authenticate" in response.headers


async def test_any_spelling_of_an_id(app: FastAPI, auth: ApiKeyAuth) -> None:
    only = Scope(entity_type="segment", entity_id=SEGMENT, action="read")
    auth.authenticator = AsyncFakeAuthenticator({"sk_reader": [only]})
    for text in (SEGMENT, SEGMENT.upper(), SEGMENT.replace("-", "")):
        assert (await get(app, f"/v1/segments/{text}", READER)).json[1] == SEGMENT
    assert (await get(app, f"/v1/segments/{UUID(int=1)}", READER)).status == 403


async def test_a_malformed_id_with_and_without_a_key(app: FastAPI) -> None:
    assert (await get(app, "/v1/segments/no-uuid", READER)).status == 422
    assert (await get(app, "/v1/segments/no-uuid")).status == 401


async def test_websockets(app: FastAPI) -> None:
    assert denial(await connect(app, "/socket")).status == 401
    assert denial(await connect(app, "/socket", {"X-API-Key": "sk_none"})).status == 403
    messages = await connect(app, "/socket", READER)
    assert [each["type"] for each in messages][:2] == ["websocket.accept", "websocket.send"]


async def test_usage_has_the_template_of_included_routers(
    app: FastAPI, auth: ApiKeyAuth, api: respx.MockRouter
) -> None:
    log = Log(api)
    outer = FastAPI(lifespan=auth.lifespan)
    outer.mount("/tenants/{tenant}", app)
    for application, prefix in ((app, ""), (outer, "/tenants/a")):
        async with running(application):
            await get(application, f"{prefix}/v1/segments/{SEGMENT}", READER)
            await get(application, f"{prefix}/v1/segments", READER)
    assert log.endpoints == [
        "/v1/segments/{segment_id}",
        "/v1/segments",
        "/tenants/{tenant}/v1/segments/{segment_id}",
        "/tenants/{tenant}/v1/segments",
    ]


async def test_a_lifespan_within_another(auth: ApiKeyAuth, api: respx.MockRouter) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with auth.lifespan(app):
            yield

    log = Log(api)
    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/", lambda: "a", dependencies=[auth.require_key()])
    async with running(app):
        assert (await get(app, "/", READER)).status == 200
    assert log.endpoints == ["/"]


async def test_the_openapi_document(app: FastAPI) -> None:
    document = app.openapi()
    (scheme,) = document["components"]["securitySchemes"].items()
    assert scheme[0] == "ApiKey"
    assert scheme[1].items() >= {"type": "apiKey", "in": "header", "name": "X-API-Key"}.items()
    read = document["paths"]["/v1/segments/{segment_id}"]["get"]
    assert read["security"] == [{"ApiKey": []}]
    assert [each["name"] for each in read["parameters"]] == ["segment_id"]
    assert "security" not in document["paths"]["/open"]["get"]


async def test_dependency_overrides(app: FastAPI, auth: ApiKeyAuth) -> None:
    required = auth.require("segment", "read", id="segment_id").dependency
    caller = Caller(authenticated_key(READ, name="override"))
    app.dependency_overrides[required] = lambda: caller
    assert (await get(app, f"/v1/segments/{SEGMENT}")).json[0] == "override"
    app.dependency_overrides.clear()
    assert (await get(app, f"/v1/segments/{SEGMENT}")).status == 401
    assert auth.require("segment", "read").dependency is not required


async def test_an_own_dependency_of_a_caller(auth: ApiKeyAuth) -> None:
    async def account_of(caller: Annotated[Caller, auth.require_key()]) -> UUID:
        return caller.account_id

    auth.authenticator = AsyncFakeAuthenticator(
        {"sk_reader": authenticated_key(account_id=UUID(ACCOUNT))}
    )
    app = FastAPI()
    app.add_api_route("/", lambda account: account)

    @app.get("/account")
    async def account(account: Annotated[UUID, Depends(account_of)]) -> UUID:
        return account

    assert (await get(app, "/account", READER)).json == ACCOUNT


def test_the_synchronous_fake() -> None:
    keys = FakeAuthenticator({"sk_reader": [READ]})
    caller = keys.authenticate("sk_reader", "192.0.2.1")
    assert caller
    assert caller.allows("segment", "42", "read")
    assert isinstance(keys.authenticate("sk_other"), RejectedApiKey)
    keys.error = APIConnectionError("refused")
    with pytest.raises(APIConnectionError):
        keys.authenticate("sk_reader")


def status_error(kind: Any, status: int) -> Any:
    error = kind(status, "XX000", "words of the database", "rows", "hint")
    error.retry_after = 3.2
    return error


ERRORS: list[tuple[AudienceLabError, int]] = [
    (status_error(NotFoundError, 404), 404),
    (status_error(ConflictError, 409), 409),
    (status_error(PermissionDeniedError, 403), 403),
    (status_error(InvalidRequestError, 400), 422),
    (status_error(RateLimitError, 429), 429),
    (status_error(ServerError, 502), 503),
    (SchemaError(500, "PGRST202", "words of the database", http_status=404), 503),
    (APIConnectionError("words of the database"), 503),
    (AuthenticationOverloadedError(3.2), 503),
    (InvalidArgumentError("name is empty or blank"), 422),
    (InvalidCursorError("the cursor is damaged"), 400),
]


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda each: type(each).__name__)
async def test_errors_in_handlers_become_responses(
    framework: Any, error: AudienceLabError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Request) -> None:
        raise error

    app = framework(routes=[Route("/", fail)])
    install_error_handlers(app)
    caplog.set_level(logging.INFO)
    response = await get(app, "/")
    assert response.status == status
    assert response.headers["content-type"] == PROBLEM
    assert response.json["status"] == status
    assert "words" not in response.body.decode()
    if isinstance(error, InvalidArgumentError):
        assert response.json["detail"] == str(error)
    waits = isinstance(error, RateLimitError | ServerError | AuthenticationOverloadedError)
    assert response.headers.get("retry-after") == ("4" if waits else None)
    unavailable = isinstance(error, APIConnectionError | SchemaError | ServerError)
    assert ("answered with 503" in caplog.text) is unavailable


async def test_a_path_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> None:
        raise APIConnectionError("refused")

    app = Starlette(routes=[Route("/{path}", fail)])
    install_error_handlers(app)
    assert (await get(app, "/a\nERROR forged")).status == 503
    assert "\n" not in caplog.records[0].message


async def test_other_errors_are_errors_of_the_application() -> None:
    async def fail(_: Request) -> None:
        raise status_error(AuthenticationError, 401)

    app = FastAPI(routes=[Route("/", fail)])
    install_error_handlers(app)
    assert (await get(app, "/")).status == 500


async def test_errors_in_websockets() -> None:
    app = FastAPI()

    @app.websocket("/")
    async def fail(websocket: WebSocket) -> None:
        raise NotFoundError(404, None, "no")

    install_error_handlers(app)
    response = denial(await connect(app, "/"))
    assert response.status == 404
    assert response.headers["content-type"] == PROBLEM


async def test_own_problems() -> None:
    async def fail(_: Request) -> None:
        raise Problem(418, "short and stout", members={"pot": True})

    app = FastAPI(routes=[Route("/", fail)])
    install_error_handlers(app)
    response = await get(app, "/")
    assert (response.status, response.json["pot"]) == (418, True)


async def test_problems_with_any_status_and_members() -> None:
    async def fail(_: Request) -> None:
        raise Problem(499, "gone", members={"id": UUID(SEGMENT)})

    app = Starlette(routes=[Route("/", fail)])
    install_error_handlers(app)
    response = await get(app, "/")
    assert response.status == 499
    assert (response.json["title"], response.json["id"]) == ("Error", SEGMENT)


def text_of(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"own {error.detail}", error.status_code)


async def async_text_of(request: Request, error: Exception) -> Response:
    return text_of(request, error)


class TextOf:
    async def __call__(self, request: Request, error: Exception) -> Response:
        return text_of(request, error)


@pytest.mark.parametrize("handler", [text_of, async_text_of, TextOf()])
@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_an_own_handler_answers_instead(
    auth: ApiKeyAuth, framework: Any, handler: Any
) -> None:
    async def read(request: Request) -> None:
        await auth.authenticate(request)
        raise NotFoundError(404, None, "no")

    app = framework(routes=[Route("/", read)])
    install_error_handlers(app)
    app.add_exception_handler(HTTPException, handler)
    assert (await get(app, "/")).body == b"own The request has no API key."
    assert (await get(app, "/", READER)).headers["content-type"] == PROBLEM


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
@pytest.mark.parametrize("installed", [False, True])
async def test_own_problems_look_the_same_before_and_after_a_refusal(
    auth: ApiKeyAuth, framework: Any, installed: bool
) -> None:
    async def fail(_: Request) -> None:
        raise Problem(418, "short and stout")

    app = framework(routes=[Route("/own", fail), Route("/refused", auth.authenticate)])
    if installed:
        install_error_handlers(app)
    before = await get(app, "/own")
    assert (before.headers["content-type"] == PROBLEM) is installed
    assert (await get(app, "/refused")).headers["content-type"] == PROBLEM
    assert await get(app, "/own") == before


@pytest.mark.parametrize("name", ["fastapi", "starlette"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in [each for each in sys.modules if each.startswith("audiencelab_sdk._asgi")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"audiencelab_sdk.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "audiencelab_sdk._asgi._caller", None)
    with pytest.raises(ModuleNotFoundError, match="_caller"):
        importlib.import_module(f"audiencelab_sdk.{name}")
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'audiencelab-sdk\[{name}\]'"):
        importlib.import_module(f"audiencelab_sdk.{name}")
