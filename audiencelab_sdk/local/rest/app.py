"""HTTP in, HTTP out: routes, headers and answers of the REST API."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audiencelab_sdk.local.rest.database import Database, RequestSettings, Row, Settings
from audiencelab_sdk.local.rest.errors import ApiError, NotInCatalogError, from_database
from audiencelab_sdk.local.rest.parse import parse_body
from audiencelab_sdk.local.rest.query import Call
from audiencelab_sdk.local.rest.render import render_call
from audiencelab_sdk.local.rest.schema import Function, Returns
from audiencelab_sdk.local.rest.tokens import Identity, TokenReader

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_JSON = "application/json; charset=utf-8"

Handler = Callable[[Request, Identity], Awaitable[Response]]


def create_app(settings: Settings) -> Starlette:
    """The REST API of one database, as an ASGI application.

    It connects when its lifespan starts and disconnects when that ends.
    """
    database = Database(settings)
    api = _RestApi(database, settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        await database.open()
        try:
            yield
        finally:
            await database.close()

    routes = [
        Route("/rpc/{function}", api.endpoint(api.call), methods=_METHODS),
        Route("/{path:path}", api.endpoint(api.unknown_path), methods=_METHODS),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class _RestApi:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._schema = settings.schemas[0]
        self._tokens = TokenReader(settings.jwt_secret, settings.anonymous_role)

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: who asks is settled before it, every error answered after it."""

        async def respond(request: Request) -> Response:
            anonymous = False
            try:
                identity = self._tokens.identify(request.headers.get("authorization"))
                anonymous = identity.anonymous
                try:
                    return await handler(request, identity)
                except NotInCatalogError:
                    if not await self._database.reload_if_old():
                        raise
                    return await handler(request, identity)
            except ApiError as error:
                return _error_response(error)
            except psycopg.Error as error:
                return _error_response(from_database(error, anonymous=anonymous))

        return respond

    async def call(self, request: Request, identity: Identity) -> Response:
        """`/rpc/<function>`: the arguments are the JSON body, or the query of a GET."""
        name: str = request.path_params["function"]
        if request.method == "POST":
            call = Call(name, parse_body(await request.body()))
        elif request.method in {"GET", "HEAD"}:
            call = Call(name, dict(request.query_params))
        else:
            raise ApiError(
                405, "PGRST101", f"Cannot use the {request.method} method on RPC", headers=_ALLOW
            )
        function = self._database.catalog.function(
            self._schema, name, call.names, has_body=request.method == "POST"
        )
        row = await self._database.run(
            render_call(call, function),
            self._request_settings(request, identity),
            read_only=function.read_only or request.method != "POST",
            check=lambda _row: None,
        )
        return _call_response(function, row)

    async def unknown_path(self, _request: Request, _identity: Identity) -> Response:
        """Any path that names nothing."""
        raise ApiError(404, "PGRST125", "Invalid path specified in request URL")

    def _request_settings(self, request: Request, identity: Identity) -> RequestSettings:
        headers = {key: value for key, value in request.headers.items() if key != "cookie"}
        return RequestSettings(
            schema=self._schema,
            role=identity.role,
            claims=identity.claims,
            method=request.method,
            path=request.scope["path"],
            headers=json.dumps(headers),
            cookies=json.dumps(request.cookies),
        )


_ALLOW = {"Allow": "OPTIONS,GET,HEAD,POST"}


def _call_response(function: Function, row: Row) -> Response:
    headers = {"Content-Range": _content_range(0, row.rows, row.total)}
    headers.update(_function_headers(row.response_headers))
    status = _function_status(row.response_status)
    if function.returns is Returns.VOID:
        return Response(status_code=status or 204, headers=headers)
    return Response(row.body, status_code=status or 200, headers=headers, media_type=_JSON)


def _content_range(first: int, count: int, total: int | None) -> str:
    rows = f"{first}-{first + count - 1}" if count else "*"
    return f"{rows}/{'*' if total is None else total}"


def _function_headers(setting: str | None) -> dict[str, str]:
    """What a function has put into `response.headers`: an array of objects with one key each."""
    if setting is None:
        return {}
    try:
        return {str(key): str(value) for item in json.loads(setting) for key, value in item.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(
            500,
            "PGRST111",
            "response.headers guc must be a JSON array composed of objects with a single key "
            "and a string value",
        ) from error


def _function_status(setting: str | None) -> int | None:
    if setting is None:
        return None
    if not (setting.isdecimal() and 200 <= int(setting) <= 599):
        raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
    return int(setting)


def _error_response(error: ApiError) -> Response:
    return Response(error.body, status_code=error.status, headers=error.headers, media_type=_JSON)
