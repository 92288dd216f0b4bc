"""Rate limits by API key, with the library `limits`."""

import logging
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from audiencelab_sdk._asgi._problems import Problem
from audiencelab_sdk.errors import ConfigurationError

if TYPE_CHECKING:
    from limits import RateLimitItem
    from redis.asyncio import BlockingConnectionPool

logger = logging.getLogger("audiencelab_sdk")

_SECONDS_BETWEEN_WARNINGS = 60.0
# Requests wait for Redis, so they do not wait long, and after a failure not at all for some time.
_LONGEST_WAIT = 1.0
_PAUSE = 5.0
_CONNECTIONS = 20


@dataclass(frozen=True, slots=True)
class _State:
    allowed: bool
    limit: int
    remaining: int
    reset: int


class RateLimits:
    """Counts requests of keys in a storage. If the storage fails, it allows them, with a warning.

    Raises:
        ConfigurationError: `limits` or `redis` is not installed, or `limits` does not know the
            storage.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._warned_at = -_SECONDS_BETWEEN_WARNINGS
        self._open()

    def _open(self) -> None:
        try:
            from limits.aio.strategies import SlidingWindowCounterRateLimiter  # noqa: PLC0415
            from limits.storage import storage_from_string  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "rate limits need the package limits: pip install 'audiencelab-sdk[limits]'"
            ) from error
        self._asks_again_at = 0.0
        self._pool = _redis_pool(self._storage)
        options: dict[str, Any] = {}
        if self._pool is not None:
            options = {"implementation": "redispy", "connection_pool": self._pool}
        uri = self._storage if self._storage.startswith("async+") else f"async+{self._storage}"
        try:
            self._strategy = SlidingWindowCounterRateLimiter(storage_from_string(uri, **options))
        except Exception as error:  # noqa: BLE001 - each storage raises its own
            kind = type(error).__name__
            raise ConfigurationError(f"the storage of rate limits is not usable: {kind}") from None

    async def aclose(self) -> None:
        """Close the connections. Another event loop may count from then on."""
        pool = self._pool
        self._open()
        if pool is not None:
            await pool.aclose()

    async def count(self, api_key_id: UUID, limit: str) -> dict[str, str]:
        """Count a request, and return the ``RateLimit`` headers of its response.

        Raises:
            Problem: A limit is exceeded (429).
        """
        items = parsed(limit)
        if time.monotonic() < self._asks_again_at:
            return {}
        try:
            states = [await self._hit(item, str(api_key_id)) for item in items]
        except Exception as error:  # noqa: BLE001 - each storage raises its own
            self._asks_again_at = time.monotonic() + _PAUSE
            self._warn(error)
            return {}
        state = min(states, key=lambda state: (state.allowed, state.remaining))
        headers = {
            "RateLimit-Limit": str(state.limit),
            "RateLimit-Remaining": str(state.remaining),
            "RateLimit-Reset": str(state.reset),
        }
        if not state.allowed:
            headers["Retry-After"] = str(max(1, state.reset))
            raise Problem(429, "The API key has made too many requests.", headers=headers)
        return headers

    async def _hit(self, item: "RateLimitItem", identifier: str) -> "_State":
        allowed = await self._strategy.hit(item, identifier)
        stats = await self._strategy.get_window_stats(item, identifier)
        reset = math.ceil(max(0.0, stats.reset_time - time.time()))
        return _State(allowed, item.amount, stats.remaining, reset)

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._warned_at + _SECONDS_BETWEEN_WARNINGS:
            self._warned_at = now
            # Without the message, which may contain the password of the storage.
            logger.warning(
                "requests are not limited, because the storage fails: %s", type(error).__name__
            )


def _redis_pool(storage: str) -> "BlockingConnectionPool | None":
    """Return connections to Redis, or None for another storage."""
    if not storage.removeprefix("async+").startswith(("redis://", "rediss://")):
        return None
    try:
        from redis.asyncio import BlockingConnectionPool  # noqa: PLC0415 - in the extra `redis`
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "rate limits in Redis need the package redis: pip install 'audiencelab-sdk[redis]'"
        ) from error
    try:
        return BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            storage.removeprefix("async+"),
            max_connections=_CONNECTIONS,
            timeout=_LONGEST_WAIT,
            socket_timeout=_LONGEST_WAIT,
            socket_connect_timeout=_LONGEST_WAIT,
        )
    except ValueError:
        # Without the message, which may contain the password.
        raise ConfigurationError("the URL of the storage of rate limits is malformed") from None


@lru_cache(maxsize=1024)
def parsed(limit: str) -> "tuple[RateLimitItem, ...]":
    """Return the limits of a text such as ``100/minute; 5/second``.

    Raises:
        ConfigurationError: It is malformed.
    """
    from limits import parse_many  # noqa: PLC0415 - in the extra `limits`

    try:
        return tuple(parse_many(limit))
    except ValueError:
        pass
    raise ConfigurationError("limit must be such as '100/minute' or '100/minute; 5/second'")
