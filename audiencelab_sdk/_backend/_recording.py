"""What both recorders share: when they send, and when they stop."""

import random
import time

from audiencelab_sdk.errors import ClientClosedError

INTERVAL = 1.0
LONGEST_PAUSE = 30.0
POLL = 0.01


class Pauses:
    """The seconds to wait before the next attempt: longer after each failure."""

    def __init__(self) -> None:
        self._failures = 0

    def next(self, *, failed: bool, closing: bool) -> float:
        """Return the seconds to wait, after the outcome of the last attempt."""
        if not failed:
            self._failures = 0
            return 0.0 if closing else INTERVAL
        self._failures = min(self._failures + 1, 10)
        longest = min(LONGEST_PAUSE, INTERVAL * 2**self._failures)
        return random.uniform(INTERVAL, longest)  # noqa: S311 - jitter, no secret


def closed() -> ClientClosedError:
    """Return the error of a recorder that is entered after it was closed."""
    return ClientClosedError("the recorder is closed: create a new one")


def seconds_to_wait(closes_at: float | None, pause: float) -> float:
    """Return the pause, shortened to the deadline of `close`."""
    return pause if closes_at is None else max(0.0, min(pause, closes_at - time.monotonic()))


def is_late(closes_at: float | None) -> bool:
    """Return whether the deadline of `close` has passed."""
    return closes_at is not None and time.monotonic() >= closes_at
