"""The recorded requests that are not logged yet.

Without I/O: the recorders send the batches.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

from audiencelab_sdk._arguments import checked_int
from audiencelab_sdk._backend._forks import reset_in_children
from audiencelab_sdk._ids import time_ordered_id
from audiencelab_sdk.errors import (
    APIConnectionError,
    AudienceLabError,
    InvalidArgumentError,
    RateLimitError,
    SchemaError,
    ServerError,
)
from audiencelab_sdk.models import Outcome, UsageEvent, UsageLog

logger = logging.getLogger("audiencelab_sdk")

BATCH = 500
_MOST_QUEUED = 1_000_000
_SECONDS_BETWEEN_WARNINGS = 60.0
# The database may be back soon. Events with another error would fail again.
_TRANSIENT = (APIConnectionError, RateLimitError, SchemaError, ServerError)


@dataclass(frozen=True, slots=True)
class UsageStatistics:
    """What became of the recorded events, in numbers since the recorder was created.

    Attributes:
        queued: Those that are not sent yet, or whose batch has no response yet.
        sent: Those that are in the usage log.
        dropped: Events that were given up: the oldest of a full queue, what was left or had no
            response at `close`, and what was recorded after it.
        failed: Those that the database rejected, for example because the key does not exist.
    """

    queued: int
    sent: int
    dropped: int
    failed: int


Plain: TypeAlias = tuple[int, str, str, int | None, str | None, str | None]
"""A UsageEvent as its key's id as an int, endpoint, method, status code, address and user agent.

Unlike models, such tuples cost the garbage collector nothing while thousands of them wait.
"""
Waiting: TypeAlias = tuple[UsageEvent | Plain, float, int]
"""An event, when it was recorded, and the id of its entry as an int; 0 before it is sent."""


class UsageQueue:
    """A bounded queue, whose oldest events are dropped when it is full.

    A recorded event is queued, being sent, sent, failed or dropped.
    """

    def __init__(self, max_queued: int) -> None:
        self._max_queued = checked_int("max_queued", max_queued, 1, _MOST_QUEUED)
        self.reset()
        reset_in_children(self)

    def reset(self) -> None:
        """Become empty in a forked child: the events of its parent are the parent's to send."""
        self._lock = threading.Lock()
        # It drops the oldest event by itself. When the queue is closed, it keeps none.
        self._events: deque[Waiting] = deque(maxlen=self._max_queued)
        self._recorded = 0
        self._on_their_way = 0
        self._sent = 0
        self._failed = 0
        self._last_error: AudienceLabError | None = None
        self._warned_of = 0
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS

    def put(self, event: UsageEvent) -> bool:
        """Add an event, and return whether there are enough for another batch."""
        if not isinstance(event, UsageEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(f"event must be a UsageEvent, not {type(event).__name__}")
        with self._lock:
            self._events.append((event, time.time(), 0))
            self._recorded += 1
            return not self._recorded % BATCH

    def put_plain(self, event: Plain) -> bool:
        """Add an event that is not a model yet, as `put` does."""
        with self._lock:
            self._events.append((event, time.time(), 0))
            self._recorded += 1
            return not self._recorded % BATCH

    def take(self) -> list[Waiting]:
        """Remove and return the oldest events, with ids, so that they may be sent again."""
        with self._lock:
            count = min(BATCH, len(self._events))
            taken = [self._events.popleft() for _ in range(count)]
            self._on_their_way = count
        return [(event, at, log_id or time_ordered_id().int) for event, at, log_id in taken]

    def settle(self, batch: Sequence[Waiting], outcomes: Sequence[Outcome[UsageLog]]) -> bool:
        """Count the outcomes of a batch, and put back what has to be sent again.

        Returns:
            Whether the database cannot be reached.

        Raises:
            ValueError: There are not as many outcomes as events. Nothing is counted.
        """
        again: list[Waiting] = []
        sent = failed = 0
        last_error: AudienceLabError | None = None
        for event, outcome in zip(batch, outcomes, strict=True):
            if outcome:
                sent += 1
                continue
            last_error = outcome.error
            if isinstance(outcome.error, _TRANSIENT):
                again.append(event)
            else:
                failed += 1
        with self._lock:
            self._sent += sent
            self._failed += failed
            self._last_error = last_error or self._last_error
            self._put_back(again)
        return bool(again)

    def put_back(self, batch: Sequence[Waiting]) -> None:
        """Add a batch again whose sending was interrupted."""
        with self._lock:
            self._put_back(batch)

    def fail(self, batch: Sequence[Waiting]) -> None:
        """Count a batch as failed."""
        with self._lock:
            self._on_their_way = 0
            self._failed += len(batch)

    def close(self) -> None:
        """Drop what is left, what is being sent, and whatever is recorded from now on.

        If the response arrives nevertheless, its events are sent or failed, and no longer dropped.
        """
        with self._lock:
            self._events = deque(maxlen=0)
            self._on_their_way = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything is sent, dropped or failed."""
        return not self._events and not self._on_their_way

    @property
    def recorded(self) -> int:
        """How many events were recorded."""
        return self._recorded

    @property
    def settled(self) -> int:
        """How many events are done. Events are done in the order in which they were recorded."""
        with self._lock:
            return self._recorded - len(self._events) - self._on_their_way

    @property
    def statistics(self) -> UsageStatistics:
        """What became of the events."""
        with self._lock:
            return self._statistics()

    def warn(self, *, unreachable: bool = False, closed: bool = False) -> None:
        """Log lost events, and that the database cannot be reached.

        At most once a minute, except for what is lost when the queue is closed.
        """
        now = time.monotonic()
        with self._lock:
            counts = self._statistics()
            lost = counts.dropped + counts.failed
            if not unreachable and lost <= self._warned_of:
                return
            if not closed and now < self._warned_at + _SECONDS_BETWEEN_WARNINGS:
                return
            self._warned_of, self._warned_at = lost, now
        logger.warning(
            "the usage log lags behind or loses events: %d queued, %d dropped, %d rejected so far; "
            "the last error: %s",
            counts.queued,
            counts.dropped,
            counts.failed,
            self._last_error or "none",
        )

    def _put_back(self, batch: Sequence[Waiting]) -> None:
        self._on_their_way = 0
        # The deque would drop the newest events.
        room = (self._events.maxlen or 0) - len(self._events)
        kept = batch[max(0, len(batch) - room) :]
        self._events.extendleft(reversed(kept))

    def _statistics(self) -> UsageStatistics:
        queued = len(self._events) + self._on_their_way
        dropped = self._recorded - queued - self._sent - self._failed
        return UsageStatistics(queued, self._sent, dropped, self._failed)


def models(batch: Iterable[Waiting]) -> Iterator[UsageEvent]:
    """Yield the events of a batch, with their ids and the times at which they were recorded."""
    for event, recorded_at, log_id in batch:
        moment = datetime.fromtimestamp(recorded_at, UTC)
        if not isinstance(event, UsageEvent):
            key, endpoint, method, status_code, ip_address, user_agent = event
            yield UsageEvent(
                api_key_id=UUID(int=key),
                endpoint=endpoint,
                method=method,
                status_code=status_code,
                ip_address=ip_address,
                user_agent=user_agent,
                timestamp=moment,
                log_id=UUID(int=log_id),
            )
            continue
        new = {
            "log_id": event.log_id or UUID(int=log_id),
            "timestamp": event.timestamp or moment,
        }
        yield event.model_copy(update=new)
