"""`run` of the synchronous client."""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self, TypeVar

from audiencelab_sdk._http._drivers import Driver
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._dispatcher import Dispatcher
from audiencelab_sdk._resources._plans import Plan
from audiencelab_sdk._resources._portions import Portion
from audiencelab_sdk._resources._run_base import SECONDS_BETWEEN_REPORTS, Reason, RunBase
from audiencelab_sdk.errors import APITimeoutError, AudienceLabError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob, Outcome

T = TypeVar("T")

# On Windows a wait without a limit cannot be interrupted.
_LONGEST_WAIT = 0.5
_SECONDS_TO_STOP = 5.0
_SECONDS_TO_END = 5.0


class EnrichmentRun(RunBase[Driver, T]):
    """Iterates over the outcomes of a run. Returned by `client.enrichment.run`.

    Use it in a ``with`` block. Only one thread may iterate at a time.
    """

    def __init__(self, driver: Driver, name: str, plan: Plan[Any, Any]) -> None:
        super().__init__(driver, name, plan)
        if plan.is_asynchronous:
            raise InvalidArgumentError(
                "enrich is a coroutine function: pass a plain function, or use AsyncAudienceLab"
            )
        self._dispatcher = Dispatcher(plan, lambda: None)
        self._iteration = self._outcomes()
        self._has_ended = threading.Event()
        self._reporter = threading.Thread(
            target=copy_context().run,
            args=(self._report_regularly,),
            name="audiencelab-enrichment-reports",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self._begin()
        try:
            self._update(self._run(self._name, self._check_job()))
            self._dispatcher.open()
            self._update(self._run(self._name, self._report()))
            self._reporter.start()
        except BaseException as error:
            with self._display:
                if self._may_have_started(error):
                    self._leave(error, raised=error)
                else:
                    self._stop()
            raise
        self._is_open = True
        return self

    def __iter__(self) -> Iterator[Outcome[T]]:
        self._check_entered()
        # The generator itself: a call of __next__ for each outcome takes longer.
        return self._iteration

    def __next__(self) -> Outcome[T]:
        self._check_entered()
        return next(self._iteration)

    def __exit__(
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
                    reason = self._why_unfinished(self._dispatcher)
            except BaseException as error:
                # The iterable of the records raised it.
                self._leave(error, raised=error)
                raise
            self._leave(reason, raised=exc_value)

    def _outcomes(self) -> Generator[Outcome[T]]:
        try:
            while portion := self._next_portion():
                self._progress = self._totals(), portion
                yield from portion.outcomes
                self._count_portion()
                self._dispatcher.consumed()
        except GeneratorExit:
            raise
        except BaseException as error:
            # The block may handle it, but the job must not be completed.
            self._error = error
            raise

    def _next_portion(self) -> Portion[T] | None:
        """Wait for a chunk, and return its outcomes. None after the last chunk."""
        dispatcher = self._dispatcher
        while True:
            if self._report_error is not None:
                raise self._report_error
            dispatcher.supply()
            if dispatcher.is_idle:
                return None
            if portion := dispatcher.take(_LONGEST_WAIT):
                return portion
            # In this thread, which also discards and closes pools.
            dispatcher.check_processes()

    def _report_regularly(self) -> None:
        """Report the totals while the block runs, in a thread: the loop may take its time."""
        while not self._has_ended.wait(SECONDS_BETWEEN_REPORTS):
            if not self._is_report_due():
                continue
            try:
                # Not retried by the driver, so that the end of the block need not wait for long.
                self._update(self._run(self._name, self._report(retried=False)))
            except jobs.TRANSIENT as error:
                self._lose_report(error)
            except Exception as error:  # noqa: BLE001 - raised in the thread that iterates
                self._report_error = error
                self._dispatcher.wake()
                return

    def _stop(self) -> None:
        try:
            self._dispatcher.close()
        finally:
            self._iteration.close()
            self._has_ended.set()
            if self._reporter.is_alive():
                self._reporter.join(_SECONDS_TO_STOP)

    def _leave(self, reason: Reason, raised: BaseException | None = None) -> None:
        try:
            self._stop()
        except BaseException as error:
            # Such as a second KeyboardInterrupt, or an error of the executor.
            self._end_job(error, error)
            raise
        self._end_job(reason, raised)

    def _end_job(self, reason: Reason, raised: BaseException | None) -> None:
        try:
            if raised is None or isinstance(raised, Exception):
                self._update(self._run(self._name, self._end(reason)))
            else:
                self._end_in_time(raised)
        except AudienceLabError as error:
            if raised is None:
                raise
            raised.add_note(self._not_ended(error))

    def _end_in_time(self, reason: BaseException) -> None:
        """End the job after an interruption, which must not take long even if the API hangs.

        Raises:
            APITimeoutError: There is no response in time.
        """
        ended: Future[EnrichmentJob] = Future()

        def end() -> None:
            try:
                ended.set_result(self._run(self._name, self._end(reason)))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                ended.set_exception(error)

        # Not an executor, for whose threads Python waits at its exit.
        threading.Thread(target=copy_context().run, args=(end,), daemon=True).start()
        wait([ended], _SECONDS_TO_END)
        if not ended.done():
            raise APITimeoutError(f"no response within {_SECONDS_TO_END:g} s")
        self._update(ended.result())
