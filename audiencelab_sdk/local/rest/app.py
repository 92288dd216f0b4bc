"""The routes of the REST API and their handlers."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from audiencelab_sdk.local.rest import responses
from audiencelab_sdk.local.rest.database import Database, Settings
from audiencelab_sdk.local.rest.disconnect import disconnected_response
from audiencelab_sdk.local.rest.endpoints import Endpoints
from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.middleware import METHODS, Cors, HeadLimit
from audiencelab_sdk.local.rest.openapi import describe, description_response
from audiencelab_sdk.local.rest.query import Call, Filter, Query
from audiencelab_sdk.local.rest.render import Output, Renderer, Statement
from audiencelab_sdk.local.rest.request import ApiRequest
from audiencelab_sdk.local.rest.schema import Table
from audiencelab_sdk.local.rest.transaction import Row
from audiencelab_sdk.local.rest.writes import WriteRenderer


def create_app(settings: Settings) -> Starlette:
    """Return the REST API of one database as an ASGI application.

    It is connected to the database during its lifespan.

    Raises:
        ValueError: The JWT secret is too short.
    """
    database = Database(settings)
    api = _RestApi(database)
    endpoints = Endpoints(database, settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        await database.open()
        try:
            yield
        finally:
            await database.close()

    routes = [
        Route("/rpc/{name}", endpoints.of(api.call), methods=METHODS),
        Route("/{name}", endpoints.of(api.table), methods=METHODS),
        Route("/", endpoints.of(api.root), methods=METHODS),
        Route("/{path:path}", endpoints.of(api.unknown_path), methods=METHODS),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(HeadLimit), Middleware(Cors)],
        exception_handlers={405: _unsupported_method, ClientDisconnect: disconnected_response},
        lifespan=lifespan,
    )


def _unsupported_method(request: Request, _error: Exception | None = None) -> Response:
    message = f"Unsupported HTTP method: {request.method}"
    return responses.error_response(ApiError(405, "PGRST117", message))


class _RestApi:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def table(self, request: ApiRequest) -> Response:
        """Read, insert, update, upsert or delete rows: `/<table>`."""
        table = self._database.catalog.table(request.schema, request.name)
        match request.method:
            case "OPTIONS":
                return _options("OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE")
            case "POST":
                return await self._insert(request, table)
            case "PUT":
                return await self._put(request, table)
            case "PATCH":
                return await self._update(request, table)
            case "DELETE":
                statement = self._writer(request, table).delete()
                row = await self._run(request, statement, read_only=False, limited=True)
                return responses.delete_response(row, request.media, request.preferences)
            case _:
                catalog = self._database.catalog
                statement = Renderer(catalog, request.query, request.output).read(table)
                plan = None
                if request.preferences["count"] in {"planned", "estimated"}:
                    plan = Renderer(catalog, request.query, request.output).plan(table)
                row = await self._run(request, statement, read_only=True, plan=plan)
                window = request.query.window
                return responses.read_response(
                    row, request.media, window, request.preferences, request.location
                )

    async def call(self, request: ApiRequest) -> Response:
        """Call a function: `/rpc/<function>`. A GET has the arguments in the query."""
        if request.method == "OPTIONS":
            return _options("OPTIONS,GET,HEAD,POST")
        if request.method not in {"GET", "HEAD", "POST"}:
            message = f"Cannot use the {request.method} method on RPC"
            raise ApiError(405, "PGRST101", message)
        posted = request.method == "POST"
        call = Call(request.name, request.objects("{}") if posted else request.query.arguments)
        catalog = self._database.catalog
        function = catalog.function(request.schema, request.name, call.names, has_body=posted)
        if request.preferences.max_affected is not None and not function.returns_set:
            message = "max-affected with handling=strict requires a function that returns rows"
            raise ApiError(400, "PGRST128", message)
        row = await self._run(
            request,
            Renderer(catalog, request.query, request.output).call(call, function),
            read_only=function.read_only or not posted,
            limited=True,
        )
        return responses.call_response(
            row, function, request.media, request.query.window, request.preferences
        )

    async def root(self, request: ApiRequest) -> Response:
        """Describe the API: `/`."""
        if request.method == "OPTIONS":
            return _options("OPTIONS,GET,HEAD")
        if request.method not in {"GET", "HEAD"}:
            return _unsupported_method(request.http)
        row = await self._database.run(
            describe(request.schema), request.settings, read_only=True, check=lambda _row: None
        )
        return description_response(row, request.schema)

    async def unknown_path(self, _request: ApiRequest) -> Response:
        """Respond with 404."""
        raise ApiError(404, "PGRST125", "Invalid path specified in request URL")

    async def _insert(self, request: ApiRequest, table: Table) -> Response:
        body = request.objects()
        statement = self._writer(request, table).insert(
            body, resolution=request.resolution, use_defaults=request.use_defaults
        )
        row = await self._run(request, statement, read_only=False)
        upsert = request.resolution is not None and bool(
            request.query.on_conflict or table.primary_key
        )
        return responses.insert_response(
            row, table, request.media, request.preferences, upsert=upsert
        )

    async def _update(self, request: ApiRequest, table: Table) -> Response:
        body = request.body()
        statement = self._writer(request, table).update(body, use_defaults=request.use_defaults)
        row = await self._run(request, statement, read_only=False, limited=True)
        return responses.update_response(row, request.media, request.preferences)

    async def _put(self, request: ApiRequest, table: Table) -> Response:
        """Insert or replace the row whose primary key is in the URL."""
        if request.has_window:
            raise ApiError(400, "PGRST114", "PUT allows neither limit nor offset")
        body = request.body()
        _require_key_filters(request.query, table)
        statement = self._writer(request, table).insert(
            body,
            resolution="merge-duplicates",
            use_defaults=request.use_defaults,
            only_where=True,
        )

        def check(row: Row) -> None:
            if row.rows != 1:
                message = "Payload values do not match URL in primary key column(s)"
                raise ApiError(400, "PGRST115", message)

        row = await self._run(request, statement, read_only=False, check=check)
        return responses.put_response(row, request.media, request.preferences)

    def _writer(self, request: ApiRequest, table: Table) -> WriteRenderer:
        output = request.output if request.returning == "representation" else Output()
        return WriteRenderer(
            self._database.catalog, request.query, output, table, request.returning
        )

    async def _run(
        self,
        request: ApiRequest,
        statement: Statement,
        *,
        read_only: bool,
        limited: bool = False,
        check: Callable[[Row], None] | None = None,
        plan: Statement | None = None,
    ) -> Row:
        def checks(row: Row) -> None:
            if check:
                check(row)
            if limited:
                responses.require_few(request.preferences, row)
            responses.require_single(request.media, row)

        return await self._database.run(
            statement, request.settings, read_only=read_only, check=checks, plan=plan
        )


def _require_key_filters(query: Query, table: Table) -> None:
    names = [
        item.field.column
        for item in query.where
        if isinstance(item, Filter) and item.operator == "eq" and not item.negated
    ]
    plain = len(names) == len(query.where)
    if not plain or not names or sorted(names) != sorted(table.primary_key):
        message = "Filters must include all and only primary key columns with 'eq' operators"
        raise ApiError(405, "PGRST105", message)


def _options(allowed: str) -> Response:
    return Response(headers={"Allow": allowed, "Access-Control-Allow-Origin": "*"})
