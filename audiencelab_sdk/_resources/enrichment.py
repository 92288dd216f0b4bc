"""Enrichment jobs: `client.enrichment`."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import UUID, uuid4

from audiencelab_sdk._arguments import (
    checked_int,
    checked_object,
    checked_seconds,
    checked_text,
    checked_texts,
    checked_timedelta,
    checked_uuid,
)
from audiencelab_sdk._http._listing import Listing
from audiencelab_sdk._http._operation import Operation, rpc
from audiencelab_sdk._http._reading import read
from audiencelab_sdk._http._resource import (
    D,
    Resource,
    listing,
    made_by,
    operation,
    overloaded,
)
from audiencelab_sdk._http._table import Condition, created, creator, equal
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._async_running import AsyncEnrichmentRun
from audiencelab_sdk._resources._bar import Observer, observer
from audiencelab_sdk._resources._jobs import OnError
from audiencelab_sdk._resources._plans import NewExecutor, Plan
from audiencelab_sdk._resources._running import EnrichmentRun
from audiencelab_sdk._resources._tracking import AsyncProgress, Progress, Tracking
from audiencelab_sdk.errors import (
    AudienceLabError,
    EnrichmentFailedError,
    EnrichmentTimeoutError,
    InvalidArgumentError,
)
from audiencelab_sdk.models import EnrichmentJob, EnrichmentStatus, EnrichmentType

if TYPE_CHECKING:
    from audiencelab_sdk._http._drivers import AsyncDriver, Driver

R = TypeVar("R")
T = TypeVar("T")


class Enrichment(Resource[D]):
    """The enrichment jobs of accounts: pending, then processing, then completed or failed.

    Members of the account and the service role may call all methods, except that `reset_progress`
    and `fail_stale` are for the service role. API keys with a scope on ``enrichment`` may read jobs
    and work on them. Ids are UUIDs or their text.

    Besides the errors that it documents, every method raises:

    - InvalidArgumentError if an argument is invalid. No request is sent then.
    - AuthenticationError if the server rejects the key or the access token, or if the client has
      only the publishable (anon) key and no access token.
    - APIConnectionError if no response arrives.
    - UnexpectedResponseError if the body of the response has an unexpected format.
    - ClientClosedError if the client is closed.
    - The APIStatusError for any other error response.
    """

    _subject = "enrichment"

    @operation
    def create(
        self,
        account_id: UUID | str,
        audience_id: UUID | str,
        enrichment_type: EnrichmentType | str,
        *,
        total_records: int = 0,
        enrichment_fields: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        created_by: UUID | str | None = None,
    ) -> Operation[EnrichmentJob]:
        """Create a pending job, as a member, as the service role or as an API key with a scope.

        Inserts into the table ``enrichment_tracking``.

        Args:
            account_id: The account that owns the job.
            audience_id: The audience whose records are enriched.
            enrichment_type: What to add: email, phone, company, social or custom.
            total_records: The number of records. 0 means unknown.
            enrichment_fields: The fields to fill.
            metadata: Further data about the job, as a JSON object.
            created_by: The user who creates it. None means the user that the client acts as, or the
                user who created its API key. Only the service role may name another user.

        Returns:
            The new job.

        Raises:
            PermissionDeniedError: The caller is a user who is not a member of the account, the
                account does not exist, or the API key has no scope for all jobs.
            ConflictError: The client acts as the service role, and the account or the user
                `created_by` does not exist.
            InvalidArgumentError: `created_by` is missing, and the client acts as no user or API
                key.
        """
        row = {
            "id": str(uuid4()),
            "account_id": str(checked_uuid("account_id", account_id)),
            "audience_id": str(checked_uuid("audience_id", audience_id)),
            "enrichment_type": checked_text("enrichment_type", enrichment_type),
            "total_records": checked_int("total_records", total_records, 0, MOST_RECORDS),
            "enrichment_fields": checked_texts("enrichment_fields", enrichment_fields),
            "metadata": checked_object("metadata", {} if metadata is None else metadata),
            **creator(created_by, self._creator()),
        }
        (job,) = yield from jobs.TABLE.insert([row])
        return job

    @operation
    def get(self, job_id: UUID | str) -> Operation[EnrichmentJob]:
        """Return a job.

        Reads the table ``enrichment_tracking``.

        Args:
            job_id: The job's id.

        Returns:
            The job.

        Raises:
            NotFoundError: The job does not exist, or is not visible to the caller.
        """
        return (yield from jobs.TABLE.get(checked_uuid("job_id", job_id)))

    @listing
    def list(
        self,
        *,
        account_id: UUID | str | None = None,
        audience_id: UUID | str | None = None,
        status: EnrichmentStatus | str | None = None,
        enrichment_type: EnrichmentType | str | None = None,
        stale_for: timedelta | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
        cursor: str | None = None,
    ) -> Listing[EnrichmentJob]:
        """List the jobs that are visible to the caller, newest first.

        Reads the table ``enrichment_tracking``. Without arguments it lists all of them::

            for job in client.enrichment.list(status="pending"):
                print(job.id, job.enrichment_type)

            async for job in async_client.enrichment.list(status="pending"):
                print(job.id, job.enrichment_type)

        Args:
            account_id: Only jobs of this account.
            audience_id: Only jobs of this audience.
            status: Only jobs with this status.
            enrichment_type: Only jobs of this type.
            stale_for: Only processing jobs that were not updated for so long, by the clock of this
                machine. While a job is worked on by `track`, it is updated every 30 seconds.
            created_after: Only jobs created after this time, an aware datetime.
            created_before: Only jobs created before this time, an aware datetime.
            page_size: How many jobs to fetch per request, 1 to 1000.
            cursor: The `cursor` of a page of the same list, to continue after that page.

        Returns:
            The first page. Iterating over it fetches the following pages as needed, and yields each
            job once, even if others are created in the meantime.
        """
        conditions = created(created_after, created_before)
        if account_id is not None:
            conditions.append(equal("account_id", checked_uuid("account_id", account_id)))
        if audience_id is not None:
            conditions.append(equal("audience_id", checked_uuid("audience_id", audience_id)))
        moving: dict[Condition, object] = {}
        if stale_for is not None:
            if status not in {None, jobs.PROCESSING}:
                raise InvalidArgumentError("stale_for is for processing jobs: leave status out")
            status = jobs.PROCESSING
            silence = checked_timedelta("stale_for", stale_for, timedelta(0), jobs.LONGEST_SILENCE)
            last_update = datetime.now(UTC) - silence
            moving[("updated_at", "lt", last_update.isoformat())] = silence
        if status is not None:
            conditions.append(equal("status", checked_text("status", status)))
        if enrichment_type is not None:
            checked_type = checked_text("enrichment_type", enrichment_type)
            conditions.append(equal("enrichment_type", checked_type))
        return jobs.TABLE.listing(conditions, page_size, cursor, moving=moving)

    @operation
    def start(self, job_id: UUID | str) -> Operation[EnrichmentJob]:
        """Move a pending job to processing. If several callers try, only one succeeds.

        Updates the table ``enrichment_tracking`` where the job is still pending. `track` and
        `report_progress` need no `start`: the first report starts a job.

        Args:
            job_id: The job's id.

        Returns:
            The updated job.

        Raises:
            ConflictError: The job is not pending.
            PermissionDeniedError: The client acts as an API key that may only read the job.
            NotFoundError: The job does not exist, or is not visible to the caller.
        """
        return (yield from jobs.start(job_id))

    @operation
    def report_progress(
        self, job_id: UUID | str, *, unit: str, processed: int, failed: int = 0
    ) -> Operation[EnrichmentJob]:
        """Report the totals of a unit of work. The first report starts a pending job.

        Calls the database function ``report_enrichment_progress``, which adds up the totals of all
        units. The totals of a unit never decrease, so repeated and late reports are harmless. If a
        unit is processed again after a crash, it needs its old name, and counts once. `track`
        handles the reports of a unit.

        Args:
            job_id: The job's id.
            unit: The name of the unit of work, unique within the job, such as ``"rows 0-999"``. Not
                the name of a process.
            processed: The number of records of the unit that are processed, failures included.
            failed: How many of these failed.

        Returns:
            The job. Its counters may lag behind the reports by up to a second while reports keep
            coming. They are exact once the job is completed or failed.

        Raises:
            ConflictError: The job is completed or failed.
            NotFoundError: The job does not exist, or the caller may not work on it.
        """
        return (yield from jobs.report_progress(job_id, unit, processed, failed))

    @operation
    def reset_progress(
        self, job_id: UUID | str, unit: str | None = None
    ) -> Operation[EnrichmentJob]:
        """Discard the reports on one unit or on all units, and recalculate the job's counters.

        Use it after wrong totals were reported. Calls the database function
        ``reset_enrichment_progress``, as the service role.

        Args:
            job_id: The job's id.
            unit: The unit whose totals are discarded. None means all units.

        Returns:
            The updated job.

        Raises:
            PermissionDeniedError: The caller is not the service role.
            NotFoundError: The job does not exist.
        """
        arguments = {"p_job_id": str(checked_uuid("job_id", job_id))}
        if unit is not None:
            arguments["p_unit"] = checked_text("unit", unit, longest=LONGEST_NAME)
        response = yield rpc("reset_enrichment_progress", arguments, repeatable=True)
        return read("reset_enrichment_progress", jobs.TABLE.rows.one, response)

    @operation
    def complete(self, job_id: UUID | str) -> Operation[EnrichmentJob]:
        """Move a processing job to completed.

        Updates the table ``enrichment_tracking`` where the job is still processing.

        Args:
            job_id: The job's id.

        Returns:
            The updated job.

        Raises:
            ConflictError: The job is pending, completed or failed.
            PermissionDeniedError: The client acts as an API key that may only read the job.
            NotFoundError: The job does not exist, or is not visible to the caller.
        """
        return (yield from jobs.complete(job_id))

    @operation
    def fail(self, job_id: UUID | str, error: str | BaseException) -> Operation[EnrichmentJob]:
        """Move a pending or processing job to failed.

        Updates the table ``enrichment_tracking``. The reason is stored in `metadata` under the key
        ``error``, unless there is no room for it, which is logged. The other keys are kept,
        including concurrent changes. Decimal numbers in them that have more than 15 digits lose
        precision.

        Args:
            job_id: The job's id.
            error: The reason, or an exception whose text is the reason. It is truncated to 10,000
                characters.

        Returns:
            The updated job. Its `error` is the reason.

        Raises:
            ConflictError: The job is completed or failed, or something else changed the job during
                each attempt to store the reason.
            PermissionDeniedError: The client acts as an API key that may only read the job.
            NotFoundError: The job does not exist, or is not visible to the caller.
        """
        return (yield from jobs.fail(job_id, error))

    @operation
    def retry(self, job_id: UUID | str, *, reset: bool = False) -> Operation[EnrichmentJob]:
        """Move a failed job to pending, so that it can be worked on again.

        Workers of the failed job have to be stopped first: a `run` or `track` that did not notice
        the failure would go on with the job.

        Calls the database function ``retry_enrichment_job``. The reason of the failure is removed
        from `metadata`, and `completed_at` becomes None.

        Args:
            job_id: The job's id.
            reset: Whether the job starts from the beginning, with counters of 0. By default the
                totals of its units are kept: finished units need not be processed again, and a unit
                that is processed again under the same name counts once.

        Returns:
            The updated job.

        Raises:
            ConflictError: The job is not failed.
            NotFoundError: The job does not exist, or the caller may not work on it.
        """
        return (yield from jobs.retry(job_id, reset=reset))

    @operation
    def fail_stale(self, older_than: timedelta) -> Operation[int]:
        """Move all processing jobs to failed that were not updated for so long.

        Run it regularly, to notice workers that were killed::

            client.enrichment.fail_stale(timedelta(minutes=10))

        Calls the database function ``fail_stale_enrichment_jobs``, as the service role. The reason
        is stored in `metadata`. `list` with `stale_for` returns these jobs and changes nothing.

        Args:
            older_than: How long the job was not updated, by the clock of the database: 1 minute to
                365 days. While a job is worked on by `track`, it is updated every 30 seconds.

        Returns:
            The number of jobs that this call moved to failed.

        Raises:
            PermissionDeniedError: The caller is not the service role.
        """
        return (yield from jobs.fail_stale(older_than))

    @operation
    def wait(
        self,
        job_id: UUID | str,
        *,
        timeout: float = 600.0,
        poll_interval: float = 2.0,
        on_progress: Observer | None = None,
        show: bool = False,
    ) -> Operation[EnrichmentJob]:
        """Poll a job until it is completed.

        Reads the table ``enrichment_tracking``. After the first read, transient errors are retried
        until the timeout.

        Args:
            job_id: The job's id.
            timeout: The maximum time to wait, in seconds. The last request may exceed it.
            poll_interval: The time between two reads, in seconds.
            on_progress: A plain function, called with the job after the first read and after each
                change of anything but `updated_at`. An exception that it raises ends the wait.
            show: Whether to show a progress bar on standard error, with the rate, the time left and
                the failed records, or how long nobody has reported. Needs the extra ``progress``.

        Returns:
            The completed job.

        Raises:
            EnrichmentFailedError: The job failed.
            EnrichmentTimeoutError: The job did not end within the timeout. If the last read failed,
                its error is the ``__cause__``.
            NotFoundError: The job does not exist, or is not visible to the caller.
            ConfigurationError: `show` is true, and rich is not installed.
        """
        with observer(on_progress, show=show) as observe:
            checked_id = checked_uuid("job_id", job_id)
            interval = checked_seconds("poll_interval", poll_interval)
            deadline = time.monotonic() + checked_seconds("timeout", timeout)
            job = yield from jobs.TABLE.get(checked_id)
            if observe:
                observe(job)
            last_error: AudienceLabError | None = None
            while not job.is_final:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise EnrichmentTimeoutError(job, timeout) from last_error
                before = job
                try:
                    # The driver does not retry, because this loop does and knows the deadline.
                    job = yield from jobs.TABLE.get(
                        checked_id, delay=min(interval, left), retried=False
                    )
                except jobs.TRANSIENT as error:
                    last_error = error
                else:
                    last_error = None
                if observe and job != before:
                    observe(job)
        if job.status is jobs.FAILED:
            raise EnrichmentFailedError(job)
        return job

    @made_by(Progress, AsyncProgress)
    def track(
        self,
        job: EnrichmentJob | UUID | str,
        *,
        unit: str | None = None,
        complete: bool = True,
        on_error: OnError = "fail",
        show: bool = False,
    ) -> Tracking:
        """Return a context manager that counts records and reports the progress of a job.

        ::

            with client.enrichment.track(job) as progress:
                for batch in batches:
                    failures = enrich(batch)
                    progress.advance(len(batch), failed=failures)

            async with async_client.enrichment.track(job) as progress:
                await progress.advance(5)

        Entering the block starts a pending job. `advance` reports the totals at most once a second.
        The end of the block reports them again and completes the job. If the block raises, the job
        fails with the exception's text, and the exception is re-raised. KeyboardInterrupt,
        SystemExit and the cancellation of an asynchronous task leave the job processing instead,
        because they end the program and say nothing about the job. Calls the database function
        ``report_enrichment_progress`` and updates the table ``enrichment_tracking``.

        A transient error of a report does not interrupt the work: the next report includes its
        totals. The last report is retried for up to a minute. If there is no progress, the totals
        are reported again every 30 seconds in the background, so that `updated_at` shows that the
        job is being worked on.

        Several blocks, in one process or in many, may work on a job, each on a unit of its own.
        Each passes ``complete=False`` and the name of the unit, and `complete` is called after all
        units are finished. If a block raises, the job fails, and `advance` raises ConflictError in
        the others.

        A unit is a part of the work, such as ``"rows 0-999"``, and not a process. If a process
        crashes, another one processes the unit again, under the same name and from its beginning:
        the unit counts once. Under a new name, the records that were reported before the crash
        would count twice, and a job of 20,000 records would end at 20,300.

        Args:
            job: The job, or its id.
            unit: The name of the unit of work, unique within the job. None means all of the job,
                and is not allowed with ``complete=False``, where several blocks would share one
                total.
            complete: Whether to complete the job when the block ends without an exception.
            on_error: Whether an exception fails the job, or leaves it processing, to be taken up
                again.
            show: Whether to show a progress bar on standard error. Needs the extra ``progress``.

        Returns:
            The context manager. Its `processed` and `failed` are the totals, also after an error.

        Raises:
            ConfigurationError: `show` is true, and rich is not installed.
            ConflictError: On entry or at the end of the block, the job is completed or failed.
            NotFoundError: On entry or at the end of the block, the job does not exist, or the
                caller may not work on it.
        """
        return Tracking(job, unit=unit, complete=complete, on_error=on_error, show=show)

    @overload
    def run(
        self: "Enrichment[Driver]",
        job: EnrichmentJob | UUID | str,
        records: Iterable[R],
        enrich: Callable[[R], T],
        *,
        executor: Executor | NewExecutor | None = None,
        chunk_size: int = 1000,
        in_flight: int = 64,
        attempts: int = 3,
        unit: str | None = None,
        on_error: OnError = "fail",
        show: bool = False,
    ) -> EnrichmentRun[T]: ...
    @overload
    def run(
        self: "Enrichment[AsyncDriver]",
        job: EnrichmentJob | UUID | str,
        records: Iterable[R],
        enrich: Callable[[R], Awaitable[T]],
        *,
        executor: None = None,
        chunk_size: int = 1000,
        in_flight: int = 64,
        attempts: int = 3,
        unit: str | None = None,
        on_error: OnError = "fail",
        show: bool = False,
    ) -> AsyncEnrichmentRun[T]: ...
    @overload
    def run(
        self: "Enrichment[AsyncDriver]",
        job: EnrichmentJob | UUID | str,
        records: Iterable[R],
        enrich: Callable[[R], T],
        *,
        executor: Executor | NewExecutor,
        chunk_size: int = 1000,
        in_flight: int = 64,
        attempts: int = 3,
        unit: str | None = None,
        on_error: OnError = "fail",
        show: bool = False,
    ) -> AsyncEnrichmentRun[T]: ...
    @overloaded(made_by(EnrichmentRun[Any], AsyncEnrichmentRun[Any]))
    def run(
        self,
        job: EnrichmentJob | UUID | str,
        records: Iterable[Any],
        enrich: Callable[[Any], Any],
        *,
        executor: Executor | NewExecutor | None = None,
        chunk_size: int = 1000,
        in_flight: int = 64,
        attempts: int = 3,
        unit: str | None = None,
        on_error: OnError = "fail",
        show: bool = False,
    ) -> Plan[Any, Any]:
        """Return a context manager that enriches records, and iterates over their outcomes.

        `enrich` may run more than once for a record, for example after a worker process was killed.
        It must therefore be safe to repeat. Each record has exactly one outcome and counts once.

        ::

            with client.enrichment.run(job, records, find_email, executor=executor) as outcomes:
                for outcome in outcomes:
                    save(outcome.index, outcome.value if outcome else None)

            async with async_client.enrichment.run(job, records, find_email) as outcomes:
                async for outcome in outcomes:
                    await save(outcome.index, outcome.value if outcome else None)

        Entering the block starts a pending job. Records are read as needed, so they may come from
        an endless generator, and sent to the executor in chunks. The outcomes come in no particular
        order. An exception of `enrich` is the outcome of its record, an EnrichmentRecordError.

        Leaving the block after the last outcome completes the job. If the block raises or is left
        earlier, queued chunks are canceled and the job fails with the reason. Calls of `enrich`
        that run in threads finish first. Chunks that run elsewhere are abandoned.

        If all records read so far have their outcomes when the block is left, the run reads another
        record, to find out whether there is one, and waits for it. After a chunk that is not full,
        it knows that there is none.

        Only this process talks to the API. It reports the outcomes that the loop has dealt with, at
        most once a second, and at least every 30 seconds. A transient error of a report does not
        interrupt the work. The last report is retried for up to a minute. Calls the database
        function ``report_enrichment_progress``, and reads and updates the table
        ``enrichment_tracking``.

        Args:
            job: The job, or its id.
            records: Any iterable. Processes and clusters need records that can be pickled.
            enrich: Called with a record. Its result is the outcome's value. The asynchronous client
                takes a coroutine function, or a plain function and an executor. Processes need a
                function at the top level of a module.
            executor: Any executor of ``concurrent.futures``, such as a ProcessPoolExecutor or
                ``dask.distributed.Client.get_executor()``, which stays open. If you pass a function
                that creates one, such as ``ProcessPoolExecutor``, the run shuts it down, and
                replaces it if a worker is killed. None means a pool of threads.
            chunk_size: How many records a worker gets at once, and enriches one after the other. A
                coroutine function gets single records.
            in_flight: How many chunks are submitted and not consumed yet, at most. A slow loop
                therefore slows the workers. For a coroutine function, how many records.
            attempts: How many times a chunk is tried if the executor does not run it to its end,
                for example because its worker was killed.
            unit: The name under which the totals are reported. Runs with the same name count each
                record once: start again from the first record, for example after a crash or after
                `retry`, with the same name. Runs with different names are added up: a run for other
                records, such as those without an outcome, needs another name. None means ``"all"``.
            on_error: Whether a block that raises or is left early fails the job, or leaves it
                processing, so that another run can go on with the remaining records.
            show: Whether to show a progress bar on standard error. Needs the extra ``progress``.

        Returns:
            Enter it with ``with`` or ``async with``, and iterate over what that gives. Its
            `processed` and `failed` are the totals, also after an error.

        Raises:
            ConfigurationError: `show` is true, and rich is not installed.
            ConflictError: The job is completed or failed. The iterator raises it if the job ends
                meanwhile.
            NotFoundError: The job does not exist, or the caller may not work on it.
            EnrichmentChunkError: The executor did not run a chunk in all attempts. The iterator
                raises it.
        """
        return Plan(
            job,
            records,
            enrich,
            executor=executor,
            chunk_size=chunk_size,
            in_flight=in_flight,
            attempts=attempts,
            unit=unit,
            on_error=on_error,
            show=show,
        )
