"""`AsyncUsageRecorder`: the usage log, written in batches by a task."""

import atexit
import logging
import threading
import time
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Self

import anyio

from audiencelab_sdk._backend._clients import refuse
from audiencelab_sdk._backend._forks import reset_in_children
from audiencelab_sdk._backend._recording import POLL, Pauses, closed, is_late, seconds_to_wait
from audiencelab_sdk._backend._usage_queue import BATCH, Plain, UsageQueue, UsageStatistics, models
from audiencelab_sdk._client import AsyncAudienceLab, AudienceLab
from audiencelab_sdk._loops import from_any_thread, spawn
from audiencelab_sdk.models import UsageEvent

logger = logging.getLogger("audiencelab_sdk")


class AsyncUsageRecorder:
    """Logs requests that were made with API keys, in batches and in a task of its own.

    `record` adds to a queue and never waits. The task calls `api_keys.log_usage_batch` once a
    second, or as soon as there are 500 events. Each event gets an id first, so that no retry writes
    it twice. While the database cannot be reached, the task retries with growing pauses. A killed
    process loses about a second of events, more while the database is away. When the queue is full,
    the oldest events are dropped. Lost events are counted, and logged at most once a minute.

    The task runs in the event loop (asyncio or trio) that enters the recorder or first calls
    `record`; `record` may be called from any thread. If that loop ends, the next call in another
    one starts another task there. A forked child begins with an empty queue and a task of its own.
    Close it, or use it as a context manager::

        async with AsyncUsageRecorder(client) as recorder:
            recorder.record(UsageEvent(api_key_id=key_id, endpoint="/v1/segments", method="GET"))

    Args:
        client: A client that acts as the service role. It stays the caller's to close, after the
            recorder.
        max_queued: How many events are queued at most, 1 to 1,000,000.

    Raises:
        ConfigurationError: `client` is an AudienceLab, which UsageRecorder takes.
        InvalidArgumentError: `max_queued` is not such a number.
    """

    def __init__(self, client: AsyncAudienceLab, *, max_queued: int = 10_000) -> None:
        refuse(AudienceLab, client, twin="UsageRecorder")
        self._client = client
        self._queue = UsageQueue(max_queued)
        self._closes_at: float | None = None
        self.reset()
        reset_in_children(self)

    def reset(self) -> None:
        """Have no task. Called in a forked child."""
        self._starting = threading.Lock()
        self._task: _Task | None = None
        if self._closes_at is not None:
            self._queue.close()

    def record(self, event: UsageEvent) -> None:
        """Add an event to the queue, without waiting. After `aclose` it is dropped.

        Args:
            event: The request. Without a `timestamp` it gets the current time.

        Raises:
            InvalidArgumentError: It is not a UsageEvent.
        """
        if self._queue.put(event):
            self._wake()
        if self._task is None:
            self._start()

    def _record_plain(self, event: Plain) -> None:
        if self._queue.put_plain(event):
            self._wake()
        if self._task is None:
            self._start()

    async def flush(self, timeout: float = 10.0) -> bool:  # noqa: ASYNC109 - returns False then
        """Send what was recorded before, and wait until it is sent, dropped or failed.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False if the time was not enough.
        """
        target, deadline = self._queue.recorded, time.monotonic() + timeout
        self._wake(urgent=True)
        self._start()
        while self._queue.settled < target:
            if time.monotonic() >= deadline:
                return False
            await anyio.sleep(POLL)
        return True

    async def aclose(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - does not raise then
        """Send what is left, and stop. What is not sent in time is dropped, with a warning.

        If the caller is cancelled, it waits as well.

        Args:
            timeout: Seconds to wait at most for the database.
        """
        self._wake()
        if not self._queue.is_empty:
            self._start()
        self._closes_at = time.monotonic() + timeout
        self._wake(urgent=True)
        # A caller that is cancelled would lose the events.
        with anyio.CancelScope(shield=True):
            # Polled, because the task may belong to another event loop.
            while self._task is not None and time.monotonic() < self._closes_at:  # noqa: ASYNC110
                await anyio.sleep(POLL)
            remaining = self._closes_at - time.monotonic()
            if not self._queue.is_empty and remaining > 0:  # the task was canceled
                with anyio.move_on_after(remaining):
                    await self._attempt()
        self._queue.close()
        self._queue.warn(closed=True)
        atexit.unregister(self._warn_of_rest)

    @property
    def statistics(self) -> UsageStatistics:
        """What became of the events that this process recorded."""
        return self._queue.statistics

    async def __aenter__(self) -> Self:
        """Start the task, and return the recorder.

        Raises:
            ClientClosedError: It is closed, and would drop what is recorded.
        """
        if self._closes_at is not None:
            raise closed()
        self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _start(self) -> None:
        """Start the task, unless there is one. Without a running event loop, a later call does."""
        with self._starting, suppress(RuntimeError):
            if self._task is None and self._closes_at is None:
                task = _Task()
                # Otherwise all batches would belong to the trace of the first request.
                spawn(
                    partial(self._run, task),
                    name="audiencelab usage",
                    context=Context(),
                    on_end=partial(self._forget, task),
                )
                self._task = task
                atexit.unregister(self._warn_of_rest)
                atexit.register(self._warn_of_rest)

    def _wake(self, *, urgent: bool = False) -> None:
        task = self._task
        if task is None:
            return
        try:
            (task.hurry if urgent else task.wake)()
        except RuntimeError:  # its event loop is closed
            self._task = None

    async def _run(self, task: "_Task") -> None:
        pauses, failed = Pauses(), False
        while True:
            pause = pauses.next(failed=failed, closing=self._closes_at is not None)
            with anyio.move_on_after(seconds_to_wait(self._closes_at, pause)):
                # After a failure, more events are no reason to try again sooner.
                await (task.urgent if failed else task.woken).wait()
            task.reset()
            if is_late(self._closes_at):
                return
            failed = await self._attempt()
            if self._closes_at is not None and self._queue.is_empty:
                return

    def _forget(self, task: "_Task") -> None:
        if self._task is task:
            self._task = None

    async def _attempt(self) -> bool:
        """Send what is queued, and return whether it failed. The task goes on in any case."""
        failed = True
        # Logging itself may fail, such as on a full disk.
        with suppress(Exception):
            failed = await self._send_all()
            self._queue.warn(unreachable=failed)
        return failed

    async def _send_all(self) -> bool:
        while batch := self._queue.take():
            try:
                outcomes = await self._client.api_keys.log_usage_batch(models(batch))
                unreachable = self._queue.settle(batch, outcomes)
            except Exception:  # the task must go on
                self._queue.fail(batch)
                logger.exception("the usage of API keys could not be logged")
                return False
            except BaseException:
                self._queue.put_back(batch)
                raise
            if unreachable:
                return True
            if len(batch) < BATCH:  # what was recorded meanwhile waits for the next one
                break
        return False

    def _warn_of_rest(self) -> None:
        if not self._queue.is_empty:
            logger.warning("the usage of API keys is not logged completely: close the recorder")


class _Task:
    """The task of a recorder, which another thread may wake."""

    def __init__(self) -> None:
        self.reset()
        self.wake = from_any_thread(self._wake)
        self.hurry = from_any_thread(self._hurry)

    def reset(self) -> None:
        """Wait to be woken again."""
        self.woken, self.urgent = anyio.Event(), anyio.Event()

    def _wake(self) -> None:
        self.woken.set()

    def _hurry(self) -> None:
        self.woken.set()
        self.urgent.set()
