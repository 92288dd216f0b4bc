"""HTTP in, HTTP out: the routes of the REST API and what each of them does."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from audiencelab_sdk.local.rest import answers
from audiencelab_sdk.local.rest.database import Database, Row, Settings
from audiencelab_sdk.local.rest.disconnect import answer_nobody, respond_unless_gone
from audiencelab_sdk.local.rest.errors import ApiError, NotInCatalogError, from_database
from audiencelab_sdk.local.rest.query import Call, Filter, Query, Window
from audiencelab_sdk.local.rest.render import Output, Renderer, Statement
from audiencelab_sdk.local.rest.request import Asked, read_request
from audiencelab_sdk.local.rest.schema import Table
from audiencelab_sdk.local.rest.tokens import TokenReader
from audiencelab_sdk.local.rest.writes import WriteRenderer

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Handler = Callable[[Asked], Awaitable[Response]]


def create_app(settings: Settings) -> Starlette:
    """The REST API of one database, as an ASGI application.

    It connects when its lifespan starts and disconnects when that ends.

    Raises:
        ValueError: The JWT secret is too short.
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
        Route("/rpc/{name}", api.endpoint(api.call), methods=_METHODS),
        Route("/{name}", api.endpoint(api.table), methods=_METHODS),
        Route("/{path:path}", api.endpoint(api.unknown_path), methods=_METHODS),
    ]
    return Starlette(
        routes=routes,
        # Any page may ask: who may read is a matter of tokens, not of origins.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=_METHODS,
                allow_headers=["*"],
                expose_headers=["Content-Range", "Location", "Preference-Applied"],
            )
        ],
        exception_handlers={405: _unsupported_method, ClientDisconnect: answer_nobody},
        lifespan=lifespan,
    )


def _unsupported_method(request: Request, _error: Exception) -> Response:
    message = f"Unsupported HTTP method: {request.method}"
    return answers.error_response(ApiError(405, "PGRST117", message))


class _RestApi:
    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._tokens = TokenReader(settings.jwt_secret, settings.anonymous_role)

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: who asks is settled before it, every error answered after it."""

        async def respond(request: Request) -> Response:
            anonymous = False
            try:
                identity = self._tokens.identify(request.headers.get("authorization"))
                anonymous = identity.anonymous
                asked = await read_request(request, identity, self._settings)
                return await respond_unless_gone(request, self._handle(handler, asked))
            except ApiError as error:
                return answers.error_response(error)
            except psycopg.Error as error:
                return answers.error_response(from_database(error, anonymous=anonymous))

        return respond

    async def _handle(self, handler: Handler, asked: Asked) -> Response:
        try:
            return await handler(asked)
        except NotInCatalogError:
            if not await self._database.reload_if_old():
                raise
            return await handler(asked)

    async def table(self, asked: Asked) -> Response:
        """`/<table>`: read, insert, update, upsert or delete rows."""
        table = self._database.catalog.table(asked.schema, asked.name)
        match asked.method:
            case "OPTIONS":
                return _options("OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE")
            case "POST":
                return await self._insert(asked, table)
            case "PUT":
                return await self._put(asked, table)
            case "PATCH":
                return await self._update(asked, table)
            case "DELETE":
                statement = self._writer(asked, table).delete()
                row = await self._run(asked, statement, read_only=False)
                return answers.delete_response(row, asked.media, asked.preferences)
            case _:
                catalog = self._database.catalog
                statement = Renderer(catalog, asked.query, asked.output).read(table)
                plan = None
                if asked.preferences["count"] in {"planned", "estimated"}:
                    plan = Renderer(catalog, asked.query, asked.output).plan(table)
                row = await self._run(asked, statement, read_only=True, plan=plan)
                return answers.read_response(
                    row, asked.media, asked.query.window, asked.preferences
                )

    async def call(self, asked: Asked) -> Response:
        """`/rpc/<function>`: the arguments are the JSON body, or the query of a GET."""
        if asked.method == "OPTIONS":
            return _options("OPTIONS,GET,HEAD,POST")
        if asked.method not in {"GET", "HEAD", "POST"}:
            message = f"Cannot use the {asked.method} method on RPC"
            raise ApiError(405, "PGRST101", message)
        posted = asked.method == "POST"
        call = Call(asked.name, asked.body(if_empty="{}") if posted else asked.query.arguments)
        catalog = self._database.catalog
        function = catalog.function(asked.schema, asked.name, call.names, has_body=posted)
        row = await self._run(
            asked,
            Renderer(catalog, asked.query, asked.output).call(call, function),
            read_only=function.read_only or not posted,
        )
        return answers.call_response(
            row, function, asked.media, asked.query.window, asked.preferences
        )

    async def unknown_path(self, asked: Asked) -> Response:
        """Any path that names nothing, and the root, whose OpenAPI description is not offered."""
        if asked.request.scope["path"] == "/":
            raise ApiError(404, "PGRST126", "Root endpoint metadata is disabled")
        raise ApiError(404, "PGRST125", "Invalid path specified in request URL")

    async def _insert(self, asked: Asked, table: Table) -> Response:
        body = asked.body()
        if body.is_ragged and asked.query.columns is None:
            raise ApiError(400, "PGRST102", "All object keys must match")
        statement = self._writer(asked, table).insert(
            body, resolution=asked.resolution, use_defaults=asked.use_defaults
        )
        row = await self._run(asked, statement, read_only=False)
        upsert = asked.resolution is not None and bool(asked.query.on_conflict or table.primary_key)
        return answers.insert_response(row, table, asked.media, asked.preferences, upsert=upsert)

    async def _update(self, asked: Asked, table: Table) -> Response:
        body = asked.body()
        statement = self._writer(asked, table).update(body, use_defaults=asked.use_defaults)
        row = await self._run(asked, statement, read_only=False)
        return answers.update_response(row, asked.media, asked.preferences)

    async def _put(self, asked: Asked, table: Table) -> Response:
        """Insert or replace the one row whose whole primary key is in the URL."""
        body = asked.body()
        _require_key_filters(asked.query, table)
        statement = self._writer(asked, table).insert(
            body,
            resolution="merge-duplicates",
            use_defaults=asked.use_defaults,
            only_where=True,
        )

        def check(row: Row) -> None:
            if row.rows != 1:
                message = "Payload values do not match URL in primary key column(s)"
                raise ApiError(400, "PGRST115", message)

        row = await self._run(asked, statement, read_only=False, check=check)
        return answers.put_response(row, asked.media, asked.preferences)

    def _writer(self, asked: Asked, table: Table) -> WriteRenderer:
        output = asked.output if asked.returning == "representation" else Output()
        return WriteRenderer(self._database.catalog, asked.query, output, table, asked.returning)

    async def _run(
        self,
        asked: Asked,
        statement: Statement,
        *,
        read_only: bool,
        check: Callable[[Row], None] | None = None,
        plan: Statement | None = None,
    ) -> Row:
        def checks(row: Row) -> None:
            if check:
                check(row)
            if not read_only:
                answers.require_few(asked.preferences, row)
            answers.require_single(asked.media, row)

        return await self._database.run(
            statement, asked.settings, read_only=read_only, check=checks, plan=plan
        )


def _require_key_filters(query: Query, table: Table) -> None:
    names = [
        item.field.column
        for item in query.where
        if isinstance(item, Filter) and item.operator == "eq" and not item.negated
    ]
    plain = len(names) == len(query.where) and query.window == Window()
    if not plain or not names or sorted(names) != sorted(table.primary_key):
        message = "Filters must include all and only primary key columns with 'eq' operators"
        raise ApiError(405, "PGRST105", message)


def _options(allowed: str) -> Response:
    return Response(headers={"Allow": allowed})
