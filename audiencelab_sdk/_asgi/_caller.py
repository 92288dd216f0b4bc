"""`Caller`: the API key of a request."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from audiencelab_sdk._client import AsyncAudienceLab
from audiencelab_sdk.errors import ConfigurationError
from audiencelab_sdk.models import AuthenticatedApiKey, Scope


class Caller:
    """The API key that came with a request.

    Args:
        key: The key, as `authenticate` returns it.
        client_of: Returns a client that acts as the key with an id.
    """

    __slots__ = ("_client", "_client_of", "key")

    def __init__(
        self,
        key: AuthenticatedApiKey,
        client_of: Callable[[UUID], AsyncAudienceLab] | None = None,
    ) -> None:
        self.key: AuthenticatedApiKey = key
        self._client_of = client_of
        self._client: AsyncAudienceLab | None = None

    @property
    def account_id(self) -> UUID:
        """The account that owns the key."""
        return self.key.account_id

    @property
    def api_key_id(self) -> UUID:
        """The key's id."""
        return self.key.api_key_id

    @property
    def name(self) -> str:
        """The key's label for people."""
        return self.key.name

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """What the key may do."""
        return self.key.scopes

    @property
    def expires_at(self) -> datetime | None:
        """When the key expires. None means never."""
        return self.key.expires_at

    @property
    def metadata(self) -> dict[str, Any]:
        """Further data about the key."""
        return self.key.metadata

    @property
    def client(self) -> AsyncAudienceLab:
        """A client that acts as the key, under row level security.

        Raises:
            ConfigurationError: The ApiKeyAuth has neither `jwt_secret` nor `signing_key`.
        """
        if self._client is not None:
            return self._client
        if self._client_of is None:
            raise ConfigurationError(
                "a client that acts as the caller signs tokens: pass jwt_secret or signing_key to "
                "ApiKeyAuth"
            )
        self._client = self._client_of(self.key.api_key_id)
        return self._client

    def allows(self, entity_type: str, entity_id: str, action: str) -> bool:
        """Return whether one of the scopes covers an action.

        Args:
            entity_type: The kind of entity, such as ``segment``.
            entity_id: The entity's id. ``*`` asks for all of them.
            action: The action, such as ``read``.
        """
        return self.key.allows(entity_type, entity_id, action)

    def __repr__(self) -> str:
        return f"Caller(api_key_id={str(self.api_key_id)!r}, account_id={str(self.account_id)!r})"
