"""Runs of the asynchronous client: coroutine functions, cancellation and event loops."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import respx

from audiencelab_sdk import APITimeoutError, AsyncAudienceLab, InvalidArgumentError
from audiencelab_sdk._resources import _async_running
from tests.unit import _enrichers
from tests.unit._database import Database
from tests.unit._executors import Inline
from tests.unit._samples import KEY, KEY_ID, URL


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(api: respx.MockRouter) -> Database:
    return Database(api)


@pytest.fixture
async def client() -> AsyncIterator[AsyncAudienceLab]:
    async with AsyncAudienceLab(URL, KEY, max_retries=0) as client:
        yield client


async def forever(_: int) -> None:
    await anyio.sleep_forever()


async def test_a_coroutine_function_has_an_outcome_for_each_record(
    client: AsyncAudienceLab, database: Database
) -> None:
    async with client.enrichment.run(
        KEY_ID, range(100), _enrichers.odd_fails_later, in_flight=7
    ) as outcomes:
        seen = [outcome async for outcome in outcomes]

    assert sorted(outcome.index for outcome in seen) == list(range(100))
    assert database.state == ("completed", 100, 50, None)


async def test_at_most_in_flight_coroutines_run(
    client: AsyncAudienceLab, database: Database
) -> None:
    running, most = 0, 0

    async def enrich(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1

    async with client.enrichment.run(KEY_ID, range(50), enrich, in_flight=4) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 50
    assert most == 4


async def test_a_plain_function_runs_on_the_executor(
    client: AsyncAudienceLab, database: Database
) -> None:
    with ThreadPoolExecutor(2) as threads:
        async with client.enrichment.run(
            KEY_ID, range(100), _enrichers.odd_fails, executor=threads, chunk_size=3, in_flight=5
        ) as outcomes:
            seen = [outcome async for outcome in outcomes]

    assert sorted(outcome.index for outcome in seen) == list(range(100))
    assert database.state == ("completed", 100, 50, None)


async def test_the_function_must_suit_the_client(client: AsyncAudienceLab) -> None:
    run: Any = client.enrichment.run
    with pytest.raises(InvalidArgumentError, match="enrich is a plain function: pass an executor"):
        run(KEY_ID, [1], _enrichers.double)
    with pytest.raises(InvalidArgumentError, match="which an executor cannot run"):
        run(KEY_ID, [1], _enrichers.double_later, executor=Inline())


async def test_an_exception_of_the_block_is_no_group_and_cancels_the_calls(
    client: AsyncAudienceLab, database: Database
) -> None:
    canceled: list[int] = []

    async def enrich(record: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            canceled.append(record)

    async def work() -> None:
        async with client.enrichment.run(KEY_ID, [1, 2, 3], enrich) as outcomes:
            with anyio.move_on_after(0.05):
                await anext(outcomes)
            raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        await work()
    assert sorted(canceled) == [1, 2, 3]
    assert database.state == ("failed", 0, 0, "out of coffee")


async def test_a_block_may_go_on_after_a_timeout_of_its_own(
    client: AsyncAudienceLab, database: Database
) -> None:
    ready = anyio.Event()

    async def enrich(record: int) -> int:
        await ready.wait()
        return record

    async with client.enrichment.run(KEY_ID, [1, 2], enrich) as outcomes:
        with anyio.move_on_after(0.05):
            await anext(outcomes)
        ready.set()
        seen = [outcome.value async for outcome in outcomes]

    assert sorted(map(int, filter(None, seen))) == [1, 2]
    assert database.state == ("completed", 2, 0, None)


@pytest.mark.parametrize("where", ["next", "block"])
async def test_a_canceled_run_fails_the_job(
    client: AsyncAudienceLab, database: Database, where: str
) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with client.enrichment.run(KEY_ID, itertools.count(), forever) as outcomes:
            await (anext(outcomes) if where == "next" else anyio.sleep_forever())

    assert scope.cancelled_caught
    assert database.state[0] == "failed"
    assert "ancel" in database.state[3]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_of_asyncio_that_is_canceled_fails_the_job(
    client: AsyncAudienceLab, database: Database
) -> None:
    async def work() -> None:
        async with client.enrichment.run(KEY_ID, itertools.count(), forever) as outcomes:
            await anext(outcomes)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert database.state[0] == "failed"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_cancellation_neither_blocks_the_event_loop_nor_leaves_the_job(
    client: AsyncAudienceLab, database: Database
) -> None:
    running, finish = threading.Event(), threading.Event()

    def enrich(_: int) -> None:
        running.set()
        finish.wait()

    async def work() -> None:
        async with client.enrichment.run(
            KEY_ID, [1], enrich, executor=lambda: ThreadPoolExecutor(1)
        ) as outcomes:
            await anext(outcomes)

    task = asyncio.create_task(work())
    await anyio.to_thread.run_sync(running.wait)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert database.state[0] == "failed"
    finish.set()


async def test_a_canceled_run_waits_for_the_call_that_a_thread_runs(
    client: AsyncAudienceLab, database: Database
) -> None:
    running, finished = threading.Event(), threading.Event()

    def enrich(_: int) -> None:
        running.set()
        threading.Event().wait(0.2)
        finished.set()

    with anyio.move_on_after(0.1) as scope:
        async with client.enrichment.run(
            KEY_ID, range(9), enrich, executor=lambda: ThreadPoolExecutor(1)
        ) as outcomes:
            await anext(outcomes)

    assert scope.cancelled_caught
    assert running.is_set()
    assert finished.is_set()
    assert database.state[0] == "failed"


async def test_a_cancellation_while_the_calls_end_fails_the_job(
    client: AsyncAudienceLab, database: Database
) -> None:
    with anyio.CancelScope() as scope:

        async def enrich(_: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.05)

        async with client.enrichment.run(KEY_ID, [1], enrich) as outcomes:
            with anyio.move_on_after(0.05):
                await anext(outcomes)

    assert scope.cancel_called
    assert database.state[0] == "failed"


async def test_an_exception_of_the_block_is_kept_if_the_run_is_canceled_as_well(
    client: AsyncAudienceLab, database: Database
) -> None:
    async def work() -> None:
        async with client.enrichment.run(KEY_ID, [1], forever) as outcomes:
            with anyio.move_on_after(0.05):
                await anext(outcomes)
            scope.cancel()
            raise RuntimeError("out of coffee")

    with anyio.CancelScope() as scope, pytest.raises(RuntimeError, match="out of coffee"):
        await work()
    assert database.state[3] == "out of coffee"


async def test_a_run_that_is_canceled_in_its_first_report_fails_the_job(
    client: AsyncAudienceLab, database: Database, api: respx.MockRouter
) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        reports.mock(side_effect=database.report)
        await anyio.sleep_forever()
        raise AssertionError

    reports = api.post("/rpc/report_enrichment_progress").mock(side_effect=hang)
    executor = Inline()

    with anyio.move_on_after(0.1):
        async with client.enrichment.run(
            KEY_ID, range(9), _enrichers.double, executor=lambda: executor
        ):
            pytest.fail("it was entered")
    assert executor.is_down
    assert database.state[0] == "failed"


@pytest.mark.parametrize("raises", [True, False])
async def test_an_api_that_hangs_does_not_keep_the_block_from_ending(
    client: AsyncAudienceLab,
    database: Database,
    api: respx.MockRouter,
    monkeypatch: pytest.MonkeyPatch,
    raises: bool,
) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_async_running, "_SECONDS_TO_FAIL", 0.1)
    api.patch("/enrichment_tracking").mock(side_effect=hang)

    async def work() -> None:
        async with client.enrichment.run(KEY_ID, [1], forever):
            if raises:
                raise RuntimeError("out of coffee")

    with pytest.raises((RuntimeError, APITimeoutError)) as caught:
        await work()

    text = str(caught.value.__notes__) if raises else str(caught.value)
    assert isinstance(caught.value, RuntimeError) is raises
    assert "could not be marked as failed: no response within 0.1 s" in text


async def test_a_chunk_may_end_after_the_event_loop(
    client: AsyncAudienceLab, database: Database
) -> None:
    run: Any = client.enrichment.run(KEY_ID, [1], _enrichers.double, executor=Inline())

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    run._wake_soon = closed
    run._wake_from_thread()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_what_ends_the_process_is_raised_as_it_is(
    client: AsyncAudienceLab, database: Database, error: BaseException
) -> None:
    async def enrich(_: int) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    with pytest.raises(type(error)) as caught:
        async with client.enrichment.run(KEY_ID, range(9), enrich) as outcomes:
            await anext(outcomes)
    assert caught.value is error
    assert database.state[0] == "failed"


async def test_an_interruption_while_the_calls_end_is_raised(
    client: AsyncAudienceLab, database: Database
) -> None:
    class Interrupted:
        cancel_scope = anyio.CancelScope()

        async def __aexit__(self, *_: object) -> None:
            raise KeyboardInterrupt

    async def work() -> None:
        async with client.enrichment.run(KEY_ID, [1], forever) as outcomes:
            run: Any = outcomes
            group, run._group = run._group, Interrupted()
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)
            raise RuntimeError("out of coffee")

    with pytest.raises(KeyboardInterrupt):
        await work()
    assert database.state[3] == "KeyboardInterrupt"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_older_versions_of_trio_raise_cancellations_in_groups() -> None:
    canceled = asyncio.CancelledError()
    interrupted = KeyboardInterrupt()

    assert _async_running._is_cancellation(BaseExceptionGroup("", [canceled, canceled]))
    assert not _async_running._is_cancellation(BaseExceptionGroup("", [canceled, interrupted]))
