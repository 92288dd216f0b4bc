"""Read the responses of the database functions that write the usage log."""

from collections.abc import Mapping
from uuid import UUID

from pydantic import AwareDatetime, StrictBool, StrictInt, TypeAdapter

from audiencelab_sdk._http._operation import Response
from audiencelab_sdk._http._reading import read, unexpected_shape
from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import AudienceLabError, UnexpectedResponseError, UsageLogError
from audiencelab_sdk.models import Outcome, UsageLog
from audiencelab_sdk.models._base import Model

_FOREIGN_KEY_VIOLATION = "23503"
_ONE = "log_api_key_usage"
_BATCH = "log_api_key_usage_batch"


class _Entry(Model, frozen=True):
    success: StrictBool
    log_id: UUID | None = None
    timestamp: AwareDatetime | None = None
    error: str | None = None
    error_code: str | None = None

    def log(self, function: str) -> UsageLog:
        """Return the entry that `function` wrote, or raise the error that it reports."""
        if not self.success:
            reason = shown(self.error or "the database returned no error message")
            if self.error_code == _FOREIGN_KEY_VIOLATION:
                reason = "the API key does not exist"
            raise UsageLogError(reason, self.error_code and shown(self.error_code))
        if self.log_id is None or self.timestamp is None:
            raise unexpected_shape(function, ["log_id", "timestamp"])
        return UsageLog(log_id=self.log_id, timestamp=self.timestamp)


class _BatchEntry(_Entry, frozen=True):
    event_index: StrictInt


_ENTRY = TypeAdapter(_Entry)
_ENTRIES = TypeAdapter(list[_BatchEntry], config=Model.model_config)


def read_log(response: Response) -> UsageLog:
    """Read the response of ``log_api_key_usage``.

    Raises:
        UsageLogError: The database could not write the entry.
        UnexpectedResponseError: The response has an unexpected format.
    """
    return read(_ONE, _ENTRY, response).log(_ONE)


def read_batch(response: Response, first: int, count: int) -> list[Outcome[UsageLog]]:
    """Read the response of ``log_api_key_usage_batch`` to `count` events.

    The index of the first event is `first`.

    Raises:
        UnexpectedResponseError: The response has an unexpected format.
    """
    entries = {entry.event_index: entry for entry in read(_BATCH, _ENTRIES, response)}
    return [_outcome(first + index, index, entries) for index in range(count)]


def _outcome(index: int, key: int, entries: Mapping[int, _BatchEntry]) -> Outcome[UsageLog]:
    entry = entries.get(key)
    if entry is None:
        message = f"the response of {_BATCH} lacks this event, which may have been written"
        return Outcome(index, error=UnexpectedResponseError(message))
    try:
        return Outcome(index, entry.log(_BATCH))
    except AudienceLabError as error:
        return Outcome(index, error=error)
