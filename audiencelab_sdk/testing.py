"""Stand-ins for the tests of applications that check API keys."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr

from audiencelab_sdk import (
    ApiKeyAuthentication,
    AuthenticatedApiKey,
    RejectedApiKey,
    RejectionCode,
    Scope,
)

__all__ = ["AsyncFakeAuthenticator", "FakeAuthenticator", "authenticated_key"]


def authenticated_key(
    *scopes: Scope,
    account_id: UUID | None = None,
    api_key_id: UUID | None = None,
    name: str = "test",
    expires_at: datetime | None = None,
    created_by: UUID | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> AuthenticatedApiKey:
    """Return what `authenticate` returns for a valid key, such as for ``Caller(...)``.

    Args:
        scopes: What the key may do.
        account_id: The account that owns the key. None means a random one.
        api_key_id: The key's id. None means a random one.
        name: A label for people.
        expires_at: When the key expires. None means never.
        created_by: The user who created the key.
        metadata: Further data about the key.
    """
    return AuthenticatedApiKey(
        valid=True,
        code="valid",
        api_key_id=api_key_id or uuid4(),
        account_id=account_id or uuid4(),
        name=name,
        scopes=scopes,
        expires_at=expires_at,
        created_by=created_by,
        metadata=dict(metadata or {}),
        ip_restricted=False,
    )


class _Keys:
    """The keys that a fake authenticator accepts.

    Attributes:
        error: What `authenticate` raises instead of an answer, such as an APIConnectionError.
    """

    def __init__(self, keys: Mapping[str, AuthenticatedApiKey | Iterable[Scope]] | None) -> None:
        self.error: Exception | None = None
        self._keys: dict[str, AuthenticatedApiKey] = {}
        for text, key in (keys or {}).items():
            self.add(text, key)

    def add(
        self, text: str, key: AuthenticatedApiKey | Iterable[Scope] = ()
    ) -> AuthenticatedApiKey:
        """Accept a text as an API key.

        Args:
            text: Any text, such as ``sk_reader``.
            key: The key, or the scopes of a new one.

        Returns:
            The key.
        """
        if not isinstance(key, AuthenticatedApiKey):
            key = authenticated_key(*key)
        self._keys[text] = key
        return key

    def remove(self, text: str) -> None:
        """Reject a text, as if its key were revoked."""
        self._keys.pop(text, None)

    def _answer(self, text: str | SecretStr) -> ApiKeyAuthentication:
        if self.error is not None:
            raise self.error
        plain = text.get_secret_value() if isinstance(text, SecretStr) else text
        return self._keys.get(plain) or RejectedApiKey(code=RejectionCode.NOT_FOUND)


class FakeAuthenticator(_Keys):
    """A KeyAuthenticator without a database, which accepts the texts that a test chooses.

    ::

        authenticator = FakeAuthenticator({"sk_reader": [read_segments]})
        assert authenticator.authenticate("sk_reader").allows("segment", "42", "read")

    Args:
        keys: The accepted texts, with their keys or with the scopes of new ones.

    Attributes:
        error: What `authenticate` raises instead of an answer, such as an APIConnectionError.
    """

    def __init__(
        self, keys: Mapping[str, AuthenticatedApiKey | Iterable[Scope]] | None = None
    ) -> None:
        super().__init__(keys)

    def authenticate(
        self,
        api_key: str | SecretStr,
        ip: str | IPv4Address | IPv6Address | None = None,  # noqa: ARG002 - as the real one
    ) -> ApiKeyAuthentication:
        """Return the key of a text, or a RejectedApiKey."""
        return self._answer(api_key)


class AsyncFakeAuthenticator(_Keys):
    """An AsyncKeyAuthenticator without a database, which accepts the texts that a test chooses.

    ::

        auth.authenticator = AsyncFakeAuthenticator({"sk_reader": [read_segments]})
        response = client.get("/v1/segments/42", headers={"X-API-Key": "sk_reader"})

    Args:
        keys: The accepted texts, with their keys or with the scopes of new ones.

    Attributes:
        error: What `authenticate` raises instead of an answer, such as an APIConnectionError.
    """

    def __init__(
        self, keys: Mapping[str, AuthenticatedApiKey | Iterable[Scope]] | None = None
    ) -> None:
        super().__init__(keys)

    async def authenticate(
        self,
        api_key: str | SecretStr,
        ip: str | IPv4Address | IPv6Address | None = None,  # noqa: ARG002 - as the real one
    ) -> ApiKeyAuthentication:
        """Return the key of a text, or a RejectedApiKey."""
        return self._answer(api_key)
