"""API keys: `client.api_keys`."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, SecretStr, StrictBool, StrictInt, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_text,
    checked_uuid,
)
from audiencelab_sdk._http._listing import Listing, by_columns, by_parameters, checked_page_size
from audiencelab_sdk._http._operation import (
    Operation,
    rpc,
)
from audiencelab_sdk._http._reading import Rows, read
from audiencelab_sdk._http._resource import D, listing, operation
from audiencelab_sdk._key_format import may_be_api_key
from audiencelab_sdk._resources._api_key_fields import address, fields
from audiencelab_sdk._resources._key_changes import KeyChange, announced
from audiencelab_sdk._resources._usage import KeyUsage, of_account
from audiencelab_sdk._secrets import checked_secret, hidden
from audiencelab_sdk.errors import (
    InvalidArgumentError,
)
from audiencelab_sdk.models import (
    UNSET,
    ApiKey,
    ApiKeyAuthentication,
    ApiKeyDetails,
    ApiKeyEvent,
    ApiKeyVerification,
    CreatedApiKey,
    InvalidApiKey,
    RejectedApiKey,
    RejectionCode,
    Scope,
    Unset,
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
_DETAILS = TypeAdapter(ApiKeyDetails)
_EVENTS = Rows(
    "list_api_key_events",
    TypeAdapter(ApiKeyEvent),
    TypeAdapter(list[ApiKeyEvent], config=Model.model_config),
)
_AUTHENTICATION: TypeAdapter[ApiKeyAuthentication] = TypeAdapter(
    Annotated[ApiKeyAuthentication, Field(discriminator="valid")]
)
_COUNT: TypeAdapter[int] = TypeAdapter(StrictInt)
_BOOL: TypeAdapter[bool] = TypeAdapter(StrictBool)
_TRUE = TypeAdapter(Literal[True])
_ID_OR_NONE: TypeAdapter[UUID | None] = TypeAdapter(UUID | None)

_LONGEST_OVERLAP = timedelta(days=30)


class ApiKeys(KeyUsage[D]):
    """The API keys of accounts: create, change, rotate, revoke and check them, and log their use.

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
        account = {"p_account_id": str(checked_uuid("account_id", account_id))}
        given = fields({"name": name, "scopes": scopes, "expires_at": expires_at})
        response = yield rpc("create_api_key", account | _parameters(given), repeatable=False)
        return read("create_api_key", _CREATED, response)

    @operation
    def issue(
        self,
        account_id: UUID | str,
        name: str,
        *,
        created_by: UUID | str,
        scopes: Sequence[Scope] = (),
        expires_at: datetime | None = None,
    ) -> Operation[CreatedApiKey]:
        """Create an API key on behalf of a member of the account, as the service role.

        Calls the database function ``issue_api_key``. The request is retried only if it was never
        sent: after a lost response, or a 502, 503 or 504, check `list` first.

        Args:
            account_id: The account that owns the key.
            name: A label for people, 1 to 255 characters.
            created_by: The user who becomes the creator, a member of the account.
            scopes: What the key may do. Without scopes it may do nothing.
            expires_at: When the key expires, as an aware datetime. None means never.

        Returns:
            The new key. Its text is returned only here.

        Raises:
            PermissionDeniedError: The client does not act as the service role.
            InvalidRequestError: `created_by` is not a member of the account, or a scope has a field
                other than `entity_type`, `entity_id` and `action`.
            ConflictError: The account has 1,000 live API keys.
        """
        ids = {
            "p_account_id": str(checked_uuid("account_id", account_id)),
            "p_created_by": str(checked_uuid("created_by", created_by)),
        }
        given = fields({"name": name, "scopes": scopes, "expires_at": expires_at})
        response = yield rpc("issue_api_key", ids | _parameters(given), repeatable=False)
        return read("issue_api_key", _CREATED, response)

    @operation
    def get(self, api_key_id: UUID | str) -> Operation[ApiKeyDetails]:
        """Return an API key, also if it is revoked, disabled or expired.

        Calls the database function ``get_api_key``, as the service role or as a user who is a
        member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Returns:
            The key, without its text.

        Raises:
            NotFoundError: The key does not exist, or the caller is not a member of its account.
            PermissionDeniedError: The client acts as an API key.
        """
        response = yield rpc("get_api_key", _key(api_key_id), repeatable=True)
        return read("get_api_key", _DETAILS, response)

    @operation
    def update(
        self,
        api_key_id: UUID | str,
        *,
        name: str | Unset = UNSET,
        scopes: Sequence[Scope] | Unset = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        metadata: Mapping[str, Any] | Unset = UNSET,
        allowed_ips: Sequence[str | IPv4Network | IPv6Network] | Unset | None = UNSET,
    ) -> Operation[ApiKeyDetails]:
        """Update an API key. Omitted arguments are left unchanged.

        Calls the database function ``update_api_key``, as the service role or as a user who is a
        member of the account::

            client.api_keys.update(key_id, expires_at=None, allowed_ips=["192.0.2.0/24"])

        Args:
            api_key_id: The key's id, not its text.
            name: The new label, 1 to 255 characters.
            scopes: What the key may do. They replace all current ones.
            expires_at: When the key expires, as an aware datetime. None means never.
            metadata: Further data about the key, a JSON object of at most 4,096 bytes. It replaces
                the current one.
            allowed_ips: 1 to 50 networks from which the key may be used. None means from
                everywhere. A key with networks is valid in `authenticate` only.

        Returns:
            The updated key, without its text.

        Raises:
            NotFoundError: The key does not exist, or the caller is not a member of its account.
            PermissionDeniedError: The caller lacks the account role that manages API keys, or the
                client acts as an API key.
            ConflictError: The key is revoked; or it is expired, and the account has 1,000 live API
                keys.
            InvalidRequestError: The expiry is later than a rotated key may have, or a scope has a
                field other than `entity_type`, `entity_id` and `action`.
            InvalidArgumentError: No argument but `api_key_id` was passed, or one is invalid.
        """
        given = {
            "name": name,
            "scopes": scopes,
            "expires_at": expires_at,
            "metadata": metadata,
            "allowed_ips": allowed_ips,
        }
        changes = {field: value for field, value in given.items() if value is not UNSET}
        if not changes:
            raise InvalidArgumentError("there is nothing to update: pass what is to change")
        arguments = _key(api_key_id) | {"p_changes": fields(changes)}
        with announced(_change(arguments)):
            response = yield rpc("update_api_key", arguments, repeatable=True)
        return read("update_api_key", _DETAILS, response)

    @operation
    def disable(self, api_key_id: UUID | str) -> Operation[ApiKeyDetails]:
        """Disable an API key until `enable`. Disabling it again changes nothing.

        Calls the database function ``disable_api_key``, as the service role or as a user who is a
        member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Returns:
            The updated key, without its text.

        Raises:
            NotFoundError: The key does not exist, or the caller is not a member of its account.
            PermissionDeniedError: The caller lacks the account role that manages API keys, or the
                client acts as an API key.
            ConflictError: The key is revoked.
        """
        arguments = _key(api_key_id)
        with announced(_change(arguments)):
            response = yield rpc("disable_api_key", arguments, repeatable=True)
        return read("disable_api_key", _DETAILS, response)

    @operation
    def enable(self, api_key_id: UUID | str) -> Operation[ApiKeyDetails]:
        """Enable a disabled API key. Enabling it again changes nothing.

        Calls the database function ``enable_api_key``, as the service role or as a user who is a
        member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Returns:
            The updated key, without its text.

        Raises:
            NotFoundError: The key does not exist, or the caller is not a member of its account.
            PermissionDeniedError: The caller lacks the account role that manages API keys, or the
                client acts as an API key.
            ConflictError: The key is revoked.
        """
        arguments = _key(api_key_id)
        with announced(_change(arguments)):
            response = yield rpc("enable_api_key", arguments, repeatable=True)
        return read("enable_api_key", _DETAILS, response)

    @operation
    def rotate(
        self, api_key_id: UUID | str, *, overlap: timedelta = timedelta(days=1)
    ) -> Operation[CreatedApiKey]:
        """Replace an API key by a new one with the same name, scopes and lifetime.

        The new key also has the metadata and the networks of the old one.
        Calls the database function ``rotate_api_key``, as the service role or as a user who is a
        member of the account. The request is retried only if it was never sent. If the response was
        lost, a second call raises a ConflictError that names the new key, which can be rotated in
        turn.

        Args:
            api_key_id: The key's id, not its text.
            overlap: How long the old key remains valid, up to 30 days, unless it expires earlier.

        Returns:
            The new key. Its text is returned only here.

        Raises:
            NotFoundError: The key does not exist, or the caller is not a member of its account.
            PermissionDeniedError: The caller lacks the account role that manages API keys, or the
                client acts as an API key.
            ConflictError: The key is revoked, disabled, expired or already rotated.
        """
        arguments = _key(api_key_id) | {"p_overlap": _checked_overlap(overlap)}
        with announced(_change(arguments)):
            response = yield rpc("rotate_api_key", arguments, repeatable=False)
        return read("rotate_api_key", _CREATED, response)

    @listing
    def list(
        self, account_id: UUID | str, *, page_size: int = 100, cursor: str | None = None
    ) -> Listing[ApiKey]:
        """List the account's keys, newest first, including revoked and expired ones.

        Calls the database function ``list_api_keys``, as the service role or as a user who is a
        member of the account::

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
            PermissionDeniedError: The caller is a user who is not a member of the account, the
                account does not exist, or the client acts as an API key.
        """
        arguments = {"p_account_id": str(checked_uuid("account_id", account_id))}
        listing = Listing(
            _KEYS,
            by_columns(lambda api: api.rpc("list_api_keys", arguments)),
            checked_page_size(page_size),
            repr(arguments),
        )
        return listing.starting_at(cursor)

    @operation
    def revoke(self, api_key_id: UUID | str) -> Operation[None]:
        """Revoke a key permanently. Revoking it again changes nothing.

        Calls the database function ``revoke_api_key``, as the service role or as a user who is a
        member of the account.

        Args:
            api_key_id: The key's id, not its text.

        Raises:
            PermissionDeniedError: The caller is a user who is not a member of the key's account or
                lacks the account role that manages API keys, the key does not exist, or the client
                acts as an API key.
        """
        arguments = _key(api_key_id)
        with announced(_change(arguments)):
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
        creator = checked_uuid("user_id", user_id)
        arguments = {"p_user_id": str(creator)}
        if account_id is not None:
            arguments["p_account_id"] = str(checked_uuid("account_id", account_id))
        with announced(KeyChange(created_by=creator)):
            response = yield rpc("revoke_api_keys_of", arguments, repeatable=True)
        return read("revoke_api_keys_of", _COUNT, response)

    @operation
    def verify(self, api_key: str | SecretStr) -> Operation[ApiKeyVerification]:
        """Check whether a text is a valid API key, and whose.

        Calls the database function ``verify_api_key``, as the service role or as an API key.
        Malformed keys, such as mistyped ones, are rejected without a request::

            verification = client.api_keys.verify(request.headers.get("x-api-key", ""))
            if not verification:
                return unauthorized(verification.error)

        Args:
            api_key: The text that came with the request. It may contain anything.

        Returns:
            A ValidApiKey, which is truthy and has the key's id and account, or an InvalidApiKey,
            which is falsy and has the same error message for unknown, revoked, disabled and expired
            keys, and for keys that may be used from certain networks only: see `authenticate`.

        Raises:
            PermissionDeniedError: The client acts as a user, or as an API key that is revoked,
                disabled or expired.
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
    def authenticate(
        self, api_key: str | SecretStr, ip: str | IPv4Address | IPv6Address | None = None
    ) -> Operation[ApiKeyAuthentication]:
        """Check whether a text is an API key that may be used, whose, and what it may do.

        Calls the database function ``authenticate_api_key``, as the service role. Malformed keys,
        such as mistyped ones, are rejected without a request::

            text = request.headers.get("x-api-key", "")
            caller = client.api_keys.authenticate(text, request.remote_addr)
            if not caller:
                return unauthorized(caller.error)
            if not caller.allows("segment", segment_id, "read"):
                return forbidden()

        Args:
            api_key: The text that came with the request. It may contain anything.
            ip: The client's address. Without it, keys that may be used from certain networks only
                are rejected.

        Returns:
            An AuthenticatedApiKey, which is truthy and has the key's account and scopes, or a
            RejectedApiKey, which is falsy and has the reason.

        Raises:
            PermissionDeniedError: The client does not act as the service role.
            RateLimitError: Within 30 seconds, too many invalid keys had the prefix of a key that is
                still hashed with bcrypt. `retry_after` is the time to wait, in seconds.
        """
        api_key = hidden(api_key)
        key = checked_secret("api_key", api_key)
        client_address = address(ip)
        if not may_be_api_key(key.get_secret_value()):
            logger.debug("%s.authenticate: no request for a malformed API key", self._subject)
            return RejectedApiKey(code=RejectionCode.NOT_FOUND)
        arguments = {"p_api_key": key, "p_ip": client_address}
        response = yield rpc("authenticate_api_key", arguments, repeatable=True)
        return read("authenticate_api_key", _AUTHENTICATION, response)

    @listing
    def events(
        self,
        account_id: UUID | str,
        *,
        api_key_id: UUID | str | None = None,
        page_size: int = 100,
        cursor: str | None = None,
    ) -> Listing[ApiKeyEvent]:
        """List who created, changed, rotated or revoked the account's keys, newest first.

        Calls the database function ``list_api_key_events``, as the service role or as a user who is
        a member of the account.

        Args:
            account_id: The account.
            api_key_id: Only events of this key, which may be deleted.
            page_size: How many events to fetch per request, 1 to 1000.
            cursor: The `cursor` of a page of the same list, to continue after that page.

        Returns:
            The first page. Iterating over it fetches the following pages as needed.

        Raises:
            PermissionDeniedError: The caller is a user who is not a member of the account, the
                account does not exist, or the client acts as an API key.
            NotFoundError: The key does not belong to the account.
        """
        arguments = of_account(account_id, api_key_id)
        listing = Listing(
            _EVENTS,
            by_parameters("list_api_key_events", arguments),
            checked_page_size(page_size),
            repr(arguments),
        )
        return listing.starting_at(cursor)

    @operation
    def has_scope(self, entity_type: str, entity_id: str, action: str) -> Operation[bool]:
        """Check whether the API key that this client acts as has a permission.

        Only for a client that acts as an API key (`api_key=` or `as_api_key`). Calls the database
        function ``has_scope``.

        Args:
            entity_type: The kind of entity, such as ``segment``.
            entity_id: The entity's id.
            action: The action, such as ``read``.

        Returns:
            True if one of the key's scopes covers the action. False for a key that is revoked,
            disabled or expired.

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

        Only for a client that acts as an API key (`api_key=` or `as_api_key`). Calls the database
        function ``get_api_key_account_id``.

        Returns:
            The account's id. None for a key that is unknown, revoked, disabled or
            expired.

        Raises:
            PermissionDeniedError: The client does not act as an API key.
        """
        response = yield rpc("get_api_key_account_id", {}, repeatable=True)
        return read("get_api_key_account_id", _ID_OR_NONE, response)


def _key(api_key_id: Any) -> dict[str, Any]:
    return {"p_api_key_id": str(checked_uuid("api_key_id", api_key_id))}


def _change(arguments: Mapping[str, Any]) -> KeyChange:
    return KeyChange(api_key_id=UUID(arguments["p_api_key_id"]))


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {f"p_{name}": value for name, value in given.items()}


def _checked_overlap(value: Any) -> str:
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= _LONGEST_OVERLAP:
        raise InvalidArgumentError(
            f"overlap must be a timedelta of 0 to {_LONGEST_OVERLAP.days} days"
        )
    return f"{value.total_seconds():f} seconds"
