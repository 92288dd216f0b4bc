"""Runs of both clients: what the block gets, and what becomes of the job."""

import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import anyio
import httpx
import pytest
import respx

from audiencelab_sdk import (
    AudienceLab,
    AudienceLabError,
    ConfigurationError,
    ConflictError,
    EnrichmentChunkError,
    EnrichmentRecordError,
    InvalidArgumentError,
    Outcome,
    PermissionDeniedError,
)
from audiencelab_sdk._resources import _async_running, _run_base, _running
from tests.unit import _enrichers
from tests.unit._database import Database
from tests.unit._executors import Inline
from tests.unit._samples import KEY, KEY_ID, URL

Body = Callable[["Entered"], Awaitable[object]]


@pytest.fixture
def database(api: respx.MockRouter) -> Database:
    return Database(api)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds between reports, and between heartbeats."""

    def set_both(reports: float, heartbeats: float = 30.0) -> None:
        for module in (_run_base, _running, _async_running):
            monkeypatch.setattr(module, "SECONDS_BETWEEN_REPORTS", reports)
        monkeypatch.setattr(_run_base, "SECONDS_BETWEEN_HEARTBEATS", heartbeats)

    return SimpleNamespace(set=set_both)


class Entered:
    """The run of either client inside its block."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def __aiter__(self) -> "Entered":
        return self

    async def __anext__(self) -> Outcome[Any]:
        if hasattr(self.run, "__anext__"):
            outcome: Outcome[Any] = await anext(self.run)
            return outcome
        try:
            outcome = next(self.run)
        except StopIteration:
            raise StopAsyncIteration from None
        return outcome


async def collect(entered: Entered) -> list[Outcome[Any]]:
    return [outcome async for outcome in entered]


async def run(
    client: Any, records: Any, body: Body, enrich: Any = _enrichers.odd_fails, **options: Any
) -> Any:
    """Run the coroutine function `body` in the block of either client."""
    context = client.enrichment.run(
        KEY_ID, records, enrich, **{"executor": Inline(), "chunk_size": 4, **options}
    )
    await inside(context, body)
    return context


async def inside(context: Any, body: Body) -> None:
    if hasattr(context, "__enter__"):
        with context as entered:
            await body(Entered(entered))
    else:
        async with context as entered:
            await body(Entered(entered))


def threads() -> list[threading.Thread]:
    # The test runner runs trio in an event loop of its own, with a thread for I/O.
    return [each for each in threading.enumerate() if not each.name.startswith("Trio thread")]


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - threads change it
            await anyio.sleep(0.01)


async def test_each_record_has_one_outcome_and_counts_once(client: Any, database: Database) -> None:
    outcomes: list[Outcome[Any]] = []

    async def body(entered: Entered) -> None:
        outcomes.extend(await collect(entered))

    context = await run(client, range(10), body)

    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert [outcome.value for outcome in outcomes if outcome] == [0, 2, 4, 6, 8]
    assert {type(outcome.error) for outcome in outcomes if not outcome} == {EnrichmentRecordError}
    assert database.state == ("completed", 10, 5, None)
    assert (context.processed, context.failed) == (10, 5)
    assert context.job.status == "completed"
    assert database.units == {context.unit}


async def test_a_job_without_records_is_completed(client: Any, database: Database) -> None:
    await run(client, [], collect)

    assert database.state == ("completed", 0, 0, None)


async def test_the_name_of_the_unit_may_be_given(client: Any, database: Database) -> None:
    await run(client, [2], collect, unit="all records")

    assert database.units == {"all records"}


async def test_an_exception_of_the_block_fails_the_job(client: Any, database: Database) -> None:
    async def body(entered: Entered) -> None:
        async for outcome in entered:
            if outcome.index == 5:
                raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee") as caught:
        await run(client, range(10), body)
    assert database.state == ("failed", 5, 2, "out of coffee")
    assert not hasattr(caught.value, "__notes__")


async def test_leaving_the_block_early_fails_the_job(client: Any, database: Database) -> None:
    async def body(entered: Entered) -> None:
        async for outcome in entered:
            if outcome.index == 5:
                break

    await run(client, itertools.count(), body)

    reason = "the run was left before its last outcome, with 6 records processed"
    assert database.state == ("failed", 6, 3, reason)


@pytest.mark.parametrize("in_flight", [1, 2])
async def test_leaving_the_block_at_the_last_outcome_completes_the_job(
    client: Any, database: Database, in_flight: int
) -> None:
    async def body(entered: Entered) -> None:
        async for outcome in entered:
            if outcome.index == 7:
                break

    await run(client, range(8), body, in_flight=in_flight)

    assert database.state == ("completed", 8, 4, None)


async def test_a_job_that_is_left_is_finished_by_a_run_for_the_other_records(
    client: Any, database: Database
) -> None:
    done: set[int] = set()

    async def body(entered: Entered) -> None:
        async for outcome in entered:
            if len(done) == 6:
                raise RuntimeError("out of coffee")
            done.add(outcome.index)

    with pytest.raises(RuntimeError):
        await run(client, range(10), body, on_error="leave")
    assert database.state == ("processing", 6, 3, None)

    await run(client, range(6, 10), collect, on_error="leave", unit="the others")
    assert database.state == ("completed", 4, 2, None)
    assert database.units == {"all", "the others"}


async def test_leaving_the_block_early_can_leave_the_job(client: Any, database: Database) -> None:
    async def body(entered: Entered) -> None:
        await anext(entered)

    await run(client, range(10), body, on_error="leave")

    assert database.state == ("processing", 1, 0, None)


async def test_an_exception_of_the_records_fails_the_job(client: Any, database: Database) -> None:
    def records() -> Iterator[int]:
        yield from range(10)
        raise LookupError("no more pages")

    with pytest.raises(LookupError):
        await run(client, records(), collect)
    assert database.state[0] == "failed"
    assert database.state[3] == "no more pages"


async def test_an_exception_of_the_records_at_the_end_fails_the_job(
    client: Any, database: Database
) -> None:
    def records() -> Iterator[int]:
        yield from range(4)
        raise LookupError("no more pages")

    async def body(entered: Entered) -> None:
        for _ in range(4):
            await anext(entered)

    with pytest.raises(LookupError):
        await run(client, records(), body, in_flight=1)
    assert database.state == ("failed", 4, 2, "no more pages")


async def test_a_chunk_that_cannot_be_run_fails_the_job(client: Any, database: Database) -> None:
    with pytest.raises(EnrichmentChunkError, match="records 0 to 3 did not run in 2 attempts"):
        await run(client, range(8), collect, _enrichers.exit_python, attempts=2)

    assert database.state[0] == "failed"
    assert "enrich raised SystemExit: no more" in database.state[3]


async def test_an_error_that_the_block_handles_fails_the_job_all_the_same(
    client: Any, database: Database
) -> None:
    async def body(entered: Entered) -> None:
        with pytest.raises(EnrichmentChunkError):
            await collect(entered)
        with pytest.raises((EnrichmentChunkError, StopAsyncIteration)):
            await anext(entered)

    await run(client, range(8), body, _enrichers.exit_python, attempts=1)

    assert database.state[0] == "failed"


async def test_outcomes_are_available_in_the_block_only(client: Any, database: Database) -> None:
    context = client.enrichment.run(KEY_ID, [2], _enrichers.double, executor=Inline())
    for ask in (iter, next) if isinstance(client, AudienceLab) else (aiter,):
        with pytest.raises(InvalidArgumentError, match="inside a with block only"):
            ask(context)
    with pytest.raises(InvalidArgumentError, match="inside a with block only"):
        await anext(Entered(context))
    with pytest.raises(InvalidArgumentError, match="enter the with block first"):
        _ = context.job

    await inside(context, collect)

    with pytest.raises(InvalidArgumentError, match="inside a with block only"):
        await anext(Entered(context))
    with pytest.raises(InvalidArgumentError, match="call run again"):
        await inside(context, collect)
    assert database.state[0] == "completed"


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_an_ended_job_is_not_touched(client: Any, database: Database, status: str) -> None:
    database.job["status"] = status
    executor = Inline()

    with pytest.raises(ConflictError, match=f"already {status}"):
        await run(client, range(8), collect, executor=executor)
    assert (executor.calls, database.reports) == ([], [])


async def test_an_executor_that_is_shut_down_is_rejected_and_the_job_is_not_touched(
    client: Any, database: Database
) -> None:
    executor = ThreadPoolExecutor()
    executor.shutdown()

    with pytest.raises(InvalidArgumentError, match=r"does not accept calls: .* after shutdown"):
        await run(client, range(8), collect, executor=executor)
    assert database.reports == []
    assert database.state[0] == "pending"


async def test_nothing_stays_if_the_job_cannot_be_started(client: Any, database: Database) -> None:
    database.failures.append(httpx.Response(404, json={"message": "no such job"}))
    before = threads()

    with pytest.raises(AudienceLabError, match="no such job"):
        await run(client, range(8), collect, executor=ThreadPoolExecutor)
    assert threads() == before


async def test_totals_are_reported_while_the_block_runs(
    client: Any, database: Database, seconds: SimpleNamespace
) -> None:
    seconds.set(0.05)

    async def body(entered: Entered) -> None:
        async for outcome in entered:
            reported = (outcome.index, outcome.index // 2)
            await until(partial(database.reports.__contains__, reported))

    await run(client, range(5), body)

    # An outcome counts when the loop asks for the next one.
    distinct = list(dict.fromkeys(database.reports))
    assert distinct == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


async def test_a_heartbeat_is_reported_while_nothing_changes(
    client: Any, database: Database, seconds: SimpleNamespace
) -> None:
    seconds.set(0.05, heartbeats=0.2)

    async def body(entered: Entered) -> None:
        await anext(entered)
        await until(lambda: len(database.reports) > 3)

    await run(client, range(5), body, on_error="leave")

    assert database.reports[:3] == [(0, 0)] * 3
    assert database.reports[-1] == (1, 0)


async def test_the_next_report_includes_the_counts_of_a_failed_one(
    client: Any,
    database: Database,
    seconds: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    pauses: list[float],
) -> None:
    seconds.set(0.05)

    async def body(entered: Entered) -> None:
        await anext(entered)
        database.failures += [httpx.Response(503)] * 3
        await anext(entered)
        await until(lambda: not database.failures)
        await anext(entered)
        await until(lambda: (2, 1) in database.reports)
        await collect(entered)

    with caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await run(client, range(5), body)
    assert (1, 0) not in database.reports
    assert "the next one includes its totals" in caplog.text
    assert database.state == ("completed", 5, 2, None)


async def test_a_job_that_others_end_ends_the_run(
    client: Any, database: Database, seconds: SimpleNamespace
) -> None:
    seconds.set(0.05)

    async def body(entered: Entered) -> None:
        await anext(entered)
        await anext(entered)
        database.job["status"] = "failed"
        database.failures += [httpx.Response(409, json={"message": "it has ended"})] * 2
        await until(lambda: len(database.failures) == 1)
        await collect(entered)

    with pytest.raises(ConflictError, match="it has ended") as caught:
        await run(client, range(100), body)
    assert (
        "could not be marked as failed: the enrichment job is already failed"
        in (caught.value.__notes__[0])
    )


async def test_a_run_that_waits_learns_that_the_job_has_ended(
    client: Any, database: Database, seconds: SimpleNamespace
) -> None:
    seconds.set(0.05, heartbeats=0.1)
    database.failures.append(httpx.Response(200, json=database.job))
    database.failures += [httpx.Response(409, json={"message": "it has ended"})] * 2
    executor = Inline()
    executor.run = lambda: None  # type: ignore[method-assign] # the call never ends

    with pytest.raises(ConflictError, match="it has ended"):
        await run(client, range(10), collect, executor=executor, on_error="leave")
    assert executor.queued[0][0].cancelled()


async def test_an_executor_that_cannot_cancel(client: Any, database: Database) -> None:
    class Parsl(Inline):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            future.cancel = Mock(side_effect=NotImplementedError)  # type: ignore[method-assign]
            return future

    await run(client, range(10), anext, executor=Parsl(), chunk_size=2)

    assert database.state[0] == "failed"


async def test_the_last_report_is_retried(
    client: Any, database: Database, pauses: list[float]
) -> None:
    async def body(entered: Entered) -> None:
        await collect(entered)
        database.failures += [httpx.Response(503)] * 3

    await run(client, range(5), body)

    assert database.state == ("completed", 5, 2, None)
    assert pauses


async def test_an_error_of_the_last_report_is_raised(client: Any, database: Database) -> None:
    async def body(entered: Entered) -> None:
        await collect(entered)
        database.failures.append(httpx.Response(403, json={"message": "no more"}))

    with pytest.raises(PermissionDeniedError, match="no more"):
        await run(client, range(5), body)


@pytest.mark.parametrize("on_error", ["fail", "leave"])
async def test_if_the_job_cannot_be_ended_the_exception_says_so(
    client: Any, database: Database, api: respx.MockRouter, on_error: str
) -> None:
    api.patch("/enrichment_tracking").respond(403, json={"message": "read only"})

    async def body(entered: Entered) -> None:
        database.failures.append(httpx.Response(403, json={"message": "read only"}))
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError) as caught:
        await run(client, range(5), body, on_error=on_error)
    (note,) = caught.value.__notes__
    done = "marked as failed" if on_error == "fail" else "reported"
    assert note == f"Enrichment job {KEY_ID} could not be {done}: read only (HTTP 403)"


async def test_if_the_job_of_a_block_left_early_cannot_be_ended_the_error_is_raised(
    client: Any, database: Database, api: respx.MockRouter
) -> None:
    api.patch("/enrichment_tracking").respond(403, json={"message": "read only"})

    async def body(entered: Entered) -> None:
        await anext(entered)

    with pytest.raises(PermissionDeniedError, match="read only"):
        await run(client, range(5), body)


async def test_show_draws_a_progress_bar(
    client: Any, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(client, range(10), collect, show=True)

    written = capsys.readouterr()
    assert "email enrichment completed" in written.err
    assert "10/10" in written.err
    assert written.out == ""


async def test_show_without_rich_says_what_to_install(
    client: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)

    with pytest.raises(ConfigurationError, match=r"audiencelab-sdk\[progress\]"):
        await run(client, range(10), collect, show=True)
    assert database.reports == []


async def test_calls_in_threads_finish_before_the_block_ends(
    client: Any, database: Database
) -> None:
    running = threading.Event()
    finished: list[int] = []

    def enrich(record: int) -> None:
        running.set()
        threading.Event().wait(0.2)
        finished.append(record)

    async def body(_: Entered) -> None:
        await until(running.is_set)
        raise RuntimeError("out of coffee")

    before = threads()
    with pytest.raises(RuntimeError):
        await run(client, range(50), body, enrich, executor=lambda: ThreadPoolExecutor(1))
    assert finished == [0]
    assert threads() == before


async def test_calls_in_threads_of_the_caller_finish_before_the_block_ends(
    client: Any, database: Database
) -> None:
    running = threading.Event()
    finished: list[int] = []

    def enrich(record: int) -> None:
        running.set()
        threading.Event().wait(0.2)
        finished.append(record)

    async def body(_: Entered) -> None:
        await until(running.is_set)
        raise RuntimeError("out of coffee")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError):
            await run(client, range(50), body, enrich, executor=pool)
        assert finished == [0]
        assert pool.submit(int).result() == 0
    assert finished == [0]


async def test_a_process_that_is_killed_while_it_sends_a_result_is_noticed(
    client: Any, database: Database, seconds: SimpleNamespace, tmp_path: Path
) -> None:
    seconds.set(0.05)
    file = tmp_path / "sent"

    async def body(entered: Entered) -> None:
        await until(file.exists)
        for process in active_children():
            process.kill()
        with anyio.fail_after(10):
            await collect(entered)

    pool = partial(ProcessPoolExecutor, 1, mp_context=get_context("spawn"))
    with pytest.raises(EnrichmentChunkError, match="BrokenProcessPool"):
        await run(
            client, [str(file)], body, _enrichers.send_half_a_result, executor=pool, attempts=1
        )
    assert database.state[0] == "failed"


async def test_an_executor_of_the_run_is_shut_down_if_the_records_raise_at_once(
    client: Any, database: Database
) -> None:
    def records() -> Iterator[int]:
        yield 1
        raise LookupError("no more pages")

    executor = Inline()

    with pytest.raises(LookupError):
        await run(client, records(), collect, executor=lambda: executor)
    assert executor.is_down
    assert database.state[0] == "pending"


@pytest.mark.parametrize(("on_error", "status"), [("fail", "failed"), ("leave", "processing")])
def test_a_run_that_cannot_be_entered_after_its_first_report_ends_the_job(
    database: Database, on_error: Any, status: str
) -> None:
    with AudienceLab(URL, KEY) as client:
        run: Any = client.enrichment.run(KEY_ID, [1], str, on_error=on_error)
        run._reporter = Mock(**{"start.side_effect": RuntimeError("no thread"), "is_alive": bool})
        with pytest.raises(RuntimeError, match="no thread"), run:
            pytest.fail("it was entered")
    assert database.state[0] == status


def test_a_for_loop_iterates_over_the_outcomes(database: Database) -> None:
    with (
        AudienceLab(URL, KEY) as client,
        client.enrichment.run(KEY_ID, range(100), _enrichers.double, chunk_size=7) as outcomes,
    ):
        values = {outcome.index: outcome.value for outcome in outcomes}

    assert values == {index: index * 2 for index in range(100)}
    assert database.state == ("completed", 100, 0, None)


def test_the_synchronous_client_rejects_a_coroutine_function() -> None:
    run: Any = AudienceLab(URL, KEY).enrichment.run

    with pytest.raises(InvalidArgumentError, match="pass a plain function, or use Async"):
        run(KEY_ID, [1], _enrichers.double_later)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even if a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_everything_within_a_second(
    database: Database, interrupts: None
) -> None:
    before = threads()
    calls: list[int] = []

    def enrich(record: int) -> None:
        calls.append(record)
        time.sleep(0.05)

    def work() -> None:
        with (
            AudienceLab(URL, KEY) as client,
            client.enrichment.run(KEY_ID, itertools.count(), enrich) as outcomes,
        ):
            next(outcomes)

    # As a terminal does it: the main thread gets the signal.
    interrupt = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    interrupt.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < 1.3
    interrupt.join()
    assert threads() == before
    assert database.state[0] == "failed"
    assert database.state[3] == "KeyboardInterrupt"
    assert len(calls) < 1000


def test_a_second_interrupt_stops_the_reports_as_well(database: Database) -> None:
    before = threads()
    client = AudienceLab(URL, KEY)
    run: Any = client.enrichment.run(KEY_ID, [1], _enrichers.double, executor=Inline())

    def interrupted() -> None:
        raise KeyboardInterrupt

    def work() -> None:
        with run:
            run._dispatcher.close = interrupted

    with pytest.raises(KeyboardInterrupt):
        work()
    assert threads() == before
    assert database.state == ("failed", 0, 0, "KeyboardInterrupt")
    client.close()


async def test_an_executor_whose_shutdown_raises_fails_the_job(
    client: Any, database: Database
) -> None:
    class Stuck(Inline):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            raise OSError("no such host")

    with pytest.raises(OSError, match="no such host"):
        await run(client, range(10), collect, executor=Stuck)
    assert database.state == ("failed", 10, 5, "no such host")


def test_an_api_that_hangs_does_not_keep_an_interrupted_block_from_ending(
    database: Database, api: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = threading.Event()

    def hang(_: httpx.Request) -> httpx.Response:
        resumed.wait()
        return httpx.Response(403, json={"message": "too late"})

    def work() -> None:
        with AudienceLab(URL, KEY) as client, client.enrichment.run(KEY_ID, [1], str):
            api.patch("/enrichment_tracking").mock(side_effect=hang)
            raise KeyboardInterrupt

    monkeypatch.setattr(_running, "_SECONDS_TO_END", 0.1)
    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    resumed.set()
    (note,) = caught.value.__notes__
    assert note.endswith("could not be marked as failed: no response within 0.1 s")


def test_an_interrupted_block_notes_that_the_job_cannot_be_ended(
    database: Database, api: respx.MockRouter
) -> None:
    def work() -> None:
        with AudienceLab(URL, KEY) as client, client.enrichment.run(KEY_ID, [1], str):
            api.patch("/enrichment_tracking").respond(403, json={"message": "read only"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    (note,) = caught.value.__notes__
    assert note.endswith("could not be marked as failed: read only (HTTP 403)")


def test_a_report_that_hangs_does_not_keep_the_block_from_ending(
    database: Database,
    api: respx.MockRouter,
    seconds: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, resumed = threading.Event(), threading.Event()
    seconds.set(0.05, heartbeats=0.05)
    monkeypatch.setattr(_running, "_SECONDS_TO_STOP", 0.1)

    def report(request: httpx.Request) -> httpx.Response:
        if threading.current_thread().name == "audiencelab-enrichment-reports":
            asked.set()
            resumed.wait()
        return database.report(request)

    with AudienceLab(URL, KEY) as client:
        with client.enrichment.run(KEY_ID, [1], str) as outcomes:
            api.post("/rpc/report_enrichment_progress").mock(side_effect=report)
            asked.wait()
            assert len(list(outcomes)) == 1
        assert database.state == ("completed", 1, 0, None)
        resumed.set()
        for thread in threading.enumerate():
            if thread.name == "audiencelab-enrichment-reports":
                thread.join()
