"""API keys, what they may do, and what is said of them."""

from typing import Annotated, Any, Literal, cast
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
from audiencelab_sdk.models._stored import Moment

_Text = Annotated[str, StringConstraints(min_length=1)]


class Scope(Model, frozen=True):
    """A permission: an action on an entity of a type. ``"*"`` in any of the three stands for all.

    ``Scope(entity_type="segment", entity_id="*", action="read")`` lets a key read every segment.

    Attributes:
        entity_type: The kind of entity, such as ``segment``.
        entity_id: Which entity of that kind.
        action: What may be done with it, such as ``read``.
    """

    entity_type: _Text
    entity_id: _Text
    action: _Text


def _well_formed(scopes: Any) -> list[Any]:
    # Keys older than the database's check may carry anything here. What is no scope grants
    # nothing, and must not make the account's other keys unreadable.
    if not isinstance(scopes, list | tuple):
        return []
    return [scope for scope in cast("list[Any]", scopes) if _is_scope(scope)]


def _is_scope(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, Scope)
    texts = [cast("dict[str, Any]", value).get(name) for name in Scope.model_fields]
    return all(isinstance(text, str) and text for text in texts)


class ApiKey(Model, frozen=True):
    """An API key as `list` shows it, without the key itself.

    Attributes:
        id: The key's id.
        name: The name that its maker gave it.
        key_prefix: The first seven characters of the key, to recognise it by.
        scopes: What it may do.
        expires_at: When it stops being valid; None for never.
        created_at: When it was made.
        last_used_at: When its use was last logged, to the minute; None for never.
        is_active: False once it is revoked.
        created_by: The user who made it.
    """

    id: UUID
    name: str
    key_prefix: str
    scopes: Annotated[tuple[Scope, ...], BeforeValidator(_well_formed)]
    expires_at: Moment | None
    created_at: AwareDatetime
    last_used_at: Moment | None
    is_active: StrictBool
    created_by: UUID | None


class CreatedApiKey(Model, frozen=True):
    """A new API key: the only time that the key itself is shown.

    Attributes:
        id: The key's id.
        name: Its name.
        key: The key itself; ``key.get_secret_value()`` is its text.
        key_prefix: The first seven characters of the key, to recognise it by.
        account_id: The account that it belongs to.
        scopes: What it may do.
        expires_at: When it stops being valid; None for never.
        created_at: When it was made.
    """

    id: UUID
    name: str
    key: SecretStr
    key_prefix: str
    account_id: UUID
    scopes: tuple[Scope, ...]
    expires_at: AwareDatetime | None
    created_at: AwareDatetime


class ApiKeyVerification(Model, frozen=True):
    """Whether a text is a valid API key: a :class:`ValidApiKey` or an :class:`InvalidApiKey`.

    Its truth value is `valid`, and type checkers know which of the two it is once it was asked.

    Attributes:
        valid: True for a key that exists, is active and has not expired.
        api_key_id: The key's id, when it is valid.
        account_id: The key's account, when it is valid.
        error: Why it is not valid: the same for unknown, revoked and expired keys.
    """

    valid: StrictBool
    api_key_id: UUID | None
    account_id: UUID | None
    error: str | None

    def __bool__(self) -> bool:
        return self.valid


class ValidApiKey(ApiKeyVerification, frozen=True):
    """A key that exists, is active and has not expired. It is truthy.

    Attributes:
        valid: True.
        api_key_id: The key's id.
        account_id: The account that it belongs to.
        error: None.
    """

    valid: Literal[True] = True
    api_key_id: UUID
    account_id: UUID
    error: None = None

    def __bool__(self) -> Literal[True]:
        return True


class InvalidApiKey(ApiKeyVerification, frozen=True):
    """A text that is not a valid key. It is falsy.

    Attributes:
        valid: False.
        api_key_id: None.
        account_id: None.
        error: Why: the same for unknown, revoked and expired keys.
    """

    valid: Literal[False] = False
    api_key_id: None = None
    account_id: None = None
    error: Annotated[str, AfterValidator(shown)]

    def __bool__(self) -> Literal[False]:
        return False


def _storable(longest: int) -> BeforeValidator:
    # What a client says of itself may hold anything, and must not cost the record.
    return BeforeValidator(
        lambda value: storable(value[:longest]) if isinstance(value, str) else value
    )


_EMPTY_AS_NONE = BeforeValidator(lambda value: None if value == "" else value)


class UsageEvent(Model, frozen=True, extra="forbid"):
    """A request that came with an API key, for `log_usage_batch`.

    In its texts, NUL and lone surrogates are replaced by U+FFFD, for PostgreSQL cannot store them.

    Attributes:
        api_key_id: The id that `verify` gave.
        endpoint: What was asked for, such as ``/v1/segments``; cut at 2,000 characters.
        method: The HTTP method; cut at 255 characters.
        status_code: The HTTP status that it was answered with.
        ip_address: Where it came from; None for an empty text. Cut at 255 characters.
        user_agent: What it said it was; None for an empty text. Cut at 1,000 characters.
        timestamp: When it came, with a time zone; None for when it is written.
    """

    api_key_id: UUID
    endpoint: Annotated[_Text, _storable(LONGEST_ENDPOINT)]
    method: Annotated[_Text, _storable(LONGEST_LOG_TEXT)]
    status_code: Annotated[int, Field(strict=True, ge=100, le=999)] | None = None
    ip_address: Annotated[str | None, _storable(LONGEST_LOG_TEXT), _EMPTY_AS_NONE] = None
    user_agent: Annotated[str | None, _storable(LONGEST_USER_AGENT), _EMPTY_AS_NONE] = None
    timestamp: AwareDatetime | None = None


class UsageLog(Model, frozen=True):
    """One line of the usage log.

    Attributes:
        log_id: The line's id.
        timestamp: When it was written.
    """

    log_id: UUID
    timestamp: AwareDatetime
