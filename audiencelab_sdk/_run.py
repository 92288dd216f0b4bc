"""The two drivers: the only place that retries, sleeps or awaits."""

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from audiencelab_sdk._steps import Call, PostgrestClient, Steps
from audiencelab_sdk.errors import (
    APIConnectionError,
    APIStatusError,
    AudienceLabError,
    RateLimitError,
)

if TYPE_CHECKING:
    import httpx
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 8.0
_LONGEST_RETRY_AFTER = 30.0
_TRANSIENT_STATUSES = (502, 503, 504)


class Runner:
    """Drives operations to their results over a postgrest-py client."""

    def __init__(self, api: "SyncPostgrestClient", max_retries: int) -> None:
        self._api = api
        self._max_retries = max_retries

    def __call__(self, steps: Steps[T]) -> T:
        """The result of `steps`; raises what they raise."""
        resume = partial(next, steps)
        while True:
            try:
                call = resume()
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                answer = self._send(call)
            except AudienceLabError as error:
                resume = partial(steps.throw, _without_frames(error))
            else:
                resume = partial(steps.send, answer)

    def _send(self, call: Call) -> "httpx.Response":
        if call.delay:
            time.sleep(call.delay)
        attempt = 0
        while True:
            try:
                return cast("httpx.Response", _response(call, self._api, attempt))
            except AudienceLabError as error:
                pause = _pause_before_retry(call, error, attempt, self._max_retries)
                if pause is None:
                    raise
            time.sleep(pause)
            attempt += 1


class AsyncRunner:
    """Like :class:`Runner`, awaited, on asyncio and trio alike."""

    def __init__(self, api: "AsyncPostgrestClient", max_retries: int) -> None:
        self._api = api
        self._max_retries = max_retries

    async def __call__(self, steps: Steps[T]) -> T:
        """Like :meth:`Runner.__call__`, awaited."""
        resume = partial(next, steps)
        while True:
            try:
                call = resume()
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                answer = await self._send(call)
            except AudienceLabError as error:
                resume = partial(steps.throw, _without_frames(error))
            else:
                resume = partial(steps.send, answer)

    async def _send(self, call: Call) -> "httpx.Response":
        if call.delay:
            await anyio.sleep(call.delay)
        attempt = 0
        while True:
            try:
                return cast("httpx.Response", await _response(call, self._api, attempt))
            except AudienceLabError as error:
                pause = _pause_before_retry(call, error, attempt, self._max_retries)
                if pause is None:
                    raise
            await anyio.sleep(pause)
            attempt += 1


def _response(call: Call, api: PostgrestClient, attempt: int) -> Any:
    """The HTTP answer, or a promise of it.

    Not by postgrest-py's `execute`, which has retries and error classes of its own.
    """
    from httpx import Headers  # noqa: PLC0415 - see _client

    headers = Headers({"X-Retry-Count": str(attempt)} if attempt else None)
    return call.build(api).request.send(headers)


def _without_frames(error: AudienceLabError) -> AudienceLabError:
    # The frames below hold headers and bodies; a reporter that prints local variables shows them.
    return error.with_traceback(None)


def _pause_before_retry(
    call: Call, error: AudienceLabError, attempt: int, max_retries: int
) -> float | None:
    """Seconds to wait before `call` is sent again, or None when it must not be."""
    if not call.retried or attempt >= max_retries or not _may_retry(call, error):
        return None
    if isinstance(error, APIStatusError) and error.retry_after is not None:
        return error.retry_after if error.retry_after <= _LONGEST_RETRY_AFTER else None
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
    return random.uniform(0, longest)  # noqa: S311 - jitter keeps callers apart, no secret


def _may_retry(call: Call, error: AudienceLabError) -> bool:
    if isinstance(error, RateLimitError):
        return True
    if isinstance(error, APIConnectionError):
        return call.repeatable or not error.request_sent
    return (
        call.repeatable
        and isinstance(error, APIStatusError)
        and error.status in _TRANSIENT_STATUSES
    )
