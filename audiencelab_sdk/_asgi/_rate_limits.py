"""Rate limits by API key, with the library `limits`."""

import logging
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio

from audiencelab_sdk._asgi._problems import Refusal
from audiencelab_sdk.errors import ConfigurationError

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.strategies import RateLimiter
    from redis.asyncio import BlockingConnectionPool

logger = logging.getLogger("audiencelab_sdk")

_SECONDS_BETWEEN_WARNINGS = 60.0
# Requests wait for the storage: not for long, and after a failure not at all for a while.
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
    """Counts requests of keys in a storage. While it fails, each process counts for itself.

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
        self._in_process = SlidingWindowCounterRateLimiter(storage_from_string("async+memory://"))

    async def aclose(self) -> None:
        """Close the connections. Another event loop may count from then on."""
        pool = self._pool
        self._open()
        if pool is not None:
            await pool.aclose()

    async def count(self, api_key_id: UUID, limit: str) -> dict[str, str]:
        """Count a request, and return the ``RateLimit`` headers of its response.

        Raises:
            Refusal: A limit is exceeded (429).
        """
        state = await self._state(parsed(limit), str(api_key_id))
        headers = {
            "RateLimit-Limit": str(state.limit),
            "RateLimit-Remaining": str(state.remaining),
            "RateLimit-Reset": str(state.reset),
        }
        if not state.allowed:
            headers["Retry-After"] = str(max(1, state.reset))
            raise Refusal(429, "The API key has made too many requests.", headers=headers)
        return headers

    async def _state(self, items: "tuple[RateLimitItem, ...]", identifier: str) -> _State:
        if time.monotonic() >= self._asks_again_at:
            try:
                with anyio.fail_after(_LONGEST_WAIT):
                    return await _hit(self._strategy, items, identifier)
            except Exception as error:  # noqa: BLE001 - each storage raises its own
                self._asks_again_at = time.monotonic() + _PAUSE
                self._warn(error)
        return await _hit(self._in_process, items, identifier)

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._warned_at + _SECONDS_BETWEEN_WARNINGS:
            self._warned_at = now
            # Without the message, which may contain the password of the storage.
            logger.warning(
                "each process limits requests by itself, because the storage fails: %s",
                type(error).__name__,
            )


async def _hit(
    strategy: "RateLimiter", items: "tuple[RateLimitItem, ...]", identifier: str
) -> _State:
    """Count a request, and return the state of the limit that refuses it or is nearest to that."""
    states: list[_State] = []
    # A request that one limit refuses does not count against the others.
    count = strategy.hit
    if len(items) > 1 and not all([await strategy.test(item, identifier) for item in items]):
        count = strategy.test
    for item in items:
        allowed = await count(item, identifier)
        stats = await strategy.get_window_stats(item, identifier)
        reset = math.ceil(max(0.0, stats.reset_time - time.time()))
        states.append(_State(allowed, item.amount, stats.remaining, reset))
    refusing = [state for state in states if not state.allowed]
    if refusing:
        return max(refusing, key=lambda state: state.reset)
    return min(states, key=lambda state: state.remaining)


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
