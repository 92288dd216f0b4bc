"""`track`: count the records that a worker processes, and report its totals."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Generic, Self
from uuid import UUID, uuid4

import anyio

from audiencelab_sdk._arguments import checked_int, checked_text, checked_uuid
from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._http._resource import D
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._bar import Observer, observer
from audiencelab_sdk.errors import AudienceLabError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob

logger = logging.getLogger("audiencelab_sdk")

_SECONDS_BETWEEN_REPORTS = 1.0
_SECONDS_TO_END = 60.0
_LONGEST_DELAY = 10.0
_SECONDS_TO_FAIL = 30.0


class Tracking:
    """The checked arguments of `track`."""

    def __init__(
        self, job: EnrichmentJob | UUID | str, *, worker: str | None, complete: bool, show: bool
    ) -> None:
        self.job_id: UUID = checked_uuid("job", job.id if isinstance(job, EnrichmentJob) else job)
        self.job: EnrichmentJob | None = job if isinstance(job, EnrichmentJob) else None
        self.worker: str = checked_text("worker", worker or _unique_name(), longest=LONGEST_NAME)
        self.complete = complete
        self.show = show


class _Worker(Generic[D]):
    """The totals of a worker, and when the next report is due."""

    def __init__(self, driver: D, name: str, tracking: Tracking) -> None:
        self._run: D = driver
        self._name = name
        self._job_id = tracking.job_id
        self._worker = tracking.worker
        self._complete = tracking.complete
        self._show = tracking.show
        self._job = tracking.job
        self._processed = 0
        self._failed = 0
        self._reported_at = 0.0
        # Threads of a worker may share it.
        self._lock = threading.Lock()
        self._display = ExitStack()
        self._observe: Observer | None = None

    @property
    def worker(self) -> str:
        """The worker's name."""
        return self._worker

    @property
    def processed(self) -> int:
        """The number of records that this worker has processed, failures included."""
        return self._processed

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return self._failed

    @property
    def job(self) -> EnrichmentJob:
        """The job as of the last report, with the totals of all workers.

        Raises:
            InvalidArgumentError: `track` was called with the job's id, and the ``with`` block was
                not entered yet.
        """
        if self._job is None:
            raise InvalidArgumentError("the job is not available yet: enter the with block first")
        return self._job

    def _count(self, processed: int, failed: int) -> bool:
        """Add to the totals, and return whether a report is due."""
        processed = checked_int("processed", processed, 0, MOST_RECORDS)
        failed = checked_int("failed", failed, 0, processed)
        with self._lock:
            self._processed += processed
            self._failed += failed
            due = time.monotonic() >= self._reported_at + _SECONDS_BETWEEN_REPORTS
            if due:
                self._reported_at = time.monotonic()
            return due

    def _report(self, delay: float = 0.0) -> Operation[EnrichmentJob]:
        with self._lock:
            self._reported_at = time.monotonic()
            totals = self._processed, self._failed
        return jobs.report_progress(self._job_id, self._worker, *totals, delay=delay)

    def _report_and_end(self) -> Operation[EnrichmentJob]:
        job = yield from _retry_until_deadline(self._report)
        if self._complete:
            moment = datetime.now(UTC)
            job = yield from _retry_until_deadline(
                lambda delay: jobs.complete(self._job_id, moment=moment, delay=delay)
            )
        return job

    def _report_and_fail(self, reason: BaseException) -> Operation[EnrichmentJob]:
        try:
            yield from self._report()
        except AudienceLabError as error:
            # Failing the job matters more than the last totals.
            logger.warning("the last report for enrichment job %s failed: %s", self._job_id, error)
        return (yield from jobs.fail(self._job_id, reason))

    def _update(self, job: EnrichmentJob) -> None:
        self._job = job
        if self._observe:
            self._observe(job)

    def _open_display(self) -> None:
        self._observe = self._display.enter_context(observer(None, show=self._show))

    def _log_lost_report(self, error: AudienceLabError) -> None:
        logger.warning(
            "a report for enrichment job %s failed, the next one includes its totals: %s",
            self._job_id,
            error,
        )

    def _not_failed(self, reason: object) -> str:
        return f"Enrichment job {self._job_id} could not be marked as failed: {reason}"


class Progress(_Worker[Driver]):
    """Counts the records that a worker processes. Returned by `client.enrichment.track`.

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
            InvalidArgumentError: A number is negative, or `failed` is greater than `processed`.
        """
        if self._count(processed, failed):
            self._try_report()

    def __enter__(self) -> Self:
        self._open_display()
        try:
            self._update(self._run(self._name, self._report()))
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
            if exc_value is not None:
                self._fail(exc_value)
                return
            self._update(self._run(self._name, self._report_and_end()))

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


class AsyncProgress(_Worker[AsyncDriver]):
    """Counts the records that a worker processes. Returned by `async_client.enrichment.track`."""

    async def advance(self, processed: int = 1, *, failed: int = 0) -> None:
        """Count records, and report the totals if the last report is at least a second old.

        Args:
            processed: The number of records processed since the last call, failures included.
            failed: How many of these failed.

        Raises:
            ConflictError: Another caller ended the job. Stop working on it.
            NotFoundError: The job no longer exists, or the caller may no longer work on it.
            InvalidArgumentError: A number is negative, or `failed` is greater than `processed`.
        """
        if self._count(processed, failed):
            await self._try_report()

    async def __aenter__(self) -> Self:
        self._open_display()
        try:
            self._update(await self._run(self._name, self._report()))
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
            if exc_value is not None:
                await self._fail(exc_value)
                return
            self._update(await self._run(self._name, self._report_and_end()))

    async def _try_report(self) -> None:
        try:
            self._update(await self._run(self._name, self._report()))
        except jobs.TRANSIENT as error:
            self._log_lost_report(error)

    async def _fail(self, reason: BaseException) -> None:
        # Shielded, so that a canceled worker fails its job too.
        with anyio.move_on_after(_SECONDS_TO_FAIL, shield=True) as scope:
            try:
                self._update(await self._run(self._name, self._report_and_fail(reason)))
            except AudienceLabError as error:
                reason.add_note(self._not_failed(error))
        if scope.cancelled_caught:
            reason.add_note(self._not_failed(f"no response within {_SECONDS_TO_FAIL:g} s"))


def _retry_until_deadline(
    operation: Callable[[float], Operation[EnrichmentJob]],
) -> Operation[EnrichmentJob]:
    """Retry an operation with growing delays until a deadline if the error is transient.

    A restart of the server at the end of hours of work must not lose the totals.
    """
    deadline = time.monotonic() + _SECONDS_TO_END
    delay = 0.0
    while True:
        try:
            return (yield from operation(delay))
        except jobs.TRANSIENT:
            delay = min(2 * delay + 1, _LONGEST_DELAY)
            if time.monotonic() + delay > deadline:
                raise


def _unique_name() -> str:
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{uuid4().hex[:8]}"
