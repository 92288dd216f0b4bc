"""Calls of a coroutine function, each in a task of its own."""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from audiencelab_sdk._resources._chunks import Failure, Results
from audiencelab_sdk._resources._plans import Plan
from audiencelab_sdk._resources._portions import Portion

R = TypeVar("R")
T = TypeVar("T")

_NOTHING = object()


class Calls(Generic[R, T]):
    """The calls of a run, with the interface of a `Dispatcher` whose chunks have one record.

    Attributes:
        sent: The number of records for which a call was started.
    """

    def __init__(
        self, plan: Plan[R, Awaitable[T]], group: TaskGroup, notify: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._group = group
        self._notify = notify
        self._back: deque[Portion[T] | BaseException] = deque()
        # Started, and not consumed.
        self._in_flight = 0
        self._is_exhausted = False
        self.sent = 0

    @property
    def is_idle(self) -> bool:
        """Whether no record is left: neither to start nor to consume."""
        return self._is_exhausted and not self._in_flight

    @property
    def has_ended_calls(self) -> bool:
        """Whether `take` has something to return."""
        return bool(self._back)

    def supply(self) -> None:
        """Start calls until `in_flight` are, or no record is left."""
        while not self._is_exhausted and self._in_flight < self._plan.in_flight:
            try:
                record = next(self._plan.records)
            except StopIteration:
                self._is_exhausted = True
                return
            self._group.start_soon(self._call, self.sent, record)
            self.sent += 1
            self._in_flight += 1

    def take(self) -> Portion[T]:
        """Return the outcome of a call that has ended."""
        ended = self._back.popleft()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def consumed(self) -> None:
        """Make room for another call."""
        self._in_flight -= 1

    def has_more_records(self) -> bool:
        """Whether a record is left for which no call was started. Takes that record."""
        return not self._is_exhausted and next(self._plan.records, _NOTHING) is not _NOTHING

    def open(self) -> None:
        """Do nothing: `supply` starts the calls."""

    def check_processes(self) -> None:
        """Do nothing: the calls are in this process."""

    async def aclose(self) -> None:
        """Do nothing: the task group cancels the calls."""

    async def _call(self, index: int, record: R) -> None:
        try:
            results = await self._results(record)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - raised by `take`
            # Such as KeyboardInterrupt. A task group would wrap it in an ExceptionGroup.
            self._come_back(error)
        else:
            self._come_back(Portion(index, results))

    async def _results(self, record: R) -> Results[T]:
        try:
            return Results([await self._plan.enrich(record)], {})
        except Exception as error:  # noqa: BLE001 - it is the outcome of this record
            return Results([None], {0: Failure(error)})
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Something that `enrich` awaited was canceled, and not this task.
            return Results([None], {0: Failure(error)})

    def _come_back(self, ended: Portion[T] | BaseException) -> None:
        self._back.append(ended)
        self._notify()
