"""`track`: count the records of a unit of work that are processed, and report the totals."""

import logging
import threading
import time
from types import TracebackType
from typing import Generic, Self
from uuid import UUID

import anyio

from audiencelab_sdk._arguments import checked_int, checked_text, checked_uuid
from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._http._resource import D
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._heartbeat import AsyncHeartbeat, Heartbeat
from audiencelab_sdk._resources._reporting import Reporting
from audiencelab_sdk.errors import (
    AudienceLabError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from audiencelab_sdk.models import EnrichmentJob

logger = logging.getLogger("audiencelab_sdk")

_NOT_ENTERED = "records are counted inside a with block only: enter the with block first"
_SECONDS_BETWEEN_REPORTS = 1.0
_SECONDS_BETWEEN_HEARTBEATS = 30.0
_SECONDS_TO_FAIL = 30.0
_SECONDS_TO_LEAVE = 5.0


class Tracking:
    """The checked arguments of `track`."""

    def __init__(
        self,
        job: EnrichmentJob | UUID | str,
        *,
        unit: str | None,
        complete: bool,
        on_error: jobs.OnError,
        show: bool,
    ) -> None:
        self.job_id: UUID = checked_uuid("job", job.id if isinstance(job, EnrichmentJob) else job)
        self.job: EnrichmentJob | None = job if isinstance(job, EnrichmentJob) else None
        if unit is None:
            if not complete:
                raise InvalidArgumentError(
                    "unit is missing: with complete=False, other blocks may work on the job, and "
                    "each needs the name of its own unit of work"
                )
            unit = jobs.WHOLE_JOB
        self.unit: str = checked_text("unit", unit, longest=LONGEST_NAME)
        self.complete = complete
        self.leave: bool = jobs.checked_leave(on_error)
        self.show = show


class _Unit(Reporting, Generic[D]):
    """The totals of a unit of work, and when the next report is due."""

    def __init__(self, driver: D, name: str, tracking: Tracking) -> None:
        super().__init__(tracking.job_id, tracking.unit)
        self._run: D = driver
        self._name = name
        self._complete = tracking.complete
        self._leaves_job = tracking.leave
        self._show = tracking.show
        self._job = tracking.job
        self._processed = 0
        self._failed = 0
        self._reported_at = 0.0
        self._is_open = False
        self._is_report_due = False
        # Threads may share it.
        self._lock = threading.Lock()

    @property
    def processed(self) -> int:
        """The number of records that were processed in this block, failures included."""
        return self._processed

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return self._failed

    def _count(self, processed: int, failed: int) -> bool:
        """Add to the totals, and return whether a report is due."""
        if not self._is_open:
            raise InvalidArgumentError(_NOT_ENTERED)
        processed = checked_int("processed", processed, 0, MOST_RECORDS)
        failed = checked_int("failed", failed, 0, processed)
        with self._lock:
            self._processed += processed
            self._failed += failed
            is_due = self._is_report_due or self._age() >= _SECONDS_BETWEEN_REPORTS
            if is_due:
                self._reported_at = time.monotonic()
            return is_due

    def _age(self) -> float:
        """Return the seconds since the last report."""
        return time.monotonic() - self._reported_at

    def _report(self, delay: float = 0.0, *, retried: bool = True) -> Operation[EnrichmentJob]:
        with self._lock:
            self._reported_at = time.monotonic()
            self._is_report_due = False
            totals = self._processed, self._failed
        return jobs.report_progress(self._job_id, self._unit, *totals, delay=delay, retried=retried)

    def _heartbeat(self) -> Operation[EnrichmentJob]:
        # Not retried by the driver, so that the end of the block need not wait for it for long.
        return self._report(retried=False)

    def _fails(self, reason: BaseException) -> bool:
        """Return whether an exception of the block fails the job."""
        # KeyboardInterrupt, SystemExit and cancellation are no subclasses of Exception.
        return not self._leaves_job and isinstance(reason, Exception)

    def _pause(self) -> float:
        """Return the seconds until the next heartbeat."""
        return max(0.0, _SECONDS_BETWEEN_HEARTBEATS - self._age())

    def _pause_after(self, error: AudienceLabError) -> float | None:
        """Return the seconds until the next heartbeat after this one failed, or None."""
        if not self._is_open:
            return None
        if not isinstance(error, jobs.TRANSIENT):
            # The next `advance` reports at once, and raises the error.
            self._is_report_due = True
        logger.warning("a heartbeat of enrichment job %s failed: %s", self._job_id, error)
        return None if isinstance(error, ConflictError | NotFoundError) else self._pause()

    def _update_after_heartbeat(self, before: EnrichmentJob | None, job: EnrichmentJob) -> None:
        # Unless a report has returned meanwhile, which is newer.
        if self._is_open and self._job is before:
            self._update(job)

    def _not_failed(self, reason: object) -> str:
        return f"Enrichment job {self._job_id} could not be marked as failed: {reason}"


class Progress(_Unit[Driver]):
    """Counts the records of a unit of work. Returned by `client.enrichment.track`.

    Threads may share it.
    """

    def advance(self, processed: int = 1, *, failed: int = 0) -> None:
        """Count records, and report the totals if the last report is at least a second old.

        Args:
            processed: The number of records processed since the last call, failures included.
            failed: How many of these failed.

        Raises:
            ConflictError: Another caller ended the job. Stop working on it.
            NotFoundError: The job no longer exists, or the caller may no longer work on it.
            InvalidArgumentError: A number is negative, `failed` is greater than `processed`, or the
                call is outside of the ``with`` block.
        """
        if self._count(processed, failed):
            self._try_report()

    def __enter__(self) -> Self:
        self._open_display(show=self._show)
        try:
            self._update(self._run(self._name, self._report()))
            self._is_open = True
            self._heart = Heartbeat(self._beat, self._pause())
            self._heart.start()
        except BaseException:
            self._display.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._display:
            self._is_open = False
            self._heart.stop()
            if exc_value is None:
                self._update(self._run(self._name, self._report_and_end(complete=self._complete)))
            elif self._fails(exc_value):
                self._fail(exc_value)
            else:
                self._leave()

    def _beat(self) -> float | None:
        if self._pause() > 0:
            return self._pause()
        before = self._job
        try:
            job = self._run(self._name, self._heartbeat())
        except AudienceLabError as error:
            return self._pause_after(error)
        self._update_after_heartbeat(before, job)
        return self._pause()

    def _try_report(self) -> None:
        try:
            self._update(self._run(self._name, self._report()))
        except jobs.TRANSIENT as error:
            self._log_lost_report(error)

    def _fail(self, reason: BaseException) -> None:
        try:
            self._update(self._run(self._name, self._report_and_fail(reason)))
        except AudienceLabError as error:
            reason.add_note(self._not_failed(error))

    def _leave(self) -> None:
        try:
            self._update(self._run(self._name, self._heartbeat()))
        except AudienceLabError as error:
            self._log_lost_last_report(error)


class AsyncProgress(_Unit[AsyncDriver]):
    """Counts the records of a unit of work. Returned by `async_client.enrichment.track`."""

    async def advance(self, processed: int = 1, *, failed: int = 0) -> None:
        """Count records, and report the totals if the last report is at least a second old.

        Args:
            processed: The number of records processed since the last call, failures included.
            failed: How many of these failed.

        Raises:
            ConflictError: Another caller ended the job. Stop working on it.
            NotFoundError: The job no longer exists, or the caller may no longer work on it.
            InvalidArgumentError: A number is negative, `failed` is greater than `processed`, or the
                call is outside of the ``with`` block.
        """
        if self._count(processed, failed):
            await self._try_report()

    async def __aenter__(self) -> Self:
        self._open_display(show=self._show)
        try:
            self._update(await self._run(self._name, self._report()))
            self._is_open = True
            self._heart = AsyncHeartbeat(self._beat, self._pause())
            self._heart.start()
        except BaseException:
            self._display.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._display:
            self._is_open = False
            await self._heart.stop()
            if exc_value is None:
                self._update(
                    await self._run(self._name, self._report_and_end(complete=self._complete))
                )
            elif self._fails(exc_value):
                await self._fail(exc_value)
            else:
                await self._leave()

    async def _beat(self) -> float | None:
        if self._pause() > 0:
            return self._pause()
        before = self._job
        try:
            job = await self._run(self._name, self._heartbeat())
        except AudienceLabError as error:
            return self._pause_after(error)
        self._update_after_heartbeat(before, job)
        return self._pause()

    async def _try_report(self) -> None:
        try:
            self._update(await self._run(self._name, self._report()))
        except jobs.TRANSIENT as error:
            self._log_lost_report(error)

    async def _fail(self, reason: BaseException) -> None:
        # Shielded, so that the job fails even if the task is canceled as well.
        with anyio.move_on_after(_SECONDS_TO_FAIL, shield=True) as scope:
            try:
                self._update(await self._run(self._name, self._report_and_fail(reason)))
            except AudienceLabError as error:
                reason.add_note(self._not_failed(error))
        if scope.cancelled_caught:
            reason.add_note(self._not_failed(f"no response within {_SECONDS_TO_FAIL:g} s"))

    async def _leave(self) -> None:
        # Shielded, because the task may be canceled.
        with anyio.move_on_after(_SECONDS_TO_LEAVE, shield=True):
            try:
                self._update(await self._run(self._name, self._heartbeat()))
            except AudienceLabError as error:
                self._log_lost_last_report(error)
