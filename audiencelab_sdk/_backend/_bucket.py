"""A bound on how often something is done."""

import time


class TokenBucket:
    """Allows so many calls a second, and as many at once after a second without any."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = max(1.0, per_second)
        self._filled_at = time.monotonic()

    def take(self) -> float:
        """Take one token and return 0, or return the seconds until there is one."""
        now = time.monotonic()
        added = (now - self._filled_at) * self._per_second
        self._tokens = min(max(1.0, self._per_second), self._tokens + added)
        self._filled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_second
        self._tokens -= 1
        return 0.0
