"""The two drivers: they send the requests of an operation, wait and retry."""

import logging
import random
import time
from collections.abc import Awaitable
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn, SupportsIndex, TypeVar, cast

import anyio

from audiencelab_sdk._http._operation import BuiltRequest, Operation, Request, Response
from audiencelab_sdk._http._reports import Reports, finish, logger, refuse
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


class NotCopied:
    """An object that cannot be copied or pickled."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "a client cannot be copied or pickled, because it holds connections and keys: create "
            "one in each process, or derive one with client.with_options() or client.as_user()"
        )


class _Observed(NotCopied):
    """A driver that reports its attempts."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def _report(
        self,
        name: str,
        built: BuiltRequest,
        number: int,
        started: float,
        outcome: Response | AudienceLabError,
    ) -> Awaitable[object] | None:
        if self._reports.is_used or logger.isEnabledFor(logging.DEBUG):
            return self._reports.report(name, built, number, started, outcome)
        return None


class Driver(_Observed):
    """Runs operations over a postgrest-py client."""

    def __init__(self, api: "SyncPostgrestClient", reports: Reports, max_retries: int) -> None:
        super().__init__(reports)
        self._api = api
        self._max_retries = max_retries

    def __call__(self, name: str, operation: Operation[T]) -> T:
        """Run the operation of the method `name` and return its result."""
        # Closing it runs its cleanup at once where the I/O is canceled or interrupted.
        with self._reports.span(name), closing(operation):
            resume = partial(next, operation)
            while True:
                try:
                    request = resume()
                except StopIteration as stop:
                    return cast("T", stop.value)
                try:
                    response = self._send(name, request)
                except AudienceLabError as error:
                    resume = partial(operation.throw, _without_frames(error))
                else:
                    resume = partial(operation.send, response)

    def _send(self, name: str, request: Request) -> Response:
        if request.delay:
            time.sleep(request.delay)
        number = 1
        while True:
            built = request.build(self._api).request
            started = perf_counter()
            outcome: Response | AudienceLabError
            try:
                outcome = built.send(_headers(number))
            except AudienceLabError as error:
                outcome = _without_frames(error)
            if result := self._report(name, built, number, started, outcome):
                refuse(result)
            if isinstance(outcome, Response):
                return outcome
            pause = _pause_before_retry(request, outcome, number, self._max_retries)
            if pause is None:
                raise outcome
            time.sleep(pause)
            number += 1


class AsyncDriver(_Observed):
    """The asynchronous :class:`Driver`, for asyncio and trio."""

    def __init__(self, api: "AsyncPostgrestClient", reports: Reports, max_retries: int) -> None:
        super().__init__(reports)
        self._api = api
        self._max_retries = max_retries

    async def __call__(self, name: str, operation: Operation[T]) -> T:
        """Run the operation of the method `name` and return its result."""
        # Closing it runs its cleanup at once where the I/O is canceled or interrupted.
        with self._reports.span(name), closing(operation):
            resume = partial(next, operation)
            while True:
                try:
                    request = resume()
                except StopIteration as stop:
                    return cast("T", stop.value)
                try:
                    response = await self._send(name, request)
                except AudienceLabError as error:
                    resume = partial(operation.throw, _without_frames(error))
                else:
                    resume = partial(operation.send, response)

    async def _send(self, name: str, request: Request) -> Response:
        if request.delay:
            await anyio.sleep(request.delay)
        number = 1
        while True:
            built = request.build(self._api).request
            started = perf_counter()
            outcome: Response | AudienceLabError
            try:
                outcome = await built.send(_headers(number))
            except AudienceLabError as error:
                outcome = _without_frames(error)
            if result := self._report(name, built, number, started, outcome):
                await finish(result)
            if isinstance(outcome, Response):
                return outcome
            pause = _pause_before_retry(request, outcome, number, self._max_retries)
            if pause is None:
                raise outcome
            await anyio.sleep(pause)
            number += 1


def _headers(number: int) -> "httpx.Headers":
    """Return the headers of an attempt with this number."""
    from httpx import Headers  # noqa: PLC0415 - see _client

    return Headers({"X-Retry-Count": str(number - 1)} if number > 1 else None)


def _without_frames(error: AudienceLabError) -> AudienceLabError:
    # The frames below hold headers and bodies; a reporter that prints local variables shows them.
    return error.with_traceback(None)


def _pause_before_retry(
    request: Request, error: AudienceLabError, number: int, max_retries: int
) -> float | None:
    """Return the seconds to wait before a retry, or None if the request must not be retried."""
    if not request.retried or number > max_retries or not _may_retry(request, error):
        return None
    if isinstance(error, APIStatusError) and error.retry_after is not None:
        return error.retry_after if error.retry_after <= _LONGEST_RETRY_AFTER else None
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (number - 1))
    return random.uniform(0, longest)  # noqa: S311 - jitter keeps callers apart, no secret


def _may_retry(request: Request, error: AudienceLabError) -> bool:
    if isinstance(error, RateLimitError):
        return True
    if isinstance(error, APIConnectionError):
        return request.repeatable or not error.request_sent
    return (
        request.repeatable
        and isinstance(error, APIStatusError)
        and error.status in _TRANSIENT_STATUSES
    )
