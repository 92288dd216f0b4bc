"""API keys: `client.api_keys`."""

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from pydantic import SecretStr

from audiencelab_sdk._operations import api_keys as operations
from audiencelab_sdk._outcome import Outcome
from audiencelab_sdk._resources._base import AsyncResource, Resource
from audiencelab_sdk._text import hidden
from audiencelab_sdk.models import (
    ApiKey,
    AsyncPage,
    CreatedApiKey,
    InvalidApiKey,
    Page,
    Scope,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)


class ApiKeys(Resource):
    """The API keys of accounts: make, list, revoke, verify, log their use.

    Every call raises InvalidArgumentError for an argument that cannot be right, before anything
    is sent; APIConnectionError when no answer comes; and the APIStatusError of the answer when it
    is no success. Ids are UUIDs or their text.
    """

    def create(
        self,
        account_id: UUID | str,
        name: str,
        *,
        scopes: Sequence[Scope] = (),
        expires_at: datetime | None = None,
    ) -> CreatedApiKey:
        """Make an API key, as a user who is a member of the account.

        Calls the database function ``create_api_key``. It is not sent again when nobody knows
        whether it was done: after no answer, or a 502, 503 or 504, look at `list` first.

        Args:
            account_id: The account that the key is for.
            name: What to call it, 1 to 255 characters.
            scopes: What it may do; nothing, when left out.
            expires_at: When it stops being valid, with a time zone; never, when left out.

        Returns:
            The key. This is the only time that its text is shown.

        Raises:
            PermissionDeniedError: The user is no member, or there is no such account.
        """
        return self._run(operations.create(account_id, name, scopes, expires_at))

    def list(self, account_id: UUID | str, *, page_size: int = 100) -> Page[ApiKey]:
        """List the account's keys, the newest first, revoked and expired ones too.

        Calls the database function ``list_api_keys``, as a user who is a member of the account::

            for key in client.api_keys.list(account_id):
                print(key.name, key.key_prefix)

        Args:
            account_id: The account.
            page_size: How many keys to fetch at a time, 1 to 1000.

        Returns:
            The first page. Iterating it walks all of them.

        Raises:
            PermissionDeniedError: The user is no member, or there is no such account.
        """
        return self._page(operations.listing(account_id, page_size))

    def revoke(self, api_key_id: UUID | str) -> None:
        """End a key's validity, for good; revoking it again does nothing.

        Calls the database function ``revoke_api_key``, as a user who is a member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Raises:
            PermissionDeniedError: The user is no member, or there is no such key.
        """
        return self._run(operations.revoke(api_key_id))

    def revoke_all_of(self, user_id: UUID | str, account_id: UUID | str | None = None) -> int:
        """Revoke all API keys that a user created, such as one who left or lost a laptop.

        Calls the database function ``revoke_api_keys_of``, as the service role, or as a user who
        is a member of `account_id`.

        Args:
            user_id: The user who created the keys.
            account_id: The account whose keys are revoked. None means all accounts, which only the
                service role may ask for.

        Returns:
            How many keys were live until now.

        Raises:
            PermissionDeniedError: The caller is a user who names no account, or who is not a member
                of it.
        """
        return self._run(operations.revoke_all_of(user_id, account_id))

    def verify(self, api_key: str | SecretStr) -> ValidApiKey | InvalidApiKey:
        """Tell whether a text that somebody sent is a valid API key.

        Calls the database function ``verify_api_key``, as the service role. A text that cannot be
        a key, such as one with a typing error, is answered without a request::

            verification = client.api_keys.verify(request.headers["x-api-key"])
            if not verification:
                return unauthorized(verification.error)

        Args:
            api_key: The text; anything at all may be in it.

        Returns:
            A ValidApiKey, which is true and has the key's id and account, or an InvalidApiKey,
            which is false and says why.

        Raises:
            PermissionDeniedError: The client acts neither as the service role nor as an API key.
        """
        api_key = hidden(api_key)
        return self._run(operations.verify(api_key))

    def log_usage(
        self,
        api_key_id: UUID | str,
        *,
        endpoint: str,
        method: str,
        status_code: int | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
    ) -> UsageLog:
        """Write a line about a request that came with an API key.

        Calls the database function ``log_api_key_usage``, as the service role; it also moves the
        key's `last_used_at`.

        Args:
            api_key_id: The id that `verify` gave.
            endpoint: What was asked for, such as ``/v1/segments``: any text but an empty one. In
                this and the other texts, characters that PostgreSQL cannot store (NUL and lone
                surrogates) are replaced by U+FFFD.
            method: The HTTP method.
            status_code: The HTTP status that it was answered with.
            ip_address: Where it came from; an empty text is None.
            user_agent: What it said it was; an empty text is None.

        Returns:
            The line's id and time.

        Raises:
            UsageLogError: The database could not write it, for one because there is no such key.
            PermissionDeniedError: The client does not act as the service role.
        """
        return self._run(
            operations.log_usage(
                api_key_id,
                endpoint=endpoint,
                method=method,
                status_code=status_code,
                ip_address=ip_address,
                user_agent=user_agent,
            )
        )

    def log_usage_batch(self, events: Iterable[UsageEvent]) -> builtins.list[Outcome[UsageLog]]:
        """Write many lines about requests that came with API keys.

        Calls the database function ``log_api_key_usage_batch``, as the service role, with at most
        1,000 events at a time. What the server or the connection says is part of the outcomes and
        not raised, so that no event is lost in silence::

            for outcome in client.api_keys.log_usage_batch(events):
                if not outcome:
                    logger.error("not logged: %s: %s", events[outcome.index], outcome.error)

        An event whose error is a UsageLogError was not written; with any other, such as no
            answer in time, nobody knows.

        Args:
            events: The requests, as many as you like.

        Returns:
            An outcome for each event, in their order.
        """
        return self._run(operations.log_usage_batch(events))

    def has_scope(self, entity_type: str, entity_id: str, action: str) -> bool:
        """Tell whether the API key that this client acts as may do something.

        Only for a client from `as_api_key`. Calls the database function ``has_scope``.

        Args:
            entity_type: The kind of entity, such as ``segment``.
            entity_id: Which entity.
            action: What is to be done with it, such as ``read``.

        Returns:
            True when one of the key's scopes covers it; False for a revoked or expired key.

        Raises:
            PermissionDeniedError: The client does not act as an API key.
        """
        return self._run(operations.has_scope(entity_type, entity_id, action))

    def account_id(self) -> UUID | None:
        """Tell the account of the API key that this client acts as.

        Only for a client from `as_api_key`. Calls the database function
        ``get_api_key_account_id``.

        Returns:
            The account's id; None for a revoked, expired or unknown key.

        Raises:
            PermissionDeniedError: The client does not act as an API key.
        """
        return self._run(operations.account_id())


class AsyncApiKeys(AsyncResource):
    """Like :class:`ApiKeys`, awaited."""

    async def create(
        self,
        account_id: UUID | str,
        name: str,
        *,
        scopes: Sequence[Scope] = (),
        expires_at: datetime | None = None,
    ) -> CreatedApiKey:
        """Like :meth:`ApiKeys.create`, awaited."""
        return await self._run(operations.create(account_id, name, scopes, expires_at))

    async def list(self, account_id: UUID | str, *, page_size: int = 100) -> AsyncPage[ApiKey]:
        """Like :meth:`ApiKeys.list`, awaited.

        The page is walked with ``async for``::

            async for key in await client.api_keys.list(account_id):
                print(key.name, key.key_prefix)
        """
        return await self._page(operations.listing(account_id, page_size))

    async def revoke(self, api_key_id: UUID | str) -> None:
        """Like :meth:`ApiKeys.revoke`, awaited."""
        return await self._run(operations.revoke(api_key_id))

    async def revoke_all_of(self, user_id: UUID | str, account_id: UUID | str | None = None) -> int:
        """Like :meth:`ApiKeys.revoke_all_of`, awaited."""
        return await self._run(operations.revoke_all_of(user_id, account_id))

    async def verify(self, api_key: str | SecretStr) -> ValidApiKey | InvalidApiKey:
        """Like :meth:`ApiKeys.verify`, awaited."""
        api_key = hidden(api_key)
        return await self._run(operations.verify(api_key))

    async def log_usage(
        self,
        api_key_id: UUID | str,
        *,
        endpoint: str,
        method: str,
        status_code: int | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
    ) -> UsageLog:
        """Like :meth:`ApiKeys.log_usage`, awaited."""
        return await self._run(
            operations.log_usage(
                api_key_id,
                endpoint=endpoint,
                method=method,
                status_code=status_code,
                ip_address=ip_address,
                user_agent=user_agent,
            )
        )

    async def log_usage_batch(
        self, events: Iterable[UsageEvent]
    ) -> builtins.list[Outcome[UsageLog]]:
        """Like :meth:`ApiKeys.log_usage_batch`, awaited."""
        return await self._run(operations.log_usage_batch(events))

    async def has_scope(self, entity_type: str, entity_id: str, action: str) -> bool:
        """Like :meth:`ApiKeys.has_scope`, awaited."""
        return await self._run(operations.has_scope(entity_type, entity_id, action))

    async def account_id(self) -> UUID | None:
        """Like :meth:`ApiKeys.account_id`, awaited."""
        return await self._run(operations.account_id())
