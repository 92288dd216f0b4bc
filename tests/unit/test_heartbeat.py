"""The heartbeat reports the totals regularly while a block of `track` runs."""

import asyncio
import gc
import logging
import threading
import time
from typing import Any

import anyio
import httpx
import pytest
import respx
import trio.testing

from audiencelab_sdk import AsyncAudienceLab, ConflictError
from audiencelab_sdk._resources import _heartbeat, _tracking
from audiencelab_sdk._resources._heartbeat import AsyncHeartbeat
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import KEY, KEY_ID, URL
from tests.unit.test_tracking import Database, track

ENDED = httpx.Response(409, json={"code": "PT409", "message": "the job is already failed"})


@pytest.fixture
def database(api: respx.MockRouter) -> Database:
    return Database(api)


@pytest.fixture
async def client(client_class: Any) -> Any:
    client = client_class(URL, KEY)
    yield client
    await close(client)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tracking, "_SECONDS_BETWEEN_HEARTBEATS", 0.03)


async def until(condition: Any) -> None:
    with anyio.fail_after(20):
        # Polled, because a thread meets some of the conditions.
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


def heartbeats() -> list[str]:
    return [each.name for each in threading.enumerate() if "heartbeat" in each.name]


async def test_the_totals_are_reported_without_progress(client: Any, database: Database) -> None:
    async def work(progress: Any) -> None:
        await maybe_await(progress.advance(5, failed=1))
        await until(lambda: database.reports.count((5, 1)) >= 3)
        assert progress.job.processed_records == 5

    await track(client, work)

    assert database.reports == sorted(database.reports)
    assert set(database.reports) == {(0, 0), (5, 1)}
    assert database.job["status"] == "completed"


async def test_reports_of_progress_replace_heartbeats(
    client: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracking, "_SECONDS_BETWEEN_HEARTBEATS", 0.5)
    monkeypatch.setattr(_tracking, "_SECONDS_BETWEEN_REPORTS", 0.0)

    async def work(progress: Any) -> None:
        for _ in range(100):
            await maybe_await(progress.advance())
            await anyio.sleep(0.01)

    await track(client, work)

    assert database.reports == [(done, 0) for done in range(101)] + [(100, 0)]


@pytest.mark.parametrize("reason", [None, RuntimeError("no"), KeyboardInterrupt()], ids=repr)
async def test_the_heartbeat_stops_with_the_block(
    client: Any, database: Database, reason: BaseException | None
) -> None:
    async def work(_: Any) -> None:
        await until(lambda: len(database.reports) >= 3)
        if reason:
            raise reason

    if reason:
        with pytest.raises(type(reason)):
            await track(client, work)
    else:
        await track(client, work)
    reported = len(database.reports)
    await anyio.sleep(0.15)

    assert len(database.reports) == reported
    assert heartbeats() == []


@pytest.mark.parametrize(
    "failure", [httpx.ReadTimeout("slow"), httpx.Response(503), httpx.Response(403)], ids=repr
)
async def test_a_failed_heartbeat_is_logged_and_the_next_one_follows(
    client: Any, database: Database, caplog: pytest.LogCaptureFixture, failure: Any
) -> None:
    async def work(_: Any) -> None:
        database.failures.append(failure)
        await until(lambda: not database.failures and len(database.reports) >= 3)

    with caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await track(client, work)

    assert f"a heartbeat of enrichment job {KEY_ID} failed" in caplog.text
    assert database.job["status"] == "completed"


async def test_advance_raises_at_once_after_the_job_was_ended(
    client: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracking, "_SECONDS_BETWEEN_REPORTS", 1000.0)

    async def work(progress: Any) -> None:
        database.failures += [ENDED] * 10
        await until(lambda: len(database.failures) == 9)
        await anyio.sleep(0.15)
        assert len(database.failures) == 9
        await maybe_await(progress.advance())
        pytest.fail("it went on")

    with pytest.raises(ConflictError, match="already failed"):
        await track(client, work)


async def test_a_heartbeat_does_not_replace_the_job_of_a_later_report(
    client: Any, database: Database, api: respx.MockRouter, client_class: Any
) -> None:
    released = threading.Event()
    held = threading.Event()

    def hold(request: httpx.Request) -> httpx.Response:
        response = database.report(request)
        held.set()
        released.wait(20)
        return response

    async def hold_async(request: httpx.Request) -> httpx.Response:
        response = database.report(request)
        held.set()
        await until(released.is_set)
        return response

    async def work(progress: Any) -> None:
        route = api.post("/rpc/report_enrichment_progress")
        route.mock(side_effect=hold_async if client_class is AsyncAudienceLab else hold)
        await until(held.is_set)
        route.mock(side_effect=database.report)
        progress._reported_at = 0.0
        await maybe_await(progress.advance(7))
        latest = progress.job
        released.set()
        await anyio.sleep(0.01)
        assert progress.job.processed_records >= latest.processed_records == 7

    await track(client, work)


async def test_an_error_after_the_end_of_the_block_is_not_logged(
    client: Any,
    database: Database,
    api: respx.MockRouter,
    client_class: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_heartbeat, "_SECONDS_TO_STOP", 0.05)
    held = threading.Event()
    released = threading.Event()

    def hold(_: httpx.Request) -> httpx.Response:
        held.set()
        released.wait(20)
        return ENDED

    async def hold_async(_: httpx.Request) -> httpx.Response:
        held.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def work(_: Any) -> None:
        route = api.post("/rpc/report_enrichment_progress")
        route.mock(side_effect=hold_async if client_class is AsyncAudienceLab else hold)
        await until(held.is_set)
        route.mock(side_effect=database.report)

    with caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await track(client, work)
        released.set()
        await until(lambda: heartbeats() == [])

    assert database.job["status"] == "completed"
    assert "heartbeat" not in caplog.text


async def test_a_heartbeat_that_answers_after_the_block_changes_nothing(
    client: Any, database: Database
) -> None:
    progress = client.enrichment.track(KEY_ID)
    job = progress._job
    progress._update_after_heartbeat(job, "late")
    assert progress._job is job


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_the_exception_of_the_block_is_not_wrapped(client: Any, database: Database) -> None:
    async def work(_: Any) -> None:
        await until(lambda: len(database.reports) >= 3)
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee") as caught:
        await track(client, work)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_block_in_a_task_group_that_is_canceled_stops_its_heartbeat(
    client: Any, database: Database
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(track, client, lambda _: anyio.sleep_forever())
        await until(lambda: len(database.reports) >= 3)
        tasks.cancel_scope.cancel()
    reported = len(database.reports)
    await anyio.sleep(0.15)
    assert len(database.reports) == reported
    assert database.job["status"] == "processing"


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_block_may_be_left_in_another_task_than_it_was_entered_in(
    client: Any, database: Database
) -> None:
    progress = client.enrichment.track(KEY_ID)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(progress.__aenter__)
    await until(lambda: len(database.reports) >= 3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(progress.__aexit__, None, None, None)
    assert database.job["status"] == "completed"


@pytest.mark.parametrize("client_kind", ["asyncio"])
async def test_a_task_that_is_canceled_by_asyncio_leaves_the_job(
    client: Any, database: Database
) -> None:
    async def run() -> None:
        await track(client, lambda _: anyio.sleep_forever())

    def heartbeat_tasks() -> list[str]:
        return [each.get_name() for each in asyncio.all_tasks() if "heart" in each.get_name()]

    task = asyncio.create_task(run())
    await until(lambda: len(database.reports) >= 3)
    assert heartbeat_tasks() == ["audiencelab heartbeat"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert database.job["status"] == "processing"
    assert heartbeat_tasks() == []


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_heartbeat_that_was_not_started_can_be_stopped(client: Any) -> None:
    async def beat() -> float | None:
        return None

    await AsyncHeartbeat(beat, 0.0).stop()


def test_a_heartbeat_that_asyncio_cancels_before_its_first_step_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_heartbeat, "_SECONDS_TO_STOP", 60.0)

    async def beat() -> float | None:
        return None

    async def main() -> None:
        heart = AsyncHeartbeat(beat, 0.0)
        heart.start()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        began = time.monotonic()
        await heart.stop()
        assert time.monotonic() - began < 30

    asyncio.run(main())


def test_a_task_factory_may_take_two_arguments() -> None:
    async def beat() -> float | None:
        return None

    async def main() -> None:
        factory: Any = lambda loop, coroutine: asyncio.Task(coroutine, loop=loop)  # noqa: E731
        asyncio.get_running_loop().set_task_factory(factory)
        heart = AsyncHeartbeat(beat, 0.0)
        heart.start()
        await heart.stop()

    asyncio.run(main())


def test_a_block_that_is_never_left_does_not_disturb_the_end_of_trio() -> None:
    async def main() -> None:
        async def beat() -> float | None:
            return 1000.0

        AsyncHeartbeat(beat, 0.0).start()
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    gc.collect()


def test_the_thread_does_not_outlive_a_beat_that_ends_it() -> None:
    heart = _heartbeat.Heartbeat(lambda: None, 0.0)
    heart.start()
    deadline = time.monotonic() + 20
    while heartbeats() and time.monotonic() < deadline:
        time.sleep(0.01)
    heart.stop()
    assert heartbeats() == []


def test_an_unexpected_exception_in_the_thread_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def beat() -> None:
        raise RuntimeError("unexpected")

    heart = _heartbeat.Heartbeat(beat, 0.0)
    heart.start()
    heart._thread.join(20)
    assert "RuntimeError: unexpected" in caplog.text


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_an_unexpected_exception_in_the_task_is_logged(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def beat() -> None:
        raise RuntimeError("unexpected")

    heart = AsyncHeartbeat(beat, 0.0)
    heart.start()
    await until(lambda: "RuntimeError: unexpected" in caplog.text)
    await heart.stop()


async def test_the_next_heartbeat_is_never_in_the_past(client: Any) -> None:
    progress = client.enrichment.track(KEY_ID)
    progress._reported_at = time.monotonic() - 1000
    assert progress._pause() == 0
