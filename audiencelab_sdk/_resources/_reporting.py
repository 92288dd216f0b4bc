"""What `track` and `run` share: a job, the reports on one of its units of work, and the display."""

import logging
from abc import ABC, abstractmethod
from contextlib import ExitStack
from datetime import UTC, datetime
from uuid import UUID

from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._bar import Observer, observer
from audiencelab_sdk.errors import AudienceLabError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob

logger = logging.getLogger("audiencelab_sdk")


class Reporting(ABC):
    """The reports on a unit of work of a job."""

    def __init__(self, job_id: UUID, unit: str) -> None:
        self._job_id = job_id
        self._unit = unit
        self._job: EnrichmentJob | None = None
        self._display = ExitStack()
        self._observe: Observer | None = None

    @property
    def unit(self) -> str:
        """The name of the unit of work, under which the totals are reported."""
        return self._unit

    @property
    def job(self) -> EnrichmentJob:
        """The job as of the last report. Its counters may lag behind until it has ended.

        Raises:
            InvalidArgumentError: The ``with`` block was not entered yet, and only the job's id was
                passed.
        """
        if self._job is None:
            raise InvalidArgumentError("the job is not available yet: enter the with block first")
        return self._job

    def _open_display(self, *, show: bool) -> None:
        self._observe = self._display.enter_context(observer(None, show=show))

    def _update(self, job: EnrichmentJob) -> None:
        self._job = job
        if self._observe:
            self._observe(job)

    @abstractmethod
    def _report(self, delay: float = 0.0) -> Operation[EnrichmentJob]:
        """Report the totals, after a delay in seconds."""

    def _report_and_end(self, *, complete: bool) -> Operation[EnrichmentJob]:
        job = yield from jobs.retry_until_deadline(self._report)
        if complete:
            moment = datetime.now(UTC)
            job = yield from jobs.retry_until_deadline(
                lambda delay: jobs.complete(self._job_id, moment=moment, delay=delay)
            )
        return job

    def _report_and_fail(self, reason: BaseException | str) -> Operation[EnrichmentJob]:
        try:
            yield from self._report()
        except AudienceLabError as error:
            # Failing the job matters more than the last totals.
            self._log_lost_last_report(error)
        return (yield from jobs.fail(self._job_id, reason))

    def _log_lost_report(self, error: AudienceLabError) -> None:
        logger.warning(
            "a report for enrichment job %s failed, the next one includes its totals: %s",
            self._job_id,
            error,
        )

    def _log_lost_last_report(self, error: AudienceLabError) -> None:
        logger.warning("the last report for enrichment job %s failed: %s", self._job_id, error)
