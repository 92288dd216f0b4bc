"""The usage log, written in batches: what is sent when, retried, dropped, counted and reported."""

import asyncio
import gc
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from uuid import UUID

import anyio
import httpx
import pytest
import respx

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncUsageRecorder,
    AudienceLab,
    ClientClosedError,
    ConfigurationError,
    InvalidArgumentError,
    UsageRecorder,
    UsageStatistics,
)
from audiencelab_sdk._backend import _recording, _usage_queue
from audiencelab_sdk._backend._usage_queue import UsageQueue, models
from audiencelab_sdk.models import Outcome, UsageLog
from tests.unit._backends import close_recorder, event, recorder_of, soon
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import KEY, KEY_ID, URL

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

Respond = Callable[[list[dict[str, Any]]], httpx.Response]


def all_logged(events: list[dict[str, Any]]) -> httpx.Response:
    now = datetime.now(UTC).isoformat()
    return httpx.Response(
        200,
        json=[
            {"event_index": index, "success": True, "log_id": each["log_id"], "timestamp": now}
            for index, each in enumerate(events)
        ],
    )


def rejected(events: list[dict[str, Any]]) -> httpx.Response:
    return httpx.Response(
        200,
        json=[
            {"event_index": index, "success": False, "error": "no", "error_code": "23503"}
            for index in range(len(events))
        ],
    )


class Log:
    """The database function that writes the log: what it received."""

    def __init__(self, api: respx.MockRouter) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.respond: Respond = all_logged
        api.post("/rpc/log_api_key_usage_batch").mock(side_effect=self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        events = json.loads(request.content)["p_events"]
        self.batches.append(events)
        return self.respond(events)

    @property
    def endpoints(self) -> list[str]:
        return [each["endpoint"] for batch in self.batches for each in batch]


@pytest.fixture
def log(api: respx.MockRouter) -> Log:
    return Log(api)


@pytest.fixture
async def recorder(client_kind: str, client: Any) -> AsyncIterator[Any]:
    recorder = recorder_of(client_kind, client.with_options(max_retries=0), max_queued=1200)
    yield recorder
    await close_recorder(recorder, 0.1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every ten milliseconds, and retry as quickly."""
    monkeypatch.setattr(_recording, "INTERVAL", 0.01)
    monkeypatch.setattr(_recording, "LONGEST_PAUSE", 0.02)


def unreachable(_: list[dict[str, Any]]) -> httpx.Response:
    return httpx.Response(503, json={"message": "down"})


def broken(_: list[dict[str, Any]]) -> httpx.Response:
    raise ZeroDivisionError


async def test_events_are_sent_after_a_second(recorder: Any, log: Log) -> None:
    began = datetime.now(UTC)
    recorder.record(event("/1"))
    recorder.record(event("/2", status_code=200))
    assert recorder.statistics == UsageStatistics(queued=2, sent=0, dropped=0, failed=0)
    await soon(lambda: recorder.statistics.sent == 2)
    assert timedelta(seconds=0.8) < datetime.now(UTC) - began < timedelta(seconds=3)
    (batch,) = log.batches
    assert [each["endpoint"] for each in batch] == ["/1", "/2"]
    for each in batch:
        UUID(each["log_id"])
        # The time at which it was recorded, not at which it was sent.
        recorded_at = datetime.fromisoformat(each["timestamp"])
        assert timedelta(0) <= recorded_at - began < timedelta(seconds=0.5)


async def test_a_full_batch_is_sent_at_once(recorder: Any, log: Log) -> None:
    began = time.monotonic()
    for _ in range(500):
        recorder.record(event())
    await soon(lambda: recorder.statistics.sent == 500)
    assert time.monotonic() - began < 0.9
    assert len(log.batches) == 1


async def test_an_event_keeps_its_own_id_and_time(recorder: Any, log: Log) -> None:
    moment = datetime(2025, 1, 2, tzinfo=UTC)
    recorder.record(event(log_id=UUID(int=7), timestamp=moment))
    assert await maybe_await(recorder.flush())
    ((sent,),) = log.batches
    assert UUID(sent["log_id"]) == UUID(int=7)
    assert datetime.fromisoformat(sent["timestamp"]) == moment


async def test_flush_waits_until_all_is_sent(recorder: Any, log: Log) -> None:
    assert await maybe_await(recorder.flush())
    for number in range(1100):
        recorder.record(event(f"/{number}"))
    assert await maybe_await(recorder.flush())
    assert max(len(batch) for batch in log.batches) == 500
    assert log.endpoints == [f"/{number}" for number in range(1100)]
    assert recorder.statistics == UsageStatistics(queued=0, sent=1100, dropped=0, failed=0)


async def test_flush_gives_up_in_time(recorder: Any, log: Log) -> None:
    log.respond = unreachable
    recorder.record(event())
    assert not await maybe_await(recorder.flush(0.1))
    assert recorder.statistics.queued == 1


async def test_only_a_flush_cuts_the_pause_after_a_failure_short(
    recorder: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recording, "INTERVAL", 30.0)
    log.respond = unreachable
    for _ in range(500):
        recorder.record(event())
    await soon(lambda: len(log.batches) == 1)
    for _ in range(3):
        await anyio.sleep(0.05)
        for _ in range(500):
            recorder.record(event())
    await anyio.sleep(0.05)
    assert len(log.batches) == 1
    assert not await maybe_await(recorder.flush(0.1))
    await soon(lambda: len(log.batches) == 2)


@pytest.mark.usefixtures("quick")
async def test_a_lost_database_loses_and_repeats_nothing(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [httpx.Response(503), httpx.Response(429), httpx.Response(404)]

    def respond(events: list[dict[str, Any]]) -> httpx.Response:
        if lost:
            return lost.pop()
        return all_logged(events)

    log.respond = respond
    for number in range(600):
        recorder.record(event(f"/{number}"))
    assert await maybe_await(recorder.flush())
    assert recorder.statistics == UsageStatistics(queued=0, sent=600, dropped=0, failed=0)
    ids: dict[str, set[str]] = {}
    for batch in log.batches:
        for each in batch:
            ids.setdefault(each["endpoint"], set()).add(each["log_id"])
    assert len(ids) == 600
    assert all(len(each) == 1 for each in ids.values())
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "0 dropped" in warning.getMessage()


@pytest.mark.usefixtures("quick")
async def test_a_full_queue_drops_the_oldest(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.respond = unreachable
    for number in range(3000):
        recorder.record(event(f"/{number}"))
    await soon(lambda: len(log.batches) > 3)
    await soon(lambda: recorder.statistics.queued == 1200)
    assert recorder.statistics == UsageStatistics(queued=1200, sent=0, dropped=1800, failed=0)
    log.batches.clear()
    log.respond = all_logged
    assert await maybe_await(recorder.flush())
    assert set(log.endpoints) == {f"/{number}" for number in range(1800, 3000)}
    assert recorder.statistics == UsageStatistics(queued=0, sent=1200, dropped=1800, failed=0)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_what_is_put_back_gives_way_to_newer_events() -> None:
    queue = UsageQueue(3)
    for number in range(3):
        queue.put(event(f"/{number}"))
    batch = queue.take()
    assert not queue.is_empty
    for number in range(3, 5):
        queue.put(event(f"/{number}"))
    queue.put_back(batch)
    assert [each.endpoint for each in models(queue.take())] == ["/2", "/3", "/4"]
    assert queue.statistics == UsageStatistics(queued=3, sent=0, dropped=2, failed=0)
    assert queue.settled == 2
    queue.close()
    queue.put_back(batch)
    assert queue.statistics == UsageStatistics(queued=0, sent=0, dropped=5, failed=0)


@pytest.mark.usefixtures("quick")
async def test_rejected_events_are_not_sent_again(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.respond = rejected
    recorder.record(event())
    assert await maybe_await(recorder.flush())
    log.respond = all_logged
    recorder.record(event())
    assert await maybe_await(recorder.flush())
    assert recorder.statistics == UsageStatistics(queued=0, sent=1, dropped=0, failed=1)
    assert len(log.batches) == 2
    assert "1 rejected" in caplog.text
    assert "the API key does not exist" in caplog.text


@pytest.mark.usefixtures("quick")
async def test_warnings_come_once_a_minute(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.respond = rejected
    for _ in range(3):
        recorder.record(event())
        assert await maybe_await(recorder.flush())
    await soon(lambda: len(caplog.records) > 0)
    assert caplog.text.count("1 rejected") == 1
    monkeypatch.setattr(_usage_queue, "_SECONDS_BETWEEN_WARNINGS", 0.0)
    await soon(lambda: "3 rejected" in caplog.text)
    count = caplog.text.count("rejected")
    await anyio.sleep(0.1)
    assert caplog.text.count("rejected") == count


@pytest.mark.usefixtures("quick")
async def test_an_unexpected_error_does_not_end_the_recorder(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.respond = broken
    recorder.record(event())
    assert await maybe_await(recorder.flush())
    log.respond = all_logged
    recorder.record(event())
    assert await maybe_await(recorder.flush())
    assert recorder.statistics == UsageStatistics(queued=0, sent=1, dropped=0, failed=1)
    assert "could not be logged" in caplog.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("respond", [unreachable, broken])
async def test_a_log_that_fails_does_not_end_the_recorder(
    recorder: Any, log: Log, monkeypatch: pytest.MonkeyPatch, respond: Respond
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(_usage_queue.logger, "handle", fail)
    log.respond = respond
    recorder.record(event())
    await soon(lambda: len(log.batches) > 0)
    await anyio.sleep(0.05)
    log.respond = all_logged
    recorder.record(event("/2"))
    assert await maybe_await(recorder.flush())
    assert log.endpoints[-1] == "/2"
    assert recorder.statistics.sent + recorder.statistics.failed == 2


@pytest.mark.usefixtures("quick")
async def test_too_few_outcomes_are_a_failure(client_kind: str) -> None:
    def log_too_few(_: object) -> list[object]:
        return [Outcome(0, value=UsageLog.model_construct())]

    async def log_too_few_later(events: object) -> list[object]:
        return log_too_few(events)

    log = log_too_few if client_kind == "sync" else log_too_few_later
    api_keys = SimpleNamespace(log_usage_batch=log)
    recorder = recorder_of(client_kind, SimpleNamespace(api_keys=api_keys))
    recorder.record(event())
    recorder.record(event())
    assert await maybe_await(recorder.flush())
    assert recorder.statistics == UsageStatistics(queued=0, sent=0, dropped=0, failed=2)
    await close_recorder(recorder)


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_replaced(log: Log) -> None:
    def end(_: list[dict[str, Any]]) -> httpx.Response:
        raise SystemExit

    log.respond = end
    with AudienceLab(URL, KEY) as client, UsageRecorder(client) as recorder:
        recorder.record(event("/1"))
        thread = recorder._thread
        assert thread is not None
        thread.join(5)
        log.respond = all_logged
        recorder.record(event("/2"))
    assert recorder.statistics == UsageStatistics(queued=0, sent=2, dropped=0, failed=0)


async def test_closing_sends_what_is_left(recorder: Any, log: Log) -> None:
    for number in range(700):
        recorder.record(event(f"/{number}"))
    await close_recorder(recorder)
    assert recorder.statistics == UsageStatistics(queued=0, sent=700, dropped=0, failed=0)
    assert len(log.endpoints) == 700
    await close_recorder(recorder)


async def test_closing_ends_in_time(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.respond = unreachable
    recorder.record(event())
    began = time.monotonic()
    await close_recorder(recorder, 0.2)
    assert time.monotonic() - began < 2
    assert recorder.statistics == UsageStatistics(queued=0, sent=0, dropped=1, failed=0)
    assert "the usage log lags behind" in caplog.text


@pytest.mark.usefixtures("quick")
async def test_closing_warns_of_losses_soon_after_another_warning(
    recorder: Any, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.respond = unreachable
    recorder.record(event())
    await soon(lambda: "1 queued, 0 dropped" in caplog.text)
    await close_recorder(recorder, 0.1)
    await close_recorder(recorder, 0.1)
    assert caplog.text.count("0 queued, 1 dropped") == 1


def test_what_is_on_its_way_at_the_end_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    queue = UsageQueue(1000)
    for _ in range(700):
        queue.put(event())
    batch = queue.take()
    queue.close()
    queue.warn(closed=True)
    assert queue.statistics == UsageStatistics(queued=0, sent=0, dropped=700, failed=0)
    assert queue.is_empty
    assert "0 queued, 700 dropped" in caplog.text
    # The response arrives nevertheless.
    outcomes = [Outcome(index, value=UsageLog.model_construct()) for index in range(499)]
    queue.settle(batch, [*outcomes, Outcome(499, error=InvalidArgumentError("no"))])
    assert queue.statistics == UsageStatistics(queued=0, sent=499, dropped=200, failed=1)
    queue.warn(closed=True)
    assert caplog.text.count("dropped") == 1


async def test_closing_retries_until_the_time_is_over(recorder: Any, log: Log) -> None:
    log.respond = lambda events: all_logged(events) if len(log.batches) > 1 else unreachable(events)
    recorder.record(event())
    await close_recorder(recorder, 5)
    assert recorder.statistics.sent == 1


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"], indirect=True)
async def test_a_cancelled_task_sends_what_is_left(client: Any, log: Log) -> None:
    recorder = AsyncUsageRecorder(client)
    with anyio.CancelScope() as scope:
        async with recorder:
            recorder.record(event())
            scope.cancel()
    assert recorder.statistics.sent == 1


@pytest.mark.parametrize("client_kind", ["asyncio"], indirect=True)
async def test_a_recorder_whose_closing_was_interrupted_warns_at_the_end(
    recorder: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    unregistered = Mock()
    monkeypatch.setattr("atexit.unregister", unregistered)
    log.respond = unreachable
    recorder.record(event())
    unregistered.reset_mock()
    closing = asyncio.create_task(recorder.aclose())
    await soon(lambda: len(log.batches) > 0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    unregistered.assert_not_called()


async def test_events_after_the_end_are_dropped_and_counted(recorder: Any, log: Log) -> None:
    await close_recorder(recorder)
    recorder.record(event())
    assert recorder.statistics == UsageStatistics(queued=0, sent=0, dropped=1, failed=0)
    assert log.batches == []


async def test_only_events_are_recorded(recorder: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="not dict"):
        recorder.record({})


@pytest.mark.parametrize("wrong", [0, 1_000_001, "7", True])
async def test_wrong_bounds(client_kind: str, client: Any, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_queued"):
        recorder_of(client_kind, client, max_queued=wrong)


async def test_the_other_kind_of_client(client_kind: str) -> None:
    other: Any = AudienceLab(URL, KEY)
    twin = "to UsageRecorder"
    if client_kind == "sync":
        other, twin = AsyncAudienceLab(URL, KEY), "to AsyncUsageRecorder"
    with pytest.raises(ConfigurationError, match=twin):
        recorder_of(client_kind, other)
    await close(other)


async def test_a_closed_client_ends_the_attempts(
    client_class: Any, client_kind: str, log: Log
) -> None:
    client = client_class(URL, KEY)
    recorder = recorder_of(client_kind, client)
    recorder.record(event())
    await maybe_await(client.aclose() if client_kind != "sync" else client.close())
    await close_recorder(recorder)
    assert recorder.statistics.failed == 1
    assert log.batches == []


async def test_context_managers(client_kind: str, client: Any, log: Log) -> None:
    recorder = recorder_of(client_kind, client)
    if client_kind == "sync":
        with recorder as entered:
            entered.record(event())
    else:
        async with recorder as entered:
            entered.record(event())
    assert entered is recorder
    assert recorder.statistics.sent == 1
    assert len(log.batches) == 1


async def test_a_closed_recorder_is_not_entered_again(client_kind: str, client: Any) -> None:
    recorder = recorder_of(client_kind, client)
    await close_recorder(recorder)
    enter = recorder.__enter__ if client_kind == "sync" else recorder.__aenter__
    with pytest.raises(ClientClosedError, match="create a new one"):
        await maybe_await(enter())


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"], indirect=True)
async def test_batches_belong_to_no_request(client: Any, api: respx.MockRouter) -> None:
    request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
    found: list[str | None] = []

    def respond(request: httpx.Request) -> httpx.Response:
        found.append(request_id.get())
        return all_logged(json.loads(request.content)["p_events"])

    api.post("/rpc/log_api_key_usage_batch").mock(side_effect=respond)
    recorder = AsyncUsageRecorder(client)
    request_id.set("first")
    recorder.record(event())
    await recorder.aclose()
    assert found == [None]
    assert recorder.statistics.sent == 1


def test_threads_record_at_the_same_time(log: Log) -> None:
    with AudienceLab(URL, KEY) as client, UsageRecorder(client) as recorder:

        def record(first: int) -> None:
            for number in range(first, first + 500):
                recorder.record(event(f"/{number}"))

        threads = [threading.Thread(target=record, args=(500 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(each.name == "audiencelab-usage" for each in threading.enumerate()) == 1
    assert recorder.statistics == UsageStatistics(queued=0, sent=4000, dropped=0, failed=0)
    assert len(set(log.endpoints)) == 4000


def test_at_the_end_of_the_process_no_thread_can_be_started(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with AudienceLab(URL, KEY) as client, monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        recorder = UsageRecorder(client)
        recorder.record(event())
        recorder.close()
    assert recorder.statistics.sent == 1


async def test_threads_record_for_a_task(log: Log) -> None:
    async with AsyncAudienceLab(URL, KEY) as client, AsyncUsageRecorder(client) as recorder:

        def record() -> None:
            for number in range(500):
                recorder.record(event(f"/{number}"))

        began = time.monotonic()
        await anyio.to_thread.run_sync(record)
        await soon(lambda: recorder.statistics.sent == 500)
        assert time.monotonic() - began < 0.9


async def test_events_that_are_not_models_yet(log: Log) -> None:
    async with AsyncAudienceLab(URL, KEY) as client:
        recorder = AsyncUsageRecorder(client)
        for number in range(500):
            recorder._record_plain((UUID(KEY_ID).int, f"/{number}", "GET", 200, None, "agent"))
        await soon(lambda: recorder.statistics.sent == 500)
        await recorder.aclose()
    (batch,) = log.batches
    assert len({each["log_id"] for each in batch}) == 500
    expected = {"api_key_id": KEY_ID, "endpoint": "/7", "method": "GET", "user_agent": "agent"}
    assert batch[7].items() >= expected.items()
    assert "ip_address" not in batch[7]


def test_events_wait_for_an_event_loop(log: Log) -> None:
    client = AsyncAudienceLab(URL, KEY)
    recorder = AsyncUsageRecorder(client)
    recorder.record(event("/1"))
    assert recorder.statistics.queued == 1

    async def close() -> None:
        await recorder.aclose()
        await client.aclose()

    anyio.run(close)
    assert log.endpoints == ["/1"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_event_loop_after_the_other(log: Log, backend: str) -> None:
    client = AsyncAudienceLab(URL, KEY)
    recorder = AsyncUsageRecorder(client)

    async def record(endpoint: str) -> None:
        recorder.record(event(endpoint))

    async def close() -> None:
        recorder.record(event("/3"))
        await recorder.aclose()
        await client.aclose()

    anyio.run(record, "/1", backend=backend)
    assert log.endpoints == []
    recorder.record(event("/2"))
    anyio.run(close, backend="asyncio" if backend == "trio" else "trio")
    assert log.endpoints == ["/1", "/2", "/3"]


def test_events_are_sent_if_asyncio_cancels_the_task_before_its_first_step(log: Log) -> None:
    async def main() -> None:
        async with AsyncAudienceLab(URL, KEY) as client:
            recorder = AsyncUsageRecorder(client)
            recorder.record(event("/1"))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await recorder.aclose()

    asyncio.run(main())
    assert log.endpoints == ["/1"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_while_a_batch_is_sent(
    log: Log, api: respx.MockRouter, backend: str
) -> None:
    sent: list[str] = []

    async def respond(request: httpx.Request) -> httpx.Response:
        events = json.loads(request.content)["p_events"]
        sent.append(events[0]["log_id"])
        if len(sent) == 1:
            await anyio.sleep(60)
        return all_logged(events)

    api.post("/rpc/log_api_key_usage_batch").mock(side_effect=respond)
    client = AsyncAudienceLab(URL, KEY)
    recorder = AsyncUsageRecorder(client)

    async def record() -> None:
        recorder.record(event())
        with anyio.move_on_after(0.2):
            await recorder.flush()
        assert len(sent) == 1

    async def close() -> None:
        await recorder.aclose()
        await client.aclose()

    anyio.run(record, backend=backend)
    anyio.run(close, backend=backend)
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert recorder.statistics == UsageStatistics(queued=0, sent=1, dropped=0, failed=0)


def test_a_loop_that_was_closed_without_an_end(log: Log) -> None:
    client = AsyncAudienceLab(URL, KEY)
    recorder = AsyncUsageRecorder(client)

    def wake() -> None:
        raise RuntimeError("Event loop is closed")

    recorder._task = SimpleNamespace(wake=wake, hurry=wake)  # type: ignore[assignment]
    recorder.record(event("/1"))

    async def close() -> None:
        await recorder.aclose()
        await client.aclose()

    anyio.run(close)
    assert recorder.statistics.sent == 1


def test_an_open_recorder_warns_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    recorder = AsyncUsageRecorder(AsyncAudienceLab(URL, KEY))
    recorder._warn_of_rest()
    assert caplog.text == ""
    recorder.record(event())
    recorder._warn_of_rest()
    assert "close the recorder" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_child_inherits_no_events(recorder: Any, log: Log, client_kind: str) -> None:
    recorder.record(event())
    started = recorder._thread if client_kind == "sync" else recorder._task
    assert started is not None
    for each in (recorder._queue, recorder):  # as in a forked child
        each.reset()
    assert recorder.statistics == UsageStatistics(queued=0, sent=0, dropped=0, failed=0)
    recorder.record(event("/child"))
    assert await maybe_await(recorder.flush())
    assert log.endpoints == ["/child"]
    if client_kind == "sync":
        started.join(0)
    await close_recorder(recorder)
    for each in (recorder._queue, recorder):
        each.reset()
    recorder.record(event())
    assert recorder.statistics.dropped == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on Windows")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_multiprocessing_sends_what_is_left(api: respx.MockRouter) -> None:
    context = get_context("fork")
    sent: SimpleQueue[tuple[int, str]] = context.SimpleQueue()

    def respond(request: httpx.Request) -> httpx.Response:
        events = json.loads(request.content)["p_events"]
        for each in events:
            sent.put((os.getpid(), each["endpoint"]))
        return all_logged(events)

    api.post("/rpc/log_api_key_usage_batch").mock(side_effect=respond)
    with AudienceLab(URL, KEY) as client, UsageRecorder(client) as recorder:
        recorder.record(event("/parent"))
        child = context.Process(target=recorder.record, args=(event("/child"),))
        child.start()
        child.join(10)
    assert child.exitcode == 0
    found = set()
    while not sent.empty():
        found.add(sent.get())
    assert found == {(os.getpid(), "/parent"), (child.pid, "/child")}


def test_a_closed_recorder_does_nothing_at_the_end(log: Log) -> None:
    with AudienceLab(URL, KEY) as client, UsageRecorder(client) as recorder:
        recorder.record(event())
        finalizer = recorder._finalizer
        assert finalizer is not None
        assert finalizer.still_active()
    assert not finalizer.still_active()
    assert len(log.batches) == 1


def test_recorders_that_are_gone_are_not_reset() -> None:
    from audiencelab_sdk._backend._forks import _objects, _reset_all

    queue = UsageQueue(7)
    queue.put(event())
    _reset_all()
    assert queue.is_empty
    place = id(queue)
    assert place in _objects
    del queue
    gc.collect()
    assert place not in _objects
