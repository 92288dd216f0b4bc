"""What all routes have in common: authentication, parsing and the report of errors."""

from collections.abc import Awaitable, Callable

import psycopg
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from audiencelab_sdk.local.rest import responses
from audiencelab_sdk.local.rest.database import Database, Settings
from audiencelab_sdk.local.rest.disconnect import respond_unless_disconnected
from audiencelab_sdk.local.rest.errors import ApiError, NotInCatalogError, from_database
from audiencelab_sdk.local.rest.request import ApiRequest, NotUtf8Error, read_request
from audiencelab_sdk.local.rest.tokens import Identity, TokenReader

Handler = Callable[[ApiRequest], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


class Endpoints:
    """Makes endpoints of handlers.

    Args:
        database: The database.
        settings: The settings of the server.

    Raises:
        ValueError: The JWT secret is too short.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._tokens = TokenReader(settings.jwt_secret, settings.anonymous_role)

    def of(self, handler: Handler) -> Endpoint:
        """Return an endpoint that authenticates, calls the handler and reports errors."""

        async def respond(http_request: Request) -> Response:
            response = await self._respond(handler, http_request)
            if response.status_code == 503:
                response.headers.setdefault("Retry-After", "0")
            return response

        return respond

    async def _respond(self, handler: Handler, http_request: Request) -> Response:
        anonymous = False
        try:
            identity = self._tokens.identify(http_request.headers.get("authorization"))
            # The role of the token counts, even if the pre-request function switches to another.
            anonymous = identity.anonymous
            request = await self._read(http_request, identity)
            return await respond_unless_disconnected(http_request, self._handle(handler, request))
        except ApiError as error:
            return responses.error_response(error)
        except psycopg.Error as error:
            return responses.error_response(from_database(error, anonymous=anonymous))
        except NotUtf8Error:
            return PlainTextResponse("Something went wrong", 500)

    async def _read(self, http_request: Request, identity: Identity) -> ApiRequest:
        timezones: frozenset[str] = frozenset()
        if any("timezone=" in value for value in http_request.headers.getlist("prefer")):
            timezones = await self._database.timezones()
        return await read_request(
            http_request, identity, self._settings, self._database.max_rows, timezones
        )

    async def _handle(self, handler: Handler, request: ApiRequest) -> Response:
        try:
            return await self._attempt(handler, request)
        except NotInCatalogError:
            if not await self._database.reload_if_old():
                raise
            return await self._attempt(handler, request)

    async def _attempt(self, handler: Handler, request: ApiRequest) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            if error.is_of_database:
                read_only = request.method in {"GET", "HEAD"}
                await self._database.reject(error, request.settings, read_only=read_only)
            raise
