"""`run` of the asynchronous client."""

from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from audiencelab_sdk._http._drivers import AsyncDriver
from audiencelab_sdk._loops import from_any_thread
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._calls import Calls
from audiencelab_sdk._resources._dispatcher import Dispatcher
from audiencelab_sdk._resources._plans import Plan
from audiencelab_sdk._resources._portions import Portion
from audiencelab_sdk._resources._run_base import SECONDS_BETWEEN_REPORTS, Reason, RunBase, Source
from audiencelab_sdk.errors import APITimeoutError, AudienceLabError, InvalidArgumentError
from audiencelab_sdk.models import Outcome

T = TypeVar("T")

_SECONDS_TO_FAIL = 30.0


class AsyncEnrichmentRun(RunBase[AsyncDriver, T]):
    """Iterates over the outcomes of a run. Returned by `async_client.enrichment.run`.

    Use it in an ``async with`` block, and iterate in one task.
    """

    def __init__(self, driver: AsyncDriver, name: str, plan: Plan[Any, Any]) -> None:
        super().__init__(driver, name, plan)
        has_executor = plan.executor is not None or plan.new_executor is not None
        if plan.is_asynchronous and has_executor:
            raise InvalidArgumentError(
                "enrich is a coroutine function, which an executor cannot run: pass no executor, "
                "or pass a plain function"
            )
        if not plan.is_asynchronous and not has_executor:
            raise InvalidArgumentError(
                "enrich is a plain function: pass an executor that runs it, such as "
                "ThreadPoolExecutor(), or pass a coroutine function"
            )

    async def __aenter__(self) -> Self:
        self._begin()
        self._wake_soon = from_any_thread(self._wake)
        self._wakeup = anyio.Event()
        group = anyio.create_task_group()
        try:
            self._update(await self._run(self._name, self._check_job()))
            self._source = self._new_source(group)
            try:
                self._source.open()
                self._update(await self._run(self._name, self._report()))
                await group.__aenter__()
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await self._source.aclose()
                if self._may_have_started(error):
                    await self._fail(error, error)
                raise
        except BaseException:
            self._display.close()
            raise
        self._group = group
        group.start_soon(self._report_regularly)
        self._is_open = True
        return self

    def __aiter__(self) -> Self:
        self._check_entered()
        return self

    async def __anext__(self) -> Outcome[T]:
        self._check_entered()
        if self._error is not None:
            raise self._error
        try:
            outcome = await self._next_outcome()
        except BaseException as error:
            # The block may handle it, but the job must not be completed. After a timeout of its own
            # the block may go on.
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                self._error = error
            raise
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        with self._display:
            try:
                reason: Reason = exc_value
                if exc_value is None:
                    reason = self._why_unfinished(self._source)
            except BaseException as error:
                # The iterable of the records raised it.
                await self._leave(error, raised=error)
                raise
            await self._leave(reason, raised=exc_value)

    def _new_source(self, group: TaskGroup) -> Source[T]:
        if self._plan.is_asynchronous:
            return Calls[Any, T](self._plan, group, self._wake)
        return Dispatcher(self._plan, self._wake_from_thread)

    async def _next_outcome(self) -> Outcome[T] | None:
        """Wait for an outcome. None after the last one."""
        while True:
            _, portion = self._progress
            if portion:
                for outcome in portion.outcomes:
                    return outcome
                self._count_portion()
                self._source.consumed()
            portion = await self._next_portion()
            if portion is None:
                return None
            self._progress = self._totals(), portion

    async def _next_portion(self) -> Portion[T] | None:
        source = self._source
        # Where outcomes are always ready, other tasks run too.
        await anyio.lowlevel.checkpoint()
        while True:
            if self._report_error is not None:
                raise self._report_error
            source.supply()
            if source.is_idle:
                return None
            if not source.has_ended_calls:
                await self._wakeup.wait()
                self._wakeup = anyio.Event()
            elif portion := source.take():
                return portion

    def _wake(self) -> None:
        self._wakeup.set()

    def _wake_from_thread(self) -> None:
        """Wake up the task from any thread, without waiting for it."""
        # A chunk that another process runs may end after the event loop.
        with suppress(RuntimeError):
            self._wake_soon()

    async def _report_regularly(self) -> None:
        """Report the totals while the block runs, in a task: the loop may take its time."""
        while True:
            await anyio.sleep(SECONDS_BETWEEN_REPORTS)
            self._source.check_processes()
            if not self._is_report_due():
                continue
            try:
                # Not retried by the driver: the next report includes these totals.
                self._update(await self._run(self._name, self._report(retried=False)))
            except jobs.TRANSIENT as error:
                self._lose_report(error)
            except Exception as error:  # noqa: BLE001 - raised in the task that iterates
                self._report_error = error
                self._wake()
                return

    async def _leave(self, reason: Reason, raised: BaseException | None) -> None:
        interruption = await self._stop()
        if interruption is not None and (raised is None or not _is_cancellation(interruption)):
            await self._fail(interruption, interruption)
            raise interruption
        if reason is None:
            self._update(await self._run(self._name, self._end(None)))
        else:
            await self._fail(reason, raised)

    async def _stop(self) -> BaseException | None:
        """End all tasks and threads. Returns what interrupts this, such as a cancellation."""
        interruption: BaseException | None = None
        self._group.cancel_scope.cancel()
        try:
            # Not with the exception of the block, which would come out in an ExceptionGroup.
            await self._group.__aexit__(None, None, None)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            interruption = error
        try:
            with anyio.CancelScope(shield=True):
                await self._source.aclose()
        except BaseException as error:  # noqa: BLE001 - likewise
            # Such as a second cancellation by asyncio, which ignores the shield.
            interruption = error
        return interruption

    async def _fail(self, reason: BaseException | str, raised: BaseException | None) -> None:
        # Shielded, so that a canceled run ends its job too.
        with anyio.move_on_after(_SECONDS_TO_FAIL, shield=True) as scope:
            try:
                self._update(await self._run(self._name, self._end(reason)))
            except AudienceLabError as error:
                if raised is None:
                    raise
                raised.add_note(self._not_ended(error))
        if scope.cancelled_caught:
            late = self._not_ended(f"no response within {_SECONDS_TO_FAIL:g} s")
            if raised is None:
                raise APITimeoutError(late)
            raised.add_note(late)


def _is_cancellation(error: BaseException) -> bool:
    canceled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(canceled)[1] is None
    return isinstance(error, canceled)
