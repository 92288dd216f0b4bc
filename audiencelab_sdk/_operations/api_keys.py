"""The steps of the calls about API keys."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, SecretStr, StrictBool, StrictInt, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_future,
    checked_int,
    checked_items,
    checked_secret,
    checked_text,
    checked_uuid,
    made_storable,
)
from audiencelab_sdk._limits import (
    LONGEST_ENDPOINT,
    LONGEST_ITEM,
    LONGEST_LOG_TEXT,
    LONGEST_NAME,
    LONGEST_USER_AGENT,
    MOST_SCOPES,
)
from audiencelab_sdk._operations._answers import Rows, another_shape, read
from audiencelab_sdk._operations._key_format import may_be_api_key
from audiencelab_sdk._operations._paging import Listing, checked_page_size
from audiencelab_sdk._outcome import Outcome
from audiencelab_sdk._steps import Call, Steps
from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import (
    AudienceLabError,
    AuthenticationError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnexpectedResponseError,
    UsageLogError,
)
from audiencelab_sdk.models import (
    ApiKey,
    CreatedApiKey,
    InvalidApiKey,
    Scope,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)
from audiencelab_sdk.models._base import Model

if TYPE_CHECKING:
    import httpx

_CREATED = TypeAdapter(CreatedApiKey)
_KEYS = Rows(
    "list_api_keys", TypeAdapter(ApiKey), TypeAdapter(list[ApiKey], config=Model.model_config)
)
_VERIFICATION: TypeAdapter[ValidApiKey | InvalidApiKey] = TypeAdapter(
    Annotated[ValidApiKey | InvalidApiKey, Field(discriminator="valid")]
)
_COUNT: TypeAdapter[int] = TypeAdapter(StrictInt)
_BOOL: TypeAdapter[bool] = TypeAdapter(StrictBool)
_TRUE = TypeAdapter(Literal[True])
_ID_OR_NONE: TypeAdapter[UUID | None] = TypeAdapter(UUID | None)

# As many as the database function takes, and as PostgREST answers with.
_EVENTS_A_CALL = 1000
_AS_API_KEY = "Only an API key may ask this: call it on client.as_api_key(...)."


class _LogAnswer(Model, frozen=True):
    success: StrictBool
    log_id: UUID | None = None
    timestamp: AwareDatetime | None = None
    error: str | None = None
    error_code: str | None = None

    def line(self, function: str) -> UsageLog:
        """The line that `function` wrote; raises why it did not."""
        if not self.success:
            reason = shown(self.error or "the database gave no reason")
            raise UsageLogError(reason, self.error_code and shown(self.error_code))
        if self.log_id is None or self.timestamp is None:
            raise another_shape(function, ["log_id", "timestamp"])
        return UsageLog(log_id=self.log_id, timestamp=self.timestamp)


class _BatchLine(_LogAnswer, frozen=True):
    event_index: StrictInt


_LOGGED = TypeAdapter(_LogAnswer)
_BATCH = TypeAdapter(list[_BatchLine], config=Model.model_config)


def create(
    account_id: UUID | str, name: str, scopes: Sequence[Scope], expires_at: datetime | None
) -> Steps[CreatedApiKey]:
    arguments = {
        "p_account_id": str(checked_uuid("account_id", account_id)),
        "p_name": checked_text("name", name, longest=LONGEST_NAME),
        "p_scopes": _scopes(scopes),
        "p_expires_at": None
        if expires_at is None
        else checked_future("expires_at", expires_at).isoformat(),
    }
    answer = yield _call("create_api_key", arguments, repeatable=False)
    return read("create_api_key", _CREATED, answer)


def listing(account_id: UUID | str, page_size: int) -> Listing[ApiKey]:
    arguments = {"p_account_id": str(checked_uuid("account_id", account_id))}
    return Listing(
        _KEYS, lambda api: api.rpc("list_api_keys", arguments), checked_page_size(page_size)
    )


def revoke(api_key_id: UUID | str) -> Steps[None]:
    arguments = {"p_api_key_id": str(checked_uuid("api_key_id", api_key_id))}
    answer = yield _call("revoke_api_key", arguments, repeatable=True)
    read("revoke_api_key", _TRUE, answer)


def revoke_all_of(user_id: UUID | str, account_id: UUID | str | None) -> Steps[int]:
    arguments: dict[str, Any] = {"p_user_id": str(checked_uuid("user_id", user_id))}
    if account_id is not None:
        arguments["p_account_id"] = str(checked_uuid("account_id", account_id))
    answer = yield _call("revoke_api_keys_of", arguments, repeatable=True)
    return read("revoke_api_keys_of", _COUNT, answer)


def verify(api_key: str | SecretStr) -> Steps[ValidApiKey | InvalidApiKey]:
    key = checked_secret("api_key", api_key)
    if not may_be_api_key(key.get_secret_value()):
        return InvalidApiKey(error="Invalid API key")
    answer = yield Call(
        lambda api: api.rpc("verify_api_key", {"p_api_key": key.get_secret_value()}),
        repeatable=True,
    )
    return read("verify_api_key", _VERIFICATION, answer)


def log_usage(
    api_key_id: UUID | str,
    *,
    endpoint: str,
    method: str,
    status_code: int | None,
    ip_address: str | None,
    user_agent: str | None,
) -> Steps[UsageLog]:
    arguments = {
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
    }
    answer = yield _call("log_api_key_usage", arguments, repeatable=False)
    return read("log_api_key_usage", _LOGGED, answer).line("log_api_key_usage")


def log_usage_batch(events: Iterable[UsageEvent]) -> Steps[list[Outcome[UsageLog]]]:
    batch = checked_items("events", events, UsageEvent)
    outcomes: list[Outcome[UsageLog]] = []
    for first in range(0, len(batch), _EVENTS_A_CALL):
        chunk = batch[first : first + _EVENTS_A_CALL]
        rows = [event.model_dump(mode="json", exclude_none=True) for event in chunk]
        try:
            answer = yield _call("log_api_key_usage_batch", {"p_events": rows}, repeatable=False)
            lines = _read_lines(answer)
        except AudienceLabError as error:
            outcomes += [Outcome(first + index, error=error) for index in range(len(chunk))]
        else:
            outcomes += [_line_outcome(first, index, lines) for index in range(len(chunk))]
    return outcomes


def _read_lines(answer: "httpx.Response") -> dict[int, _BatchLine]:
    lines = read("log_api_key_usage_batch", _BATCH, answer)
    return {line.event_index: line for line in lines}


def _line_outcome(first: int, index: int, lines: Mapping[int, _BatchLine]) -> Outcome[UsageLog]:
    line = lines.get(index)
    if line is None:
        silence = "log_api_key_usage_batch did not say whether it was written"
        return Outcome(first + index, error=UnexpectedResponseError(silence))
    try:
        return Outcome(first + index, line.line("log_api_key_usage_batch"))
    except AudienceLabError as error:
        return Outcome(first + index, error=error)


def has_scope(entity_type: str, entity_id: str, action: str) -> Steps[bool]:
    arguments = {
        "p_entity_type": checked_text("entity_type", entity_type),
        "p_entity_id": checked_text("entity_id", entity_id),
        "p_action": checked_text("action", action),
    }
    answer = yield from _asked_by_an_api_key("has_scope", arguments)
    return read("has_scope", _BOOL, answer)


def account_id() -> Steps[UUID | None]:
    answer = yield from _asked_by_an_api_key("get_api_key_account_id", {})
    return read("get_api_key_account_id", _ID_OR_NONE, answer)


def _call(function: str, arguments: dict[str, Any], *, repeatable: bool) -> Call:
    return Call(lambda api: api.rpc(function, arguments), repeatable=repeatable)


def _asked_by_an_api_key(function: str, arguments: dict[str, Any]) -> "Steps[httpx.Response]":
    try:
        return (yield _call(function, arguments, repeatable=True))
    except (AuthenticationError, PermissionDeniedError) as error:
        if error.code == "42501":
            error.hint = error.hint or _AS_API_KEY
        raise


def _scopes(scopes: Any) -> list[dict[str, Any]]:
    items = checked_items("scopes", scopes, Scope)
    if len(items) > MOST_SCOPES:
        raise InvalidArgumentError(
            f"scopes has {len(items):,} items; at most {MOST_SCOPES} are allowed"
        )
    for index, scope in enumerate(items):
        for field in Scope.model_fields:
            checked_text(f"scopes[{index}].{field}", getattr(scope, field), longest=LONGEST_ITEM)
    return [scope.model_dump() for scope in items]
