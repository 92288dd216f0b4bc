"""A backend for Starlette's AuthenticationMiddleware."""

from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
)
from starlette.requests import HTTPConnection
from starlette.responses import Response

from audiencelab_sdk._asgi._auth import ApiKeyAuth
from audiencelab_sdk._asgi._caller import Caller
from audiencelab_sdk._asgi._problems import Problem, problem_response
from audiencelab_sdk._asgi._requests import keys_of


class ApiKeyUser(BaseUser):
    """`request.user` of a request with an API key.

    Attributes:
        caller: The key.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller: Caller = caller

    @property
    def is_authenticated(self) -> bool:
        """True."""
        return True

    @property
    def display_name(self) -> str:
        """The key's label for people."""
        return self.caller.name

    @property
    def identity(self) -> str:
        """The key's id."""
        return str(self.caller.api_key_id)


class ApiKeyBackend(AuthenticationBackend):
    """Lets Starlette's AuthenticationMiddleware and `requires` use API keys.

    `request.user` is an ApiKeyUser. ``@requires("segment:read")`` needs a scope for all segments,
    ``@requires("segment:42:read")`` one for segment 42. Requests without a key are not
    authenticated. Those that `ApiKeyAuth.authenticate` refuses are answered with 400, 401, 429 or
    503. Without `on_error`, Starlette answers 400 to all of these. ::

        app = Starlette(
            routes=[...],
            middleware=[
                Middleware(
                    AuthenticationMiddleware,
                    backend=ApiKeyBackend(auth),
                    on_error=ApiKeyBackend.on_error,
                )
            ],
            lifespan=auth.lifespan,
        )

    Args:
        auth: What checks the keys.
    """

    def __init__(self, auth: ApiKeyAuth) -> None:
        self._auth = auth

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, ApiKeyUser] | None:
        """Return the scopes and the user of a request; None if it has no key.

        Raises:
            AuthenticationError: The request has to be refused. `on_error` answers it.
        """
        if not keys_of(conn):
            return None
        try:
            caller = await self._auth.authenticate(conn)
        except Problem as problem:
            raise _RefusedError(problem) from None
        credentials = AuthCredentials()
        credentials.scopes = _Scopes(caller)
        return credentials, ApiKeyUser(caller)

    @staticmethod
    def on_error(_: HTTPConnection, error: Exception) -> Response:
        """Return the response to a request that `authenticate` refuses."""
        problem = error.problem if isinstance(error, _RefusedError) else Problem(400, str(error))
        return problem_response(problem)


class _RefusedError(AuthenticationError):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _Scopes(list[str]):
    """The scopes of a key, which may contain wildcards."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(
            ["authenticated"]
            + [
                f"{scope.entity_type}:{scope.action}"
                if scope.entity_id == "*"
                else f"{scope.entity_type}:{scope.entity_id}:{scope.action}"
                for scope in caller.scopes
            ]
        )
        self._caller = caller

    def __contains__(self, scope: object) -> bool:
        if scope == "authenticated":
            return True
        entity_type, _, rest = str(scope).partition(":")
        entity_id, _, action = rest.rpartition(":")
        return bool(action) and self._caller.allows(entity_type, entity_id or "*", action)
