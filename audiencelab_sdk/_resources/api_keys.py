"""API keys: `client.api_keys`."""

import builtins
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, SecretStr, StrictBool, StrictInt, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_future,
    checked_int,
    checked_items,
    checked_text,
    checked_uuid,
    made_storable,
)
from audiencelab_sdk._http._listing import Listing, checked_page_size
from audiencelab_sdk._http._operation import Operation, rpc
from audiencelab_sdk._http._reading import Rows, read
from audiencelab_sdk._http._resource import D, Resource, listing, operation
from audiencelab_sdk._key_format import may_be_api_key
from audiencelab_sdk._limits import (
    LONGEST_ENDPOINT,
    LONGEST_ITEM,
    LONGEST_LOG_TEXT,
    LONGEST_NAME,
    LONGEST_USER_AGENT,
    MOST_SCOPES,
)
from audiencelab_sdk._resources._usage_log import read_batch, read_log
from audiencelab_sdk._secrets import checked_secret, hidden
from audiencelab_sdk.errors import (
    AudienceLabError,
    InvalidArgumentError,
)
from audiencelab_sdk.models import (
    ApiKey,
    ApiKeyVerification,
    CreatedApiKey,
    InvalidApiKey,
    Outcome,
    Scope,
    UsageEvent,
    UsageLog,
)
from audiencelab_sdk.models._base import Model

logger = logging.getLogger("audiencelab_sdk")

_CREATED = TypeAdapter(CreatedApiKey)
_KEYS = Rows(
    "list_api_keys", TypeAdapter(ApiKey), TypeAdapter(list[ApiKey], config=Model.model_config)
)
_VERIFICATION: TypeAdapter[ApiKeyVerification] = TypeAdapter(
    Annotated[ApiKeyVerification, Field(discriminator="valid")]
)
_COUNT: TypeAdapter[int] = TypeAdapter(StrictInt)
_BOOL: TypeAdapter[bool] = TypeAdapter(StrictBool)
_TRUE = TypeAdapter(Literal[True])
_ID_OR_NONE: TypeAdapter[UUID | None] = TypeAdapter(UUID | None)

# The database function accepts no more, and PostgREST returns no more rows.
_EVENTS_PER_REQUEST = 1000


class ApiKeys(Resource[D]):
    """The API keys of accounts: create, list, revoke and verify them, and log their use.

    Ids are UUIDs or their text.

    Besides the errors that it documents, every method raises:

    - InvalidArgumentError if an argument is invalid. No request is sent then.
    - AuthenticationError if the server rejects the key or the access token, or if the client has
      only the publishable (anon) key and no access token.
    - APIConnectionError if no response arrives.
    - UnexpectedResponseError if the body of the response has an unexpected format.
    - ClientClosedError if the client is closed.
    - The APIStatusError for any other error response.
    """

    _subject = "api_keys"

    @operation
    def create(
        self,
        account_id: UUID | str,
        name: str,
        *,
        scopes: Sequence[Scope] = (),
        expires_at: datetime | None = None,
    ) -> Operation[CreatedApiKey]:
        """Create an API key, as a user who is a member of the account.

        Calls the database function ``create_api_key``. A transient error is retried only if the
        server did not carry out the request, because a retry could create a second key. After a
        lost response or a 502, 503 or 504, check `list` before you call it again.

        Args:
            account_id: The account that owns the key.
            name: A label for people, 1 to 255 characters.
            scopes: What the key may do. Without scopes it may do nothing.
            expires_at: When the key expires, as an aware datetime. None means never.

        Returns:
            The new key, with its text, which cannot be read again.

        Raises:
            PermissionDeniedError: The caller is not a member of the account or lacks the account
                role that manages API keys, the account does not exist, or the client does not act
                as a user.
            ConflictError: The account has 1,000 live API keys.
            InvalidRequestError: A scope has a field other than `entity_type`, `entity_id` and
                `action`.
        """
        response = yield rpc(
            "create_api_key",
            {
                "p_account_id": str(checked_uuid("account_id", account_id)),
                "p_name": checked_text("name", name, longest=LONGEST_NAME),
                "p_scopes": _checked_scopes(scopes),
                "p_expires_at": None
                if expires_at is None
                else checked_future("expires_at", expires_at).isoformat(),
            },
            repeatable=False,
        )
        return read("create_api_key", _CREATED, response)

    @listing
    def list(
        self, account_id: UUID | str, *, page_size: int = 100, cursor: str | None = None
    ) -> Listing[ApiKey]:
        """List the account's keys, newest first, including revoked and expired ones.

        Calls the database function ``list_api_keys``, as a user who is a member of the account::

            for key in client.api_keys.list(account_id):
                print(key.name, key.key_prefix)

            async for key in async_client.api_keys.list(account_id):
                print(key.name, key.key_prefix)

        Args:
            account_id: The account.
            page_size: How many keys to fetch per request, 1 to 1000.
            cursor: The `cursor` of a page of the same list, to continue after that page.

        Returns:
            The first page. Iterating over it fetches the following pages as needed.

        Raises:
            PermissionDeniedError: The caller is not a member of the account, the account does not
                exist, or the client does not act as a user.
        """
        arguments = {"p_account_id": str(checked_uuid("account_id", account_id))}
        listing = Listing(
            _KEYS,
            lambda api: api.rpc("list_api_keys", arguments),
            checked_page_size(page_size),
            repr(arguments),
        )
        return listing.starting_at(cursor)

    @operation
    def revoke(self, api_key_id: UUID | str) -> Operation[None]:
        """Revoke a key permanently. Revoking it again changes nothing.

        Calls the database function ``revoke_api_key``, as a user who is a member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Raises:
            PermissionDeniedError: The caller is not a member of the key's account or lacks the
                account role that manages API keys, the key does not exist, or the client does not
                act as a user.
        """
        arguments = {"p_api_key_id": str(checked_uuid("api_key_id", api_key_id))}
        response = yield rpc("revoke_api_key", arguments, repeatable=True)
        read("revoke_api_key", _TRUE, response)

    @operation
    def revoke_all_of(
        self, user_id: UUID | str, account_id: UUID | str | None = None
    ) -> Operation[int]:
        """Revoke all API keys that a user created, such as one who left or lost a laptop.

        Calls the database function ``revoke_api_keys_of``, as the service role, or as a user who
        is a member of `account_id`.

        Args:
            user_id: The user who created the keys.
            account_id: The account whose keys are revoked. None means all accounts and needs the
                service role.

        Returns:
            The number of keys revoked by this call.

        Raises:
            PermissionDeniedError: The caller is a user who names no account, is not a member of it
                or lacks the account role that manages API keys; or the client acts as an API key.
        """
        arguments = {"p_user_id": str(checked_uuid("user_id", user_id))}
        if account_id is not None:
            arguments["p_account_id"] = str(checked_uuid("account_id", account_id))
        response = yield rpc("revoke_api_keys_of", arguments, repeatable=True)
        return read("revoke_api_keys_of", _COUNT, response)

    @operation
    def verify(self, api_key: str | SecretStr) -> Operation[ApiKeyVerification]:
        """Check whether a text is a valid API key, and whose.

        Calls the database function ``verify_api_key``, as the service role or as an API key.
        Malformed keys, such as mistyped ones, are rejected without a request::

            verification = client.api_keys.verify(request.headers["x-api-key"])
            if not verification:
                return unauthorized(verification.error)

        Args:
            api_key: The text that came with the request. It may contain anything.

        Returns:
            A ValidApiKey, which is truthy and has the key's id and account, or an InvalidApiKey,
            which is falsy and has the same error message for unknown, revoked and expired keys.

        Raises:
            PermissionDeniedError: The client acts as a user, or as an API key that is revoked or
                expired.
            RateLimitError: Within 30 seconds, too many invalid keys had the prefix of a key that is
                still hashed with bcrypt. `retry_after` is the number of seconds to wait.
        """
        api_key = hidden(api_key)
        key = checked_secret("api_key", api_key)
        if not may_be_api_key(key.get_secret_value()):
            logger.debug("%s.verify: no request for a malformed API key", self._subject)
            return InvalidApiKey(error="Invalid API key")
        response = yield rpc("verify_api_key", {"p_api_key": key}, repeatable=True)
        return read("verify_api_key", _VERIFICATION, response)

    @operation
    def log_usage(
        self,
        api_key_id: UUID | str,
        *,
        endpoint: str,
        method: str,
        status_code: int | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
    ) -> Operation[UsageLog]:
        """Log a request that was made with an API key.

        Calls the database function ``log_api_key_usage``, as the service role. The function also
        updates the key's `last_used_at`. A transient error is retried only if the server did not
        carry out the request, because a retry could write a second entry.

        Args:
            api_key_id: The id that `verify` returned.
            endpoint: The requested path, such as ``/v1/segments``, not empty. It is truncated to
                2,000 characters. In all texts, characters that PostgreSQL cannot store (NUL and
                lone surrogates) are replaced by U+FFFD.
            method: The HTTP method, not empty, truncated to 255 characters.
            status_code: The HTTP status of the response, 100 to 999.
            ip_address: The client's address, truncated to 255 characters. An empty text is stored
                as null.
            user_agent: The client's User-Agent header, truncated to 1,000 characters. An empty text
                is stored as null.

        Returns:
            The entry's id and time.

        Raises:
            UsageLogError: The database could not write the entry, for example because the key does
                not exist.
            PermissionDeniedError: The client does not act as the service role.
        """
        response = yield rpc(
            "log_api_key_usage",
            {
                "p_api_key_id": str(checked_uuid("api_key_id", api_key_id)),
                "p_endpoint": made_storable("endpoint", endpoint, longest=LONGEST_ENDPOINT),
                "p_method": made_storable("method", method, longest=LONGEST_LOG_TEXT),
                "p_status_code": None
                if status_code is None
                else checked_int("status_code", status_code, 100, 999),
                "p_ip_address": made_storable("ip_address", ip_address, longest=LONGEST_LOG_TEXT)
                if ip_address
                else None,
                "p_user_agent": made_storable("user_agent", user_agent, longest=LONGEST_USER_AGENT)
                if user_agent
                else None,
            },
            repeatable=False,
        )
        return read_log(response)

    @operation
    def log_usage_batch(
        self, events: Iterable[UsageEvent]
    ) -> Operation[builtins.list[Outcome[UsageLog]]]:
        """Log many requests that were made with API keys.

        Calls the database function ``log_api_key_usage_batch``, as the service role, with at most
        1,000 events per request. Errors of the server or the connection are returned in the
        outcomes and not raised, so that no event is lost silently::

            for outcome in client.api_keys.log_usage_batch(events):
                if not outcome:
                    logger.error("not logged: %s: %s", events[outcome.index], outcome.error)

        An event with a UsageLogError was not written. After any other error, such as a timeout, the
        event may have been written.

        Args:
            events: The requests, any number.

        Returns:
            An outcome for each event, in the order of the events.
        """
        batch = checked_items("events", events, UsageEvent)
        outcomes: builtins.list[Outcome[UsageLog]] = []
        for first in range(0, len(batch), _EVENTS_PER_REQUEST):
            chunk = batch[first : first + _EVENTS_PER_REQUEST]
            rows = [event.model_dump(mode="json", exclude_none=True) for event in chunk]
            try:
                response = yield rpc(
                    "log_api_key_usage_batch", {"p_events": rows}, repeatable=False
                )
                outcomes += read_batch(response, first, len(chunk))
            except AudienceLabError as error:
                outcomes += [Outcome(first + index, error=error) for index in range(len(chunk))]
        return outcomes

    @operation
    def has_scope(self, entity_type: str, entity_id: str, action: str) -> Operation[bool]:
        """Check whether the API key that this client acts as has a permission.

        Only for a client from `as_api_key`. Calls the database function ``has_scope``.

        Args:
            entity_type: The kind of entity, such as ``segment``.
            entity_id: The entity's id.
            action: The action, such as ``read``.

        Returns:
            True if one of the key's scopes covers the action. False for a revoked or expired key.

        Raises:
            PermissionDeniedError: The client does not act as an API key.
        """
        arguments = {
            "p_entity_type": checked_text("entity_type", entity_type),
            "p_entity_id": checked_text("entity_id", entity_id),
            "p_action": checked_text("action", action),
        }
        response = yield rpc("has_scope", arguments, repeatable=True)
        return read("has_scope", _BOOL, response)

    @operation
    def account_id(self) -> Operation[UUID | None]:
        """Return the account of the API key that this client acts as.

        Only for a client from `as_api_key`. Calls the database function
        ``get_api_key_account_id``.

        Returns:
            The account's id. None for a revoked, expired or unknown key.

        Raises:
            PermissionDeniedError: The client does not act as an API key.
        """
        response = yield rpc("get_api_key_account_id", {}, repeatable=True)
        return read("get_api_key_account_id", _ID_OR_NONE, response)


def _checked_scopes(scopes: Any) -> list[dict[str, Any]]:
    items = checked_items("scopes", scopes, Scope)
    if len(items) > MOST_SCOPES:
        raise InvalidArgumentError(
            f"scopes has {len(items):,} items; at most {MOST_SCOPES} are allowed"
        )
    for index, scope in enumerate(items):
        for field in Scope.model_fields:
            checked_text(f"scopes[{index}].{field}", getattr(scope, field), longest=LONGEST_ITEM)
    return [scope.model_dump() for scope in items]
