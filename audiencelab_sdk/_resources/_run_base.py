"""What the synchronous and the asynchronous run share: the totals, and how they are reported."""

import logging
import time
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._http._resource import D
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._plans import Plan
from audiencelab_sdk._resources._portions import Portion, Totals
from audiencelab_sdk._resources._reporting import Reporting
from audiencelab_sdk.errors import AudienceLabError, ConflictError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob

logger = logging.getLogger("audiencelab_sdk")

T = TypeVar("T")
Reason: TypeAlias = BaseException | str | None

SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_BETWEEN_HEARTBEATS = 30.0
_NOT_ENTERED = (
    "the outcomes are available inside a with block only: "
    "with client.enrichment.run(...) as outcomes, or async with for the asynchronous client"
)


class Source(Protocol[T]):
    """The outcomes of a run in portions, as they become available."""

    @property
    def sent(self) -> int:
        """The number of records that were sent off."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no record is left: neither to send nor to consume."""
        ...

    @property
    def has_ended_calls(self) -> bool:
        """Whether `take` has something to return."""
        ...

    def open(self) -> None:
        """Prepare for sending records off."""

    def supply(self) -> None:
        """Send records off, as many as the limit admits."""

    def take(self) -> Portion[T] | None:
        """Return the next portion, without waiting. None if there is none."""
        ...

    def consumed(self) -> None:
        """Make room for another portion."""

    def has_more_records(self) -> bool:
        """Whether a record is left that was not sent off. Takes that record."""
        ...

    def check_processes(self) -> None:
        """Notice processes that were killed."""

    async def aclose(self) -> None:
        """Stop everything that runs."""


class RunBase(Reporting, Generic[D, T]):
    """The totals of a run and the job's state. It performs no I/O."""

    def __init__(self, driver: D, name: str, plan: Plan[Any, Any]) -> None:
        super().__init__(plan.job_id, plan.unit)
        self._run: D = driver
        self._name = name
        self._plan = plan
        # The totals of earlier portions, and the current one. Replaced as a whole, because another
        # thread reads it.
        self._progress: tuple[Totals, Portion[T] | None] = Totals(0, 0), None
        self._is_entered = False
        self._is_open = False
        # What the iteration raised. The block may have handled it.
        self._error: BaseException | None = None
        # What stopped the reports. The iteration raises it.
        self._report_error: Exception | None = None
        # None if the last report is lost.
        self._reported: Totals | None = None
        self._reported_at = 0.0

    @property
    def processed(self) -> int:
        """The number of outcomes that the loop has dealt with, failures included."""
        return self._totals().processed

    @property
    def failed(self) -> int:
        """How many of these were failures."""
        return self._totals().failed

    def _begin(self) -> None:
        if self._is_entered:
            raise InvalidArgumentError("a run can be entered once: call run again")
        self._is_entered = True
        self._open_display(show=self._plan.show)

    def _may_have_started(self, error: BaseException) -> bool:
        """Return whether the first report may have been accepted although entering fails."""
        return self._reported_at > 0 and not isinstance(error, AudienceLabError)

    def _check_entered(self) -> None:
        if not self._is_open:
            raise InvalidArgumentError(_NOT_ENTERED)

    def _check_job(self) -> Operation[EnrichmentJob]:
        """Read the job, and make sure that it has not ended."""
        job = yield from jobs.TABLE.get(self._job_id)
        if job.is_final:
            message = (
                f"the enrichment job is already {job.status}: its progress can no longer change"
            )
            raise ConflictError(409, None, message)
        return job

    def _is_report_due(self) -> bool:
        age = time.monotonic() - self._reported_at
        if age >= SECONDS_BETWEEN_HEARTBEATS:
            return True
        return age >= SECONDS_BETWEEN_REPORTS and self._reported != self._totals()

    def _totals(self) -> Totals:
        earlier, portion = self._progress
        return _sum(earlier, portion.dealt_with()) if portion else earlier

    def _count_portion(self) -> None:
        """Count all outcomes that were handed out, and end the portion."""
        earlier, portion = self._progress
        if portion:
            self._progress = _sum(earlier, portion.handed_out()), None

    def _report(self, delay: float = 0.0, *, retried: bool = True) -> Operation[EnrichmentJob]:
        self._reported_at = time.monotonic()
        self._reported = totals = self._totals()
        return jobs.report_progress(self._job_id, self._unit, *totals, delay=delay, retried=retried)

    def _lose_report(self, error: AudienceLabError) -> None:
        """Let the next report be due although the totals may be the same."""
        self._reported = None
        self._log_lost_report(error)

    def _end(self, reason: Reason) -> Operation[EnrichmentJob]:
        """Report the last totals, and complete the job, or fail it for this reason, or leave it."""
        if reason is None:
            return self._report_and_end(complete=True)
        if self._plan.leave:
            return self._report()
        return self._report_and_fail(reason)

    def _why_unfinished(self, source: Source[T]) -> Reason:
        """Return why the block, which has not raised, ends early. None if it ends in time."""
        self._count_portion()
        if self._error is not None:
            return self._error
        if self.processed == source.sent and not source.has_more_records():
            return None
        return f"the run was left before its last outcome, with {self.processed} records processed"

    def _not_ended(self, error: object) -> str:
        done = "reported" if self._plan.leave else "marked as failed"
        return f"Enrichment job {self._job_id} could not be {done}: {error}"


def _sum(one: Totals, other: Totals) -> Totals:
    return Totals(one.processed + other.processed, one.failed + other.failed)
