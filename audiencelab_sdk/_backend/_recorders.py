"""`UsageRecorder` and `AsyncUsageRecorder`: the usage log, written in batches."""

import atexit
import logging
import random
import threading
import time
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from audiencelab_sdk._backend._clients import refuse
from audiencelab_sdk._backend._forks import reset_in_children
from audiencelab_sdk._backend._usage_queue import BATCH, Plain, UsageQueue, UsageStatistics, models
from audiencelab_sdk._client import AsyncAudienceLab, AudienceLab
from audiencelab_sdk._loops import from_any_thread, spawn
from audiencelab_sdk.errors import ClientClosedError
from audiencelab_sdk.models import UsageEvent

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

logger = logging.getLogger("audiencelab_sdk")

_INTERVAL = 1.0
_LONGEST_PAUSE = 30.0
_POLL = 0.01


class _Pauses:
    """The seconds to wait before the next attempt: longer after each failure."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, *, failed: bool, closing: bool) -> float:
        if not failed:
            self._failures = 0
            return 0.0 if closing else _INTERVAL
        self._failures = min(self._failures + 1, 10)
        longest = min(_LONGEST_PAUSE, _INTERVAL * 2**self._failures)
        return random.uniform(_INTERVAL, longest)  # noqa: S311 - jitter, no secret


class UsageRecorder:
    """Logs requests that were made with API keys, in batches and in a thread of its own.

    `record` adds to a queue and never waits. The thread calls `api_keys.log_usage_batch` once a
    second, or as soon as there are 500 events. Each event gets an id first, so that no retry writes
    it twice. While the database cannot be reached, the thread retries with growing pauses. A killed
    process loses about a second of events, more while the database is away. When the queue is full,
    the oldest events are dropped. Lost events are counted, and logged at most once a minute.

    It may be shared between threads. A forked child begins with an empty queue and a thread of its
    own. Close it, or use it as a context manager; at the end of the process it closes itself::

        with UsageRecorder(client) as recorder:
            recorder.record(UsageEvent(api_key_id=key_id, endpoint="/v1/segments", method="GET"))

    Args:
        client: A client that acts as the service role. It stays the caller's to close, after the
            recorder.
        max_queued: How many events are queued at most, 1 to 1,000,000.

    Raises:
        ConfigurationError: `client` is an AsyncAudienceLab, which AsyncUsageRecorder takes.
        InvalidArgumentError: `max_queued` is not such a number.
    """

    def __init__(self, client: AudienceLab, *, max_queued: int = 10_000) -> None:
        refuse(AsyncAudienceLab, client, twin="AsyncUsageRecorder")
        self._client = client
        self._queue = UsageQueue(max_queued)
        self._closes_at: float | None = None
        self._finalizer: Finalize | None = None
        self.reset()
        reset_in_children(self)

    def reset(self) -> None:
        """Have no thread. Called in a forked child."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._urgent = threading.Event()
        if self._closes_at is not None:
            self._queue.close()

    def record(self, event: UsageEvent) -> None:
        """Add an event to the queue, without waiting. After `close` it is dropped.

        Args:
            event: The request. Without a `timestamp` it gets the current time.

        Raises:
            InvalidArgumentError: It is not a UsageEvent.
        """
        if self._queue.put(event):
            self._wake.set()
        if self._thread is None:
            self._start()

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what was recorded before, and wait until it is sent, dropped or failed.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False if the time was not enough.
        """
        target, deadline = self._queue.recorded, time.monotonic() + timeout
        self._hurry()
        while self._queue.settled < target:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Send what is left, and stop. What is not sent in time is dropped, with a warning.

        Args:
            timeout: Seconds to wait at most for the database.
        """
        self._forget_exit()
        self._closes_at = time.monotonic() + timeout
        thread = self._thread
        if thread is not None:
            self._hurry()
            thread.join(timeout)
        elif not self._queue.is_empty:
            self._send_all()  # the process ends, and no thread could be started
        self._queue.close()
        self._queue.warn(closed=True)

    @property
    def statistics(self) -> UsageStatistics:
        """What became of the events that this process recorded."""
        return self._queue.statistics

    def __enter__(self) -> Self:
        """Return the recorder.

        Raises:
            ClientClosedError: It is closed, and would drop what is recorded.
        """
        if self._closes_at is not None:
            raise _closed()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._closes_at is not None:
                return
            self._close_at_exit()
            thread = threading.Thread(target=self._run, name="audiencelab-usage", daemon=True)
            # At the end of the process no thread can be started, and `close` sends the events.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _close_at_exit(self) -> None:
        from multiprocessing.util import Finalize  # noqa: PLC0415 - only where something is recorded

        self._forget_exit()  # of the parent, in a forked child
        atexit.register(self.close)
        # Children of multiprocessing end without `atexit`.
        self._finalizer = Finalize(None, self.close, exitpriority=100)

    def _forget_exit(self) -> None:
        atexit.unregister(self.close)
        if self._finalizer is not None:
            self._finalizer.cancel()

    def _hurry(self) -> None:
        self._wake.set()
        self._urgent.set()

    def _run(self) -> None:
        pauses, pause, failed = _Pauses(), _INTERVAL, False
        try:
            while True:
                # After a failure, more events are no reason to try again sooner.
                (self._urgent if failed else self._wake).wait(_until(self._closes_at, pause))
                self._wake.clear()
                self._urgent.clear()
                if _is_late(self._closes_at):
                    return
                failed = self._attempt()
                if self._closes_at is not None and self._queue.is_empty:
                    return
                pause = pauses.next(failed=failed, closing=self._closes_at is not None)
        finally:
            if self._thread is threading.current_thread():
                self._thread = None

    def _attempt(self) -> bool:
        """Send what is queued, and return whether it failed. The thread goes on in any case."""
        failed = True
        # Logging itself may fail, such as on a full disk.
        with suppress(Exception):
            failed = self._send_all()
            self._queue.warn(unreachable=failed)
        return failed

    def _send_all(self) -> bool:
        while batch := self._queue.take():
            try:
                outcomes = self._client.api_keys.log_usage_batch(models(batch))
                unreachable = self._queue.settle(batch, outcomes)
            except Exception:  # the thread must go on
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
            await anyio.sleep(_POLL)
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
                await anyio.sleep(_POLL)
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
            raise _closed()
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
                spawn(partial(self._run, task), context=Context())
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
        pauses, pause, failed = _Pauses(), _INTERVAL, False
        try:
            while True:
                with anyio.move_on_after(_until(self._closes_at, pause)):
                    # After a failure, more events are no reason to try again sooner.
                    await (task.urgent if failed else task.woken).wait()
                task.reset()
                if _is_late(self._closes_at):
                    return
                failed = await self._attempt()
                if self._closes_at is not None and self._queue.is_empty:
                    return
                pause = pauses.next(failed=failed, closing=self._closes_at is not None)
        finally:
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


def _closed() -> ClientClosedError:
    return ClientClosedError("the recorder is closed: create a new one")


def _until(closes_at: float | None, pause: float) -> float:
    return pause if closes_at is None else max(0.0, min(pause, closes_at - time.monotonic()))


def _is_late(closes_at: float | None) -> bool:
    return closes_at is not None and time.monotonic() >= closes_at
