"""Rate limits: which requests count, and what happens while the storage fails."""

from typing import Any
from uuid import uuid4

import anyio
import pytest

from audiencelab_sdk._asgi import _rate_limits
from audiencelab_sdk._asgi._problems import Problem
from audiencelab_sdk._asgi._rate_limits import RateLimits

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


class FailingStrategy:
    """A storage that fails, after a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.attempts = 0
        self._seconds = seconds

    async def hit(self, *_: Any) -> bool:
        self.attempts += 1
        await anyio.sleep(self._seconds)
        raise OSError("redis://:password@host")


def failing(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> tuple[RateLimits, Any]:
    limits, strategy = RateLimits("memory://"), FailingStrategy(seconds)
    monkeypatch.setattr(limits, "_strategy", strategy)
    return limits, strategy


async def test_a_refused_request_does_not_count_against_other_limits() -> None:
    limits, key_id = RateLimits("memory://"), uuid4()
    for remaining in ("1", "0"):
        headers = await limits.count(key_id, "2/second; 4/day")
        assert headers["RateLimit-Remaining"] == remaining
    for _ in range(5):
        with pytest.raises(Problem):
            await limits.count(key_id, "2/second; 4/day")
    await anyio.sleep(2)
    assert (await limits.count(key_id, "2/second; 4/day"))["RateLimit-Limit"] in {"2", "4"}


async def test_the_limit_that_refuses_for_the_longest_time_says_when_to_retry() -> None:
    limits, key_id = RateLimits("memory://"), uuid4()
    for _ in range(2):
        await limits.count(key_id, "2/second; 2/day")
    with pytest.raises(Problem) as refusal:
        await limits.count(key_id, "2/second; 2/day")
    headers = refusal.value.headers or {}
    assert refusal.value.status_code == 429
    assert int(headers["Retry-After"]) > 3600
    assert headers["RateLimit-Remaining"] == "0"


async def test_while_the_storage_fails_the_process_counts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, strategy = failing(monkeypatch)
    key_id = uuid4()
    for remaining in ("1", "0"):
        assert (await limits.count(key_id, "2/minute"))["RateLimit-Remaining"] == remaining
    with pytest.raises(Problem):
        await limits.count(key_id, "2/minute")
    assert strategy.attempts == 1  # the others do not wait for it
    limits._asks_again_at = 0.0
    await limits.count(uuid4(), "2/minute")
    assert strategy.attempts == 2
    assert caplog.text.count("the storage fails: OSError") == 1
    assert "password" not in caplog.text


async def test_requests_do_not_wait_long_for_the_storage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rate_limits, "_LONGEST_WAIT", 0.01)
    limits, _ = failing(monkeypatch, seconds=60)
    with anyio.fail_after(10):
        assert await limits.count(uuid4(), "1/minute")
    assert "the storage fails: TimeoutError" in caplog.text
