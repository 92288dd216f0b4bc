"""Enrichment jobs: `client.enrichment`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from audiencelab_sdk._operations import enrichment as operations
from audiencelab_sdk._resources._bar import Observer, shown
from audiencelab_sdk._resources._base import AsyncUserResource, UserResource
from audiencelab_sdk._resources._tracking import AsyncProgress, Progress
from audiencelab_sdk.models import (
    AsyncPage,
    EnrichmentJob,
    EnrichmentStatus,
    EnrichmentType,
    Page,
)


class Enrichment(UserResource):
    """The enrichment jobs of accounts: pending, then processing, then completed or failed.

    Every call raises InvalidArgumentError for an argument that cannot be right, before anything
    is sent; APIConnectionError when no answer comes; and the APIStatusError of the answer when it
    is no success. Ids are UUIDs or their text. Members of the account, the service role and, to
    read and to work, API keys with a scope on ``enrichment`` may make them.
    """

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
    ) -> EnrichmentJob:
        """Make a job, which is pending, as a member of the account or as the service role.

        Inserts into the table ``enrichment_tracking``.

        Args:
            account_id: The account that it is for.
            audience_id: The audience whose records are to be enriched.
            enrichment_type: What to add: email, phone, company, social or custom.
            total_records: The number of records to deal with; 0 when it is not known.
            enrichment_fields: The fields to fill.
            metadata: Whatever else is to be said of it, as a JSON object.
            created_by: The user who makes it; when left out, the one that the client acts as.

        Returns:
            The job.

        Raises:
            PermissionDeniedError: The user is no member, or there is no such account.
            InvalidArgumentError: The client acts as no user, and `created_by` was left out.
        """
        return self._run(
            operations.create(
                account_id,
                audience_id,
                enrichment_type,
                total_records=total_records,
                enrichment_fields=enrichment_fields,
                metadata=metadata,
                created_by=created_by,
                user_id=self._user_id(),
            )
        )

    def get(self, job_id: UUID | str) -> EnrichmentJob:
        """Read a job from the table ``enrichment_tracking``.

        Args:
            job_id: The job's id.

        Returns:
            The job.

        Raises:
            NotFoundError: There is none, or the caller may not see it.
        """
        return self._run(operations.get(job_id))

    def list(
        self,
        *,
        account_id: UUID | str | None = None,
        audience_id: UUID | str | None = None,
        status: EnrichmentStatus | str | None = None,
        enrichment_type: EnrichmentType | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
    ) -> Page[EnrichmentJob]:
        """List the jobs that the caller may see, the newest first.

        Reads the table ``enrichment_tracking``. What is left out does not narrow the list::

            for job in client.enrichment.list(status="pending"):
                print(job.id, job.enrichment_type)

        Args:
            account_id: Only those of this account.
            audience_id: Only those of this audience.
            status: Only those that are so far.
            enrichment_type: Only those that add this.
            created_after: Only those made after this moment, which needs a time zone.
            created_before: Only those made before this moment, which needs a time zone.
            page_size: How many to fetch at a time, 1 to 1000.

        Returns:
            The first page. Iterating it walks all of them: those that are there all the while
            come once, whatever is added in between.
        """
        return self._page(
            operations.listing(
                account_id=account_id,
                audience_id=audience_id,
                status=status,
                enrichment_type=enrichment_type,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
            )
        )

    def start(self, job_id: UUID | str) -> EnrichmentJob:
        """Take a pending job: it is processing from now on. Of many who try, one succeeds.

        Updates the table ``enrichment_tracking`` where the job is still pending. `track` and
        `report_progress` need no `start`: the first report starts a job.

        Args:
            job_id: The job's id.

        Returns:
            The job as it is now.

        Raises:
            ConflictError: It is not pending.
            NotFoundError: There is none, or the caller may not see it.
        """
        return self._run(operations.start(job_id))

    def report_progress(
        self, job_id: UUID | str, *, worker: str, processed: int, failed: int = 0
    ) -> EnrichmentJob:
        """Report how much a worker has done of a job since it began.

        Calls the database function ``report_enrichment_progress``, which adds up the workers'
        totals. A worker's totals never go back, so a report that comes twice or late does no harm;
        for the same reason, a worker that begins anew needs another name. `track` does all that.

        Args:
            job_id: The job's id.
            worker: The worker's name, unlike that of any other on this job.
            processed: The number of records that it has dealt with so far, failures included.
            failed: How many of these failed.

        Returns:
            The job as it is now, with the totals of all workers.

        Raises:
            ConflictError: The job has been completed or has failed.
            NotFoundError: There is none, or the caller may not work on it.
        """
        return self._run(operations.report_progress(job_id, worker, processed, failed))

    def reset_progress(self, job_id: UUID | str, worker: str | None = None) -> EnrichmentJob:
        """Discard what workers reported of a job, and recalculate its counters.

        For a worker that reported nonsense, or before a job is done again. Calls the database
        function ``reset_enrichment_progress``, as the service role.

        Args:
            job_id: The job's id.
            worker: The worker whose totals are discarded. None means all workers.

        Returns:
            The updated job.

        Raises:
            PermissionDeniedError: The caller is not the service role.
            NotFoundError: The job does not exist.
        """
        return self._run(operations.reset_progress(job_id, worker))

    def complete(self, job_id: UUID | str) -> EnrichmentJob:
        """End a job that is processing: all is done.

        Updates the table ``enrichment_tracking`` where the job is still processing.

        Args:
            job_id: The job's id.

        Returns:
            The job as it is now.

        Raises:
            ConflictError: It is pending, or has ended already.
            NotFoundError: There is none, or the caller may not see it.
        """
        return self._run(operations.complete(job_id))

    def fail(self, job_id: UUID | str, error: str | BaseException) -> EnrichmentJob:
        """End a job that is pending or processing: it cannot be done.

        Updates the table ``enrichment_tracking``. The reason is stored in `metadata` under the key
        ``error``; the other keys stay as they are, even when somebody changes them meanwhile (but
        numbers of more than 15 digits are written back as Python's floats).

        Args:
            job_id: The job's id.
            error: The reason, or the exception whose text it is; at most 10,000 characters of it
                are stored.

        Returns:
            The job as it is now; its `error` is the reason.

        Raises:
            ConflictError: It has ended already.
            NotFoundError: There is none, or the caller may not see it.
        """
        return self._run(operations.fail(job_id, error))

    def wait(
        self,
        job_id: UUID | str,
        *,
        timeout: float = 600.0,
        poll_interval: float = 2.0,
        on_progress: Observer | None = None,
        show: bool = False,
    ) -> EnrichmentJob:
        """Wait until a job is completed, by reading it again and again.

        Once the job was read, an outage of the server does not end the wait before its time.

        Args:
            job_id: The job's id.
            timeout: Seconds to wait at most, not counting the time that the last request takes.
            poll_interval: Seconds between two looks at the job.
            on_progress: Called with the job at first, and whenever it has changed since. What it
                raises ends the wait.
            show: Show a progress bar on standard error; needs the extra ``progress``.

        Returns:
            The completed job.

        Raises:
            EnrichmentFailedError: The job has failed.
            EnrichmentTimeoutError: It had not ended, as far as is known, when the time was over;
                its cause is the error of the last look, if that failed.
            NotFoundError: There is none, or the caller may not see it.
            ConfigurationError: `show` needs rich, which is not installed.
        """
        with shown(on_progress, show=show) as observe:
            return self._run(operations.wait(job_id, timeout, poll_interval, observe))

    def track(
        self,
        job: EnrichmentJob | UUID | str,
        *,
        worker: str | None = None,
        complete: bool = True,
        show: bool = False,
    ) -> Progress:
        """Work on a job, and report how far the work is.

        ::

            with client.enrichment.track(job, worker="w1") as progress:
                for batch in batches:
                    failures = enrich(batch)
                    progress.advance(len(batch), failed=failures)

        On entry the job begins, if it had not. The worker's totals are reported at most once a
        second, and when the block ends. Then the job is completed; or, when the block raises, it
        fails with the exception's text, and the exception goes on. A report that is lost does not
        disturb the work: each carries all that came before, and the last one is repeated for a
        minute. It ends, with ConflictError, when somebody else ended the job.

        Several workers may share a job. Each then passes ``complete=False``, and who started them
        calls `complete` when all are through; but whoever fails, fails the job for all.

        Args:
            job: The job, or its id.
            worker: The worker's name, unlike that of any other on this job, earlier runs of the
                same worker included; a random one, when left out.
            complete: Whether to complete the job when the block ends without an exception.
            show: Show a progress bar on standard error; needs the extra ``progress``.

        Returns:
            A context manager: what counts the records.

        Raises:
            ConfigurationError: `show` needs rich, which is not installed.
            AudienceLabError: On entry, the job could not begin; or at the end of the block, the
                totals could not be sent or the job not be completed: `processed` and `failed`
                still tell them.
        """
        return Progress(self._run, job, worker=worker, complete=complete, show=show)


class AsyncEnrichment(AsyncUserResource):
    """Like :class:`Enrichment`, awaited."""

    async def create(
        self,
        account_id: UUID | str,
        audience_id: UUID | str,
        enrichment_type: EnrichmentType | str,
        *,
        total_records: int = 0,
        enrichment_fields: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        created_by: UUID | str | None = None,
    ) -> EnrichmentJob:
        """Like :meth:`Enrichment.create`, awaited."""
        return await self._run(
            operations.create(
                account_id,
                audience_id,
                enrichment_type,
                total_records=total_records,
                enrichment_fields=enrichment_fields,
                metadata=metadata,
                created_by=created_by,
                user_id=self._user_id(),
            )
        )

    async def get(self, job_id: UUID | str) -> EnrichmentJob:
        """Like :meth:`Enrichment.get`, awaited."""
        return await self._run(operations.get(job_id))

    async def list(
        self,
        *,
        account_id: UUID | str | None = None,
        audience_id: UUID | str | None = None,
        status: EnrichmentStatus | str | None = None,
        enrichment_type: EnrichmentType | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncPage[EnrichmentJob]:
        """Like :meth:`Enrichment.list`, awaited.

        The page is walked with ``async for``::

            async for job in await client.enrichment.list(account_id=account_id):
                print(job.id)
        """
        return await self._page(
            operations.listing(
                account_id=account_id,
                audience_id=audience_id,
                status=status,
                enrichment_type=enrichment_type,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
            )
        )

    async def start(self, job_id: UUID | str) -> EnrichmentJob:
        """Like :meth:`Enrichment.start`, awaited."""
        return await self._run(operations.start(job_id))

    async def report_progress(
        self, job_id: UUID | str, *, worker: str, processed: int, failed: int = 0
    ) -> EnrichmentJob:
        """Like :meth:`Enrichment.report_progress`, awaited."""
        return await self._run(operations.report_progress(job_id, worker, processed, failed))

    async def reset_progress(self, job_id: UUID | str, worker: str | None = None) -> EnrichmentJob:
        """Like :meth:`Enrichment.reset_progress`, awaited."""
        return await self._run(operations.reset_progress(job_id, worker))

    async def complete(self, job_id: UUID | str) -> EnrichmentJob:
        """Like :meth:`Enrichment.complete`, awaited."""
        return await self._run(operations.complete(job_id))

    async def fail(self, job_id: UUID | str, error: str | BaseException) -> EnrichmentJob:
        """Like :meth:`Enrichment.fail`, awaited."""
        return await self._run(operations.fail(job_id, error))

    async def wait(
        self,
        job_id: UUID | str,
        *,
        timeout: float = 600.0,  # noqa: ASYNC109 - it ends with an error that carries the job
        poll_interval: float = 2.0,
        on_progress: Observer | None = None,
        show: bool = False,
    ) -> EnrichmentJob:
        """Like :meth:`Enrichment.wait`, awaited.

        `on_progress` is called as it is, not awaited.
        """
        with shown(on_progress, show=show) as observe:
            return await self._run(operations.wait(job_id, timeout, poll_interval, observe))

    def track(
        self,
        job: EnrichmentJob | UUID | str,
        *,
        worker: str | None = None,
        complete: bool = True,
        show: bool = False,
    ) -> AsyncProgress:
        """Like :meth:`Enrichment.track`.

        ::

            async with client.enrichment.track(job, worker="w1") as progress:
                await progress.advance(5)
        """
        return AsyncProgress(self._run, job, worker=worker, complete=complete, show=show)
