"""API keys, their scopes, verifications and usage log."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal, TypeAlias, cast
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    SecretStr,
    StrictBool,
    StringConstraints,
)

from audiencelab_sdk._limits import (
    HIGHEST_STATUS,
    LONGEST_ENDPOINT,
    LONGEST_LOG_TEXT,
    LONGEST_USER_AGENT,
    LOWEST_STATUS,
)
from audiencelab_sdk._text import shown, storable
from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import Timestamp

_Text = Annotated[str, StringConstraints(min_length=1)]


class Scope(Model, frozen=True):
    """A permission of an API key: an action on an entity. ``"*"`` in a field matches any value.

    ``Scope(entity_type="segment", entity_id="*", action="read")`` lets a key read every segment.

    Attributes:
        entity_type: The kind of entity, such as ``segment``.
        entity_id: The entity's id.
        action: The action, such as ``read``.
    """

    entity_type: _Text
    entity_id: _Text
    action: _Text


def _well_formed(scopes: Any) -> list[Any]:
    # Keys older than the database's check may have malformed scopes. These grant nothing, and must
    # not make the key unreadable.
    if not isinstance(scopes, list | tuple):
        return []
    return [scope for scope in cast("list[Any]", scopes) if _is_scope(scope)]


def _is_scope(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, Scope)
    texts = [cast("dict[str, Any]", value).get(name) for name in Scope.model_fields]
    return all(isinstance(text, str) and text for text in texts)


class ApiKey(Model, frozen=True):
    """An API key, without its text.

    Attributes:
        id: The key's id.
        name: A label for people.
        key_prefix: The first seven characters of the key, to recognize it by.
        scopes: What the key may do.
        expires_at: When the key expires. None means never.
        created_at: When the key was created.
        last_used_at: When use of the key was last logged, to the minute. None means never.
        is_active: False if the key is revoked.
        created_by: The user who created the key.
    """

    id: UUID
    name: str
    key_prefix: str
    scopes: Annotated[tuple[Scope, ...], BeforeValidator(_well_formed)]
    expires_at: Timestamp | None
    created_at: AwareDatetime
    last_used_at: Timestamp | None
    is_active: StrictBool
    created_by: UUID | None


class ApiKeyDetails(ApiKey, frozen=True):
    """An API key with everything that is known of it, without its text.

    Attributes:
        id: The key's id.
        name: A label for people.
        key_prefix: The first seven characters of the key, to recognize it by.
        scopes: What the key may do.
        expires_at: When the key expires. None means never.
        created_at: When the key was created.
        last_used_at: When use of the key was last logged, to the minute. None means never.
        is_active: False if the key is revoked.
        created_by: The user who created the key.
        account_id: The account that owns the key.
        disabled_at: When the key was disabled. None if it is enabled.
        metadata: Further data about the key.
        allowed_ips: The networks from which the key may be used. None means from everywhere.
        successor_id: The key that replaces it. None unless it was rotated.
    """

    account_id: UUID
    disabled_at: Timestamp | None
    metadata: dict[str, Any]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] | None
    successor_id: UUID | None


class CreatedApiKey(Model, frozen=True):
    """A new API key, with its text, which cannot be read again.

    Attributes:
        id: The key's id.
        name: A label for people.
        key: The key. ``key.get_secret_value()`` is its text.
        key_prefix: The first seven characters of the key, to recognize it by.
        account_id: The account that owns the key.
        scopes: What the key may do.
        expires_at: When the key expires. None means never.
        created_at: When the key was created.
    """

    id: UUID
    name: str
    key: SecretStr
    key_prefix: str
    account_id: UUID
    scopes: tuple[Scope, ...]
    expires_at: AwareDatetime | None
    created_at: AwareDatetime


class ValidApiKey(Model, frozen=True):
    """A key that exists, is neither revoked nor disabled and has not expired. It is truthy.

    Attributes:
        valid: True.
        api_key_id: The key's id.
        account_id: The account that owns the key.
        error: None.
    """

    valid: Literal[True] = True
    api_key_id: UUID
    account_id: UUID
    error: None = None

    def __bool__(self) -> Literal[True]:
        return True


class InvalidApiKey(Model, frozen=True):
    """A text that is not a valid key. It is falsy.

    Attributes:
        valid: False.
        api_key_id: None.
        account_id: None.
        error: The error message, the same for unknown, revoked, disabled and expired
            keys.
    """

    valid: Literal[False] = False
    api_key_id: None = None
    account_id: None = None
    error: Annotated[str, AfterValidator(shown)]

    def __bool__(self) -> Literal[False]:
        return False


ApiKeyVerification: TypeAlias = ValidApiKey | InvalidApiKey
"""The result of `verify`. Type checkers narrow it by its truth value."""


class RejectionCode(StrEnum):
    """Why `authenticate` rejects a text."""

    NOT_FOUND = "not_found"
    REVOKED = "revoked"
    DISABLED = "disabled"
    EXPIRED = "expired"
    IP_NOT_ALLOWED = "ip_not_allowed"


class AuthenticatedApiKey(Model, frozen=True):
    """A key that may be used, with what it may do. It is truthy.

    Attributes:
        valid: True.
        code: ``valid``.
        api_key_id: The key's id.
        account_id: The account that owns the key.
        name: A label for people.
        scopes: What the key may do. `allows` decides with them.
        expires_at: When the key expires. None means never.
        created_by: The user who created the key. None if that user was deleted.
        metadata: Further data about the key.
        ip_restricted: Whether the key may be used from certain networks only, so that the result
            holds for this address only.
    """

    valid: Literal[True]
    code: Literal["valid"]
    api_key_id: UUID
    account_id: UUID
    name: str
    scopes: Annotated[tuple[Scope, ...], BeforeValidator(_well_formed)]
    expires_at: Timestamp | None
    created_by: UUID | None
    metadata: dict[str, Any]
    ip_restricted: StrictBool

    def __bool__(self) -> Literal[True]:
        return True

    def allows(self, entity_type: str, entity_id: str, action: str) -> bool:
        """Return whether one of the scopes covers an action, as `has_scope` does.

        Args:
            entity_type: The kind of entity, such as ``segment``.
            entity_id: The entity's id.
            action: The action, such as ``read``.
        """
        # A loop, because backends call it for each request.
        for scope in self.scopes:
            if (
                scope.entity_type in (entity_type, "*")
                and scope.entity_id in (entity_id, "*")
                and scope.action in (action, "*")
            ):
                return True
        return False


class RejectedApiKey(Model, frozen=True):
    """A text that is not a key, or a key that may not be used. It is falsy.

    Return only `error` to the caller. The other attributes identify the key, for your own logs.

    Attributes:
        valid: False.
        code: Why it is rejected. A code that this version of the SDK does not know is a str.
        api_key_id: The key's id. None if there is no such key.
        account_id: The account that owns the key. None if there is no such key.
        name: A label for people. None if there is no such key.
        expires_at: When the key expires or expired. None means never.
        created_by: The user who created the key.
        error: The same message for all codes.
    """

    valid: Literal[False] = False
    code: Annotated[RejectionCode | str, Field(union_mode="left_to_right")]
    api_key_id: UUID | None = None
    account_id: UUID | None = None
    name: str | None = None
    expires_at: Timestamp | None = None
    created_by: UUID | None = None

    def __bool__(self) -> Literal[False]:
        return False

    @property
    def error(self) -> str:
        """The error message, the same for all codes."""
        return "Invalid API key"


ApiKeyAuthentication: TypeAlias = AuthenticatedApiKey | RejectedApiKey
"""The result of `authenticate`. Type checkers narrow it by its truth value."""


def _storable(longest: int) -> BeforeValidator:
    # HTTP clients control these texts, which must not make the log entry fail.
    return BeforeValidator(
        lambda value: storable(value[:longest]) if isinstance(value, str) else value
    )


_Status = Annotated[int, Field(strict=True, ge=LOWEST_STATUS, le=HIGHEST_STATUS)]
_EMPTY_AS_NONE = BeforeValidator(lambda value: None if value == "" else value)


class UsageEvent(Model, frozen=True, extra="forbid"):
    """A request that was made with an API key, for `log_usage_batch`.

    In all texts, characters that PostgreSQL cannot store (NUL and lone surrogates) are replaced by
    U+FFFD.

    Attributes:
        api_key_id: The id that `verify` returned.
        log_id: The id of the entry. An event whose id is logged already is not written again, so
            with an id a call may be repeated. None means a new id in each call.
        endpoint: The requested path, such as ``/v1/segments``, truncated to 2,000 characters.
        method: The HTTP method, truncated to 255 characters.
        status_code: The HTTP status of the response, 100 to 999.
        ip_address: The client's address, truncated to 255 characters. An empty text becomes None.
        user_agent: The client's User-Agent header, truncated to 1,000 characters. An empty text
            becomes None.
        timestamp: The time of the request, an aware datetime. None means the time of the entry.
    """

    api_key_id: UUID
    endpoint: Annotated[_Text, _storable(LONGEST_ENDPOINT)]
    method: Annotated[_Text, _storable(LONGEST_LOG_TEXT)]
    status_code: _Status | None = None
    ip_address: Annotated[str | None, _storable(LONGEST_LOG_TEXT), _EMPTY_AS_NONE] = None
    user_agent: Annotated[str | None, _storable(LONGEST_USER_AGENT), _EMPTY_AS_NONE] = None
    timestamp: AwareDatetime | None = None
    log_id: UUID | None = None


class LoggedRequest(Model, frozen=True):
    """A request that was made with an API key, from `log`.

    Attributes:
        id: The entry's id.
        api_key_id: The key. None if it was deleted.
        endpoint: The requested path.
        method: The HTTP method.
        status_code: The HTTP status of the response. None if it was not passed.
        ip_address: The client's address. None if it was not passed.
        user_agent: The client's User-Agent header. None if it was not passed.
        timestamp: The time of the request.
    """

    id: UUID
    api_key_id: UUID | None
    endpoint: str
    method: str
    status_code: int | None
    ip_address: str | None
    user_agent: str | None
    timestamp: AwareDatetime


class UsageCount(Model, frozen=True):
    """How often an API key was used within an hour, day or month, from `usage`.

    Attributes:
        api_key_id: The key.
        bucket: The beginning of the hour, day or month, in UTC.
        requests: The number of requests.
        errors: How many of them had a status of 400 or more.
        last_used_at: The time of the last one.
    """

    api_key_id: UUID
    bucket: AwareDatetime
    requests: int
    errors: int
    last_used_at: Timestamp | None


class ApiKeyEvent(Model, frozen=True):
    """A change of an API key, from `events`.

    Attributes:
        id: The event's id.
        api_key_id: The key, which may be deleted.
        event: ``create``, ``update``, ``disable``, ``enable``, ``rotate`` or ``revoke``.
        actor_type: Who made the change: ``user``, ``api_key`` or ``service``.
        actor_id: The id of the user or API key.
        changes: The old and the new value of each field that changed. Never a key or a hash.
        created_at: When the change was made.
    """

    id: UUID
    api_key_id: UUID
    event: str
    actor_type: str
    actor_id: UUID | None
    changes: dict[str, Any] | None
    created_at: AwareDatetime


class UsageLog(Model, frozen=True):
    """An entry of the usage log.

    Attributes:
        log_id: The entry's id.
        timestamp: The time of the request, or of the entry if no time was passed.
    """

    log_id: UUID
    timestamp: AwareDatetime
