"""`UsageRecorder`: the usage log, written in batches by a thread."""

import atexit
import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from audiencelab_sdk._backend._clients import refuse
from audiencelab_sdk._backend._forks import reset_in_children
from audiencelab_sdk._backend._recording import POLL, Pauses, closed, is_late, seconds_to_wait
from audiencelab_sdk._backend._usage_queue import BATCH, UsageQueue, UsageStatistics, models
from audiencelab_sdk._client import AsyncAudienceLab, AudienceLab
from audiencelab_sdk.models import UsageEvent

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

logger = logging.getLogger("audiencelab_sdk")


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
            time.sleep(POLL)
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
            raise closed()
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
        pauses, failed = Pauses(), False
        try:
            while True:
                pause = pauses.next(failed=failed, closing=self._closes_at is not None)
                # After a failure, more events are no reason to try again sooner.
                (self._urgent if failed else self._wake).wait(
                    seconds_to_wait(self._closes_at, pause)
                )
                self._wake.clear()
                self._urgent.clear()
                if is_late(self._closes_at):
                    return
                failed = self._attempt()
                if self._closes_at is not None and self._queue.is_empty:
                    return
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
