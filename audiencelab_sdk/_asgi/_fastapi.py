"""`ApiKeyAuth` for FastAPI: the keys of requests as dependencies."""

from typing import Any

from fastapi import Depends
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from audiencelab_sdk._asgi import _auth
from audiencelab_sdk._asgi._caller import Caller


class Requirement(SecurityBase):
    """A dependency: the key of a request."""

    model = APIKey.model_validate(
        {
            "in": APIKeyIn.header,
            "name": "X-API-Key",
            "description": "An API key. Authorization: Bearer accepts it, too.",
        }
    )
    scheme_name = "ApiKey"

    def __init__(self, auth: _auth.ApiKeyAuth, scope: tuple[str, str, str] | None) -> None:
        self._auth = auth
        self._scope = scope

    async def __call__(self, connection: HTTPConnection) -> Caller:
        """Return the key of a request."""
        caller = await self._auth.authenticate(connection)
        if self._scope is not None:
            _auth.require_scope(connection, caller, *self._scope)
        return caller


class ApiKeyAuth(_auth.ApiKeyAuth):
    """Checks the API keys of requests to an application of FastAPI, and logs their usage.

    A revoked key is refused everywhere after 30 seconds, see AsyncKeyAuthenticator. ::

        auth = ApiKeyAuth(AsyncAudienceLab.from_env(), usage=True)
        app = FastAPI(lifespan=auth.lifespan)


        @app.get("/v1/segments/{segment_id}")
        async def read_segment(
            segment_id: UUID,
            caller: Annotated[Caller, auth.require("segment", "read", id="segment_id")],
        ) -> Segment: ...

    It is the ApiKeyAuth of `audiencelab_sdk.starlette`, with the same arguments, attributes and
    responses to refused requests, and with dependencies.
    """

    def require(
        self,
        entity_type: str,
        action: str,
        *,
        id: str = "*",  # noqa: A002 - the name of the field of a scope
    ) -> Any:
        """Return a dependency: the Caller of a request, whose key may do an action.

        For requests and websockets::

            ReadsSegment = Annotated[Caller, auth.require("segment", "read", id="segment_id")]


            @app.get("/v1/segments/{segment_id}")
            async def read_segment(segment_id: UUID, caller: ReadsSegment) -> Segment: ...

        It is a `Depends` already: do not wrap it in another one.

        Requests without a valid key are refused with 401, those whose key lacks the scope with 403.
        `app.dependency_overrides` replaces it; the same arguments return the same dependency::

            required = auth.require("segment", "read", id="segment_id").dependency
            app.dependency_overrides[required] = lambda: caller

        Args:
            entity_type: The kind of entity, such as ``segment``.
            action: The action, such as ``read``.
            id: The name of a path parameter with the entity's id; else the id itself, or ``*`` for
                all entities.

        Returns:
            What FastAPI's `Depends` returns.
        """
        return self._dependency((entity_type, action, id))

    def require_key(self) -> Any:
        """Return a dependency: the Caller of a request with any valid key, whatever its scopes.

        Returns:
            What FastAPI's `Depends` returns.
        """
        return self._dependency(None)

    def _dependency(self, scope: tuple[str, str, str] | None) -> Any:
        return Depends(self._requirements.setdefault(scope, Requirement(self, scope)))
