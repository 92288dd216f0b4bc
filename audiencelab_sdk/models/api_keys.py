"""API keys, their scopes, verifications and usage log."""

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

from audiencelab_sdk._limits import LONGEST_ENDPOINT, LONGEST_LOG_TEXT, LONGEST_USER_AGENT
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
    """A key that exists, is active and has not expired. It is truthy.

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
        error: The error message, the same for unknown, revoked and expired keys.
    """

    valid: Literal[False] = False
    api_key_id: None = None
    account_id: None = None
    error: Annotated[str, AfterValidator(shown)]

    def __bool__(self) -> Literal[False]:
        return False


ApiKeyVerification: TypeAlias = ValidApiKey | InvalidApiKey
"""The result of `verify`. Type checkers narrow it by its truth value."""


def _storable(longest: int) -> BeforeValidator:
    # HTTP clients control these texts, which must not make the log entry fail.
    return BeforeValidator(
        lambda value: storable(value[:longest]) if isinstance(value, str) else value
    )


_EMPTY_AS_NONE = BeforeValidator(lambda value: None if value == "" else value)


class UsageEvent(Model, frozen=True, extra="forbid"):
    """A request that was made with an API key, for `log_usage_batch`.

    In all texts, characters that PostgreSQL cannot store (NUL and lone surrogates) are replaced by
    U+FFFD.

    Attributes:
        api_key_id: The id that `verify` returned.
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
    status_code: Annotated[int, Field(strict=True, ge=100, le=999)] | None = None
    ip_address: Annotated[str | None, _storable(LONGEST_LOG_TEXT), _EMPTY_AS_NONE] = None
    user_agent: Annotated[str | None, _storable(LONGEST_USER_AGENT), _EMPTY_AS_NONE] = None
    timestamp: AwareDatetime | None = None


class UsageLog(Model, frozen=True):
    """An entry of the usage log.

    Attributes:
        log_id: The entry's id.
        timestamp: The time of the request, or of the entry if no time was passed.
    """

    log_id: UUID
    timestamp: AwareDatetime
