"""Coroutine functions that enrich records."""

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from audiencelab_sdk import EnrichmentRecordError, Outcome
from audiencelab_sdk._resources import _calls
from audiencelab_sdk._resources._calls import Calls
from audiencelab_sdk._resources._plans import Plan
from tests.unit import _enrichers
from tests.unit._samples import KEY_ID
from tests.unit.test_plans import DEFAULTS


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def calls(group: Any, records: Any, enrich: Any, in_flight: int = 3) -> Calls[Any, Any]:
    plan: Plan[Any, Any] = Plan(
        KEY_ID, records, enrich, **{**DEFAULTS, "in_flight": in_flight, "chunk_size": 1}
    )
    return Calls(plan, group, lambda: None)


async def test_each_call_has_an_outcome() -> None:
    outcomes: list[Outcome[int]] = []
    async with anyio.create_task_group() as group:
        source = calls(group, range(5), _enrichers.odd_fails_later)
        while True:
            source.supply()
            if source.is_idle:
                break
            await anyio.lowlevel.checkpoint()
            if source.has_ended_calls:
                outcomes += source.take().outcomes
                source.consumed()
        await source.aclose()

    assert sorted(outcome.index for outcome in outcomes) == list(range(5))
    assert sorted(outcome.unwrap() for outcome in outcomes if outcome) == [0, 2, 4]
    assert str(next(each.error for each in outcomes if each.index == 3)) == (
        "record 3: ValueError: 3 is odd"
    )


async def test_at_most_in_flight_calls_are_started_and_not_consumed() -> None:
    started = []

    async def enrich(record: int) -> None:
        started.append(record)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        source = calls(group, iter(range(100)), enrich)
        source.supply()
        source.supply()
        await anyio.wait_all_tasks_blocked()
        assert sorted(started) == [0, 1, 2]
        assert source.has_more_records()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        assert not source.has_ended_calls


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
async def test_what_ends_the_process_is_raised_by_take(error: BaseException) -> None:
    async def enrich(_: int) -> None:
        raise error

    async with anyio.create_task_group() as group:
        source = calls(group, [1], enrich)
        source.supply()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(type(error)):
            source.take()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_enrich_awaits_may_be_canceled() -> None:
    async def enrich(_: int) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    async with anyio.create_task_group() as group:
        source = calls(group, [1], enrich)
        source.supply()
        await anyio.wait_all_tasks_blocked()
        (outcome,) = source.take().outcomes
        assert isinstance(outcome.error, EnrichmentRecordError)
        assert isinstance(outcome.error.__cause__, asyncio.CancelledError)


async def test_an_exception_that_cannot_be_kept_is_raised_by_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Exception) -> None:
        raise LookupError("it has no text")

    async def enrich(_: int) -> None:
        raise ValueError

    monkeypatch.setattr(_calls, "Failure", fail)
    async with anyio.create_task_group() as group:
        source = calls(group, [1], enrich)
        source.supply()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(LookupError, match="no text"):
            source.take()
