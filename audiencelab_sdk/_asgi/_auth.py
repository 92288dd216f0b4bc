"""`ApiKeyAuth`: the API keys of requests to an application."""

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol, cast
from uuid import UUID

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from audiencelab_sdk._asgi._caller import Caller
from audiencelab_sdk._asgi._exchanges import ExchangeMiddleware, exchange_of
from audiencelab_sdk._asgi._problems import (
    Refusal,
    forbidden,
    is_async,
    several_keys,
    unauthorized,
    unavailable,
    use_default_handler,
)
from audiencelab_sdk._asgi._rate_limits import RateLimits, parsed
from audiencelab_sdk._asgi._requests import keys_of, peer_of
from audiencelab_sdk._backend._async_recorders import AsyncUsageRecorder
from audiencelab_sdk._backend._authenticators import AsyncKeyAuthenticator
from audiencelab_sdk._client import AsyncAudienceLab
from audiencelab_sdk._signing_keys import checked_signing_key, hidden_key
from audiencelab_sdk.errors import (
    AudienceLabError,
    AuthenticationOverloadedError,
    ConfigurationError,
)
from audiencelab_sdk.models import ApiKeyAuthentication

logger = logging.getLogger("audiencelab_sdk")

_COUNTED_BY = "audiencelab_sdk.counted_by"
_SECONDS_BETWEEN_LINES = 60.0
_NO_KEY = "The request has no API key."
Limit = str | Callable[[Caller], str | None]


class Authenticator(Protocol):
    """An AsyncKeyAuthenticator, or what stands in for it in a test."""

    async def authenticate(
        self, api_key: str | SecretStr, ip: str | None = None, /
    ) -> ApiKeyAuthentication:
        """Check whether a text is an API key that may be used, whose, and what it may do."""
        ...


class ApiKeyAuth:
    """Checks the API keys of requests to an application of Starlette, and logs their usage.

    A revoked key is refused everywhere after 30 seconds, see AsyncKeyAuthenticator. ::

        auth = ApiKeyAuth(AsyncAudienceLab.from_env(), usage=True)


        async def read_segment(request: Request) -> Response:
            caller = await auth.check(request, "segment", "read", id="segment_id")
            ...


        app = Starlette(
            routes=[Route("/v1/segments/{segment_id}", read_segment)], lifespan=auth.lifespan
        )

    A request sends its key as ``X-API-Key``, or as ``Authorization: Bearer sk_…``. Refused requests
    are answered with ``application/problem+json`` (RFC 9457), unless the application has a handler
    of its own for Starlette's HTTPException.

    Args:
        client: A client that acts as the service role.
        usage: What logs the requests with valid keys. True: `lifespan` creates a recorder and
            closes it. A recorder: it is used, and you close it. False: nothing is logged.
        authenticator: What checks keys. None means an AsyncKeyAuthenticator of the client.
        jwt_secret: The project's shared secret, for `Caller.client`.
        signing_key: In place of it, a private key of the project, as `client.as_api_key` takes it.
        kid: The id of `signing_key`, likewise.
        limit: How many requests a key may make, such as ``100/minute`` or ``100/minute; 5/second``,
            or a function, not asynchronous, that returns it for a Caller, and None for no limit.
            A request counts once, however many requirements it meets. Needs the extra ``limits``
            and asyncio. Responses have the headers ``RateLimit-Limit``, ``RateLimit-Remaining``
            and ``RateLimit-Reset`` (in seconds).
        limit_storage: Where requests are counted: ``memory://`` for each process on its own, or,
            with the extra ``redis``, a URL such as ``redis://localhost:6379/0`` for all of them.
            While Redis fails, each process counts for itself. Requests wait for it for at most a
            second.

    Attributes:
        authenticator: What checks keys. A test may replace it.
        recorder: The recorder while the application runs. None before and after, and without
            `usage`.

    Raises:
        ConfigurationError: `limit` or `limit_storage` is not usable, or `client` is an AudienceLab.
        InvalidArgumentError: `jwt_secret` or `signing_key` cannot sign tokens.
    """

    def __init__(
        self,
        client: AsyncAudienceLab,
        *,
        usage: bool | AsyncUsageRecorder = False,
        authenticator: Authenticator | None = None,
        jwt_secret: str | SecretStr | None = None,
        signing_key: Mapping[str, Any] | str | SecretStr | None = None,
        kid: str | None = None,
        limit: Limit | None = None,
        limit_storage: str = "memory://",
    ) -> None:
        jwt_secret, signing_key = hidden_key(jwt_secret), hidden_key(signing_key)
        self.authenticator: Authenticator = authenticator or AsyncKeyAuthenticator(client)
        self.recorder: AsyncUsageRecorder | None = None
        self._client = client
        self._usage = usage
        self._client_of: Callable[[UUID], AsyncAudienceLab] | None = None
        if jwt_secret is not None or signing_key is not None:
            # Read once: to read an RSA key takes longer than a request.
            key = checked_signing_key(jwt_secret, signing_key, kid)
            self._client_of = partial(client._signing_with, key)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._limit = _checked_limit(limit)
        self._limits = RateLimits(limit_storage) if limit is not None else None
        if isinstance(limit, str):
            parsed(limit)
        self._has_warned = False
        # When a line about overload (True) and about other errors (False) was logged.
        self._logged_at: dict[bool, float] = {}
        # FastAPI's dependencies. One for each requirement, so that `dependency_overrides` finds it.
        self._requirements: dict[tuple[str, str, str] | None, Any] = {}

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None]:
        """Log the usage of keys while an application runs; at its end, send what is left.

        Pass it as the `lifespan` of the application, or enter it in your own::

            @asynccontextmanager
            async def lifespan(app: FastAPI) -> AsyncIterator[None]:
                async with auth.lifespan(app):
                    yield

        Args:
            app: An application of Starlette or FastAPI. Applications that are mounted in it are
                served, too.

        Raises:
            ConfigurationError: `app` is something else.
        """
        if not self._usage and self._limits is None:
            yield
            return
        middleware = _installed(app)
        async with AsyncExitStack() as stack:
            recorder = self._usage
            if recorder is True:
                # A new one, because an application may be started again, such as by each test.
                recorder = await stack.enter_async_context(AsyncUsageRecorder(self._client))
            self.recorder = recorder or None
            if self._limits is not None:
                stack.push_async_callback(self._limits.aclose)
            try:
                yield
                if self.recorder is not None:
                    await middleware.wait_for_requests_of(self.recorder)
            finally:
                self.recorder = None

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """Return the key of a request.

        Args:
            connection: The request or the websocket, which need not be accepted.

        Returns:
            The key, which is valid. Its scopes are not checked.

        Raises:
            Problem: There is no valid key (401) or more than one (400), the key has made too many
                requests (429), or keys cannot be checked now (503).
        """
        keys = keys_of(connection)
        if len(keys) != 1:
            raise _answered(connection, several_keys() if keys else unauthorized(_NO_KEY))
        try:
            answer = await self.authenticator.authenticate(keys[0], peer_of(connection))
        except AudienceLabError as error:
            refusal = self._unavailable(error)
        else:
            if answer:
                caller = Caller(answer, self._client_of)
                self._note(connection, caller)
                if self._limits is not None:
                    await self._count(connection, caller, self._limits)
                return caller
            refusal = unauthorized("The API key is not valid.", error="invalid_token")
        # Raised outside the `except` block, so that the logged error is not its context.
        raise _answered(connection, refusal)

    async def check(
        self,
        connection: HTTPConnection,
        entity_type: str,
        action: str,
        *,
        id: str = "*",  # noqa: A002 - the name of the field of a scope
    ) -> Caller:
        """Return the key of a request, which may do an action.

        Args:
            connection: The request or the websocket, which need not be accepted.
            entity_type: The kind of entity, such as ``segment``.
            action: The action, such as ``read``.
            id: The name of a path parameter with the entity's id; else the id itself, or ``*`` for
                all entities.

        Returns:
            The key.

        Raises:
            Problem: The key lacks the scope (403), or what `authenticate` raises.
        """
        caller = await self.authenticate(connection)
        require_scope(connection, caller, entity_type, action, id)
        return caller

    def _unavailable(self, error: AudienceLabError) -> Refusal:
        """Return the refusal of a key that cannot be checked, which may be valid."""
        is_overload, now = isinstance(error, AuthenticationOverloadedError), time.monotonic()
        if now >= self._logged_at.get(is_overload, -math.inf) + _SECONDS_BETWEEN_LINES:
            self._logged_at[is_overload] = now
            logger.error("API keys cannot be checked: %s", error)
        return unavailable(getattr(error, "retry_after", None))

    def _note(self, connection: HTTPConnection, caller: Caller) -> None:
        exchange = exchange_of(connection)
        if exchange is not None and self.recorder is not None:
            exchange.caller, exchange.connection = caller, connection
            exchange.recorder = self.recorder
        elif self._usage and not self._has_warned:
            self._has_warned = True
            logger.warning("the usage of API keys is not logged: auth.lifespan does not run")

    async def _count(self, connection: HTTPConnection, caller: Caller, limits: RateLimits) -> None:
        # A request that meets several requirements counts once.
        counted: set[ApiKeyAuth] = connection.scope.setdefault(_COUNTED_BY, set())
        if self in counted:
            return
        limit = self._limit(caller) if callable(self._limit) else self._limit
        if limit is None:
            return
        exchange = exchange_of(connection)
        try:
            headers = await limits.count(caller.api_key_id, limit)
        except Refusal:
            if exchange is not None:
                exchange.headers = []  # another ApiKeyAuth's, which allows the request
            use_default_handler(connection)
            raise
        counted.add(self)
        if exchange is not None:
            exchange.headers = [
                (name.lower().encode(), value.encode()) for name, value in headers.items()
            ]


def require_scope(
    connection: HTTPConnection, caller: Caller, entity_type: str, action: str, entity_id: str
) -> None:
    """Check a scope, as `ApiKeyAuth.check` does.

    Raises:
        Problem: The key lacks it (403).
    """
    entity_id = str(connection.scope.get("path_params", {}).get(entity_id, entity_id))
    spellings = {entity_id, _canonical(entity_id)}
    if not any(caller.allows(entity_type, each, action) for each in spellings):
        raise _answered(connection, forbidden(entity_type, entity_id, action))


def _canonical(entity_id: str) -> str:
    """Return an id as scopes spell it: a UUID may come in upper case and without dashes."""
    try:
        return str(UUID(entity_id))
    except ValueError:
        return entity_id


def _checked_limit(limit: Any) -> Limit | None:
    if limit is None or isinstance(limit, str) or (callable(limit) and not is_async(limit)):
        return cast("Limit | None", limit)
    raise ConfigurationError(
        "limit must be a text such as '100/minute', or a function, which is not asynchronous, that "
        "returns one"
    )


def _installed(app: Any) -> ExchangeMiddleware:
    """Return the middleware around all others of an application, which is starting."""
    if not isinstance(app, Starlette):
        raise ConfigurationError("pass the application: auth.lifespan(app)")
    stack = app.middleware_stack
    if isinstance(stack, ExchangeMiddleware):
        return stack
    middleware = ExchangeMiddleware(stack or app.build_middleware_stack())
    app.middleware_stack = middleware
    return middleware


def _answered(connection: HTTPConnection, refusal: Refusal) -> Refusal:
    """Return a refusal that the application of the request will answer."""
    use_default_handler(connection)
    return refusal
