"""Submitting chunks to an executor, and taking their results."""

import itertools
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from audiencelab_sdk import EnrichmentChunkError, InvalidArgumentError, Outcome
from audiencelab_sdk._resources._dispatcher import Dispatcher
from audiencelab_sdk._resources._plans import Plan
from tests._waiting import wait_until
from tests.unit import _enrichers
from tests.unit._executors import Inline, Recording
from tests.unit._samples import KEY_ID
from tests.unit.test_plans import DEFAULTS

SPAWN = get_context("spawn")


def dispatcher(
    records: Any = range(10), enrich: Any = _enrichers.double, **options: Any
) -> Dispatcher[Any, Any]:
    plan: Plan[Any, Any] = Plan(KEY_ID, records, enrich, **{**DEFAULTS, **options})
    return Dispatcher(plan, lambda: None)


def consume(source: Dispatcher[Any, Any]) -> list[Any]:
    """Open the dispatcher, and return the values of all records by their index."""
    outcomes: list[Outcome[Any]] = []
    source.open()
    while True:
        source.supply()
        if source.is_idle:
            break
        if portion := source.take(1.0):
            outcomes += portion.outcomes
            source.consumed()
    assert sorted(outcome.index for outcome in outcomes) == list(range(source.sent))
    return [outcome.unwrap() for outcome in sorted(outcomes, key=lambda each: each.index)]


@pytest.fixture
def recording() -> Recording:
    return Recording()


def test_each_call_is_a_public_function_with_positional_arguments_that_differ() -> None:
    inline = Inline()

    assert consume(dispatcher([1, 1, 1, 1], executor=inline, chunk_size=2)) == [2, 2, 2, 2]

    (first, *_, chunk), (second, *_) = inline.calls
    assert first is second
    assert first.__module__.startswith("audiencelab_sdk.")
    assert first.__qualname__ == first.__name__
    assert [call[1] for call in inline.calls] == [0, 1]
    assert chunk.records == [1, 1]


def test_what_is_sent_contains_neither_urls_nor_keys() -> None:
    inline = Inline()
    consume(dispatcher(executor=inline))

    (call,) = inline.calls

    sent = pickle.dumps(call)
    assert len(sent) < 600
    assert b"http" not in sent
    assert b"_http" not in sent


def test_two_runs_of_one_unit_send_distinct_chunks() -> None:
    inline = Inline()
    for chunk_size in (10, 5):
        consume(dispatcher(executor=inline, unit="u", chunk_size=chunk_size))

    tokens = [call[-1].__dask_tokenize__() for call in inline.calls]

    assert len(set(tokens)) == 3


def test_at_most_in_flight_chunks_are_submitted_and_not_consumed(recording: Recording) -> None:
    read = []

    def endless() -> Iterator[int]:
        for record in itertools.count():
            read.append(record)
            yield record

    source = dispatcher(endless(), executor=recording, chunk_size=3, in_flight=4)
    source.open()
    source.supply()
    assert (len(recording.calls), len(read)) == (4, 12)

    recording.run()
    source.supply()
    assert len(recording.calls) == 4
    portion = source.take()
    assert portion
    source.supply()
    assert len(recording.calls) == 4

    source.consumed()
    source.supply()
    assert (len(recording.calls), len(read)) == (5, 15)


def test_what_has_come_back_does_not_wait_for_records_to_be_read(recording: Recording) -> None:
    def slow() -> Iterator[int]:
        yield from range(3)
        recording.run()
        yield from range(3, 1000)

    source = dispatcher(slow(), executor=recording, chunk_size=3, in_flight=64)
    source.open()
    source.supply()

    assert len(recording.calls) == 2
    assert source.has_ended_calls


def test_take_returns_nothing_if_nothing_has_come_back(recording: Recording) -> None:
    source = dispatcher(executor=recording)
    source.open()

    assert source.take() is None
    source.wake()
    assert source.take() is None


def test_without_records_nothing_is_submitted(recording: Recording) -> None:
    assert consume(dispatcher([], executor=recording)) == []
    assert recording.calls == []


@pytest.mark.parametrize("error", [BrokenExecutor("killed"), KeyboardInterrupt()], ids=repr)
def test_a_chunk_that_was_not_run_is_tried_again(
    recording: Recording, error: BaseException
) -> None:
    source = dispatcher(executor=recording, attempts=3)
    source.open()
    recording.fail(error)
    assert source.take() is None
    recording.queued[0][0].cancel()
    assert source.take() is None
    recording.queued.pop(0)
    recording.run()

    portion = source.take()

    assert portion
    assert [outcome.value for outcome in portion.outcomes] == list(range(0, 20, 2))
    assert [call[2] for call in recording.calls] == [1, 2, 3]


def test_after_the_last_attempt_an_error_names_the_records_and_the_reason(
    recording: Recording,
) -> None:
    source = dispatcher(executor=recording, attempts=2, chunk_size=5)
    source.open()
    recording.fail(BrokenExecutor("killed"))
    assert source.take() is None
    recording.fail(BrokenExecutor("killed again"))

    with pytest.raises(EnrichmentChunkError) as caught:
        source.take()
    assert str(caught.value) == (
        "records 0 to 4 did not run in 2 attempts: BrokenExecutor: killed again"
    )
    assert isinstance(caught.value.__cause__, BrokenExecutor)


def test_an_executor_that_is_shut_down_is_rejected(recording: Recording) -> None:
    recording.is_down = True

    with pytest.raises(InvalidArgumentError, match="executor does not accept calls: RuntimeError"):
        dispatcher(executor=recording).open()


def test_an_executor_that_is_shut_down_meanwhile_ends_the_run(recording: Recording) -> None:
    source = dispatcher(executor=recording, chunk_size=5, in_flight=2)
    source.open()
    recording.is_down = True

    with pytest.raises(EnrichmentChunkError, match="records 5 to 9 did not run in 1 attempt: "):
        source.supply()


def test_a_function_must_create_an_executor() -> None:
    with pytest.raises(InvalidArgumentError, match="a function that creates one, not int"):
        dispatcher(executor=lambda: 5).open()


def test_closing_cancels_what_is_queued_and_leaves_the_callers_executor(
    recording: Recording,
) -> None:
    source = dispatcher(executor=recording, chunk_size=1, in_flight=3)
    source.open()
    source.supply()
    source.close()

    assert [future.cancelled() for future, _ in recording.queued] == [True] * 3
    assert not recording.is_down


def test_whether_records_are_left_is_known_at_the_end() -> None:
    source = dispatcher([1, 2], executor=Inline(), chunk_size=1, in_flight=1)
    source.open()
    assert source.has_more_records()
    source.supply()
    assert not source.has_more_records()


def test_records_are_not_asked_for_after_their_end() -> None:
    ends = 0

    class Records:
        remaining = 3

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            nonlocal ends
            if not self.remaining:
                ends += 1
                raise StopIteration
            self.remaining -= 1
            return self.remaining

    source = dispatcher(Records(), executor=Inline(), chunk_size=2, in_flight=1)
    assert consume(source) == [4, 2, 0]
    assert not source.has_more_records()
    assert ends == 1


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_threads_of_the_run_end_with_it(executor: Any) -> None:
    source = dispatcher(range(100), executor=executor, chunk_size=5, in_flight=8)

    assert consume(source) == list(range(0, 200, 2))
    source.close()

    with pytest.raises(EnrichmentChunkError, match="after shutdown"):
        source._submit(next(dispatcher()._chunks), 1)


def processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=SPAWN)


def test_a_broken_pool_of_the_run_is_replaced(tmp_path: Path) -> None:
    file = str(tmp_path / "killed")
    source = dispatcher(
        [file] * 8,
        _enrichers.leave_process_once,
        executor=processes,
        chunk_size=1,
        in_flight=8,
        attempts=3,
    )

    assert consume(source) == [file] * 8
    source.close()
    assert active_children() == []


@pytest.mark.parametrize(("processes", "marked_as_running"), [(0, 2), (2, 3)])
def test_chunks_that_a_broken_pool_did_not_run_keep_their_attempts(
    processes: int, marked_as_running: int
) -> None:
    # A pool of two processes marks a third chunk as running, which it has fetched for later.
    made: list[Any] = []

    def create() -> Executor:
        pool: Any = Recording()
        pool._processes = dict.fromkeys(range(processes), Mock())
        made.append(pool)
        return pool  # type: ignore[no-any-return]

    source = dispatcher(executor=create, attempts=2, chunk_size=2, in_flight=5)
    source.open()
    source.supply()
    futures = [future for future, _ in made[0].queued]
    for future in futures[:marked_as_running]:
        future.set_running_or_notify_cancel()
    for future in futures:
        future.set_exception(BrokenExecutor("killed"))

    assert [source.take() for _ in futures] == [None] * 5

    numbers_and_attempts = [call[1:3] for call in made[1].calls]
    assert numbers_and_attempts == [(0, 2), (1, 2), (2, 1), (3, 1), (4, 1)]


def test_a_pool_of_the_run_that_breaks_before_a_call_is_replaced() -> None:
    class Breaking(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            if len(self.calls) == 2:
                raise BrokenExecutor("killed")
            return super().submit(fn, *args, **kwargs)

    made: list[Breaking] = []

    def create() -> Breaking:
        made.append(Breaking())
        return made[-1]

    source = dispatcher(executor=create, chunk_size=2, in_flight=2)

    assert consume(source) == list(range(0, 20, 2))
    assert [each.is_down for each in made] == [True, True, False]
    source.close()
    assert made[-1].is_down


def test_a_broken_pool_of_the_caller_ends_the_run() -> None:
    with processes() as pool:
        source = dispatcher(executor=pool, enrich=_enrichers.leave_process, attempts=3)
        with pytest.raises(
            EnrichmentChunkError, match=r"BrokenProcessPool: .*without parentheses"
        ) as caught:
            consume(source)
        source.close()
    assert isinstance(caught.value.__cause__, BrokenProcessPool)
    assert caught.value.attempts == 1


@pytest.mark.parametrize(
    ("records", "enrich"),
    [([1], _enrichers.unpicklable_value), ([lambda: 1], _enrichers.double)],
    ids=["value", "record"],
)
def test_what_cannot_be_pickled_ends_the_run_and_not_the_pool(records: Any, enrich: Any) -> None:
    with processes() as pool:
        source = dispatcher(records, enrich, executor=pool, attempts=2)
        with pytest.raises(
            EnrichmentChunkError, match=r"in 2 attempts: .*(pickle|local object).*lambda"
        ):
            consume(source)
        source.close()
        assert pool.submit(os.getpid).result()


def test_the_reason_names_the_error_of_a_result_that_cannot_be_unpickled() -> None:
    source = dispatcher(
        ["rate limit"], partial(_enrichers.UnpicklableError, 429), executor=processes
    )
    with pytest.raises(EnrichmentChunkError, match=r"BrokenProcessPool: .* TypeError: .*'reason'$"):
        consume(source)
    source.close()


def test_processes_of_the_run_are_ended_with_their_chunks() -> None:
    source = dispatcher([600.0], _enrichers.sleep, executor=processes)
    source.open()
    wait_until(active_children)
    source.close()

    assert active_children() == []


def test_a_result_that_a_process_is_sending_does_not_keep_the_run_from_ending(
    tmp_path: Path,
) -> None:
    file = tmp_path / "sent"
    source = dispatcher([str(file)], _enrichers.send_half_a_result, executor=processes)
    source.open()
    wait_until(file.exists)
    source.close()

    assert active_children() == []


# Python 3.12 and later warn of forks in a process with threads.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_with_a_handler_of_sigterm_are_ended_as_well() -> None:
    def forked() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=get_context("fork"))

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        source = dispatcher([600.0], _enrichers.sleep, executor=forked)
        source.open()
        wait_until(active_children)
        source.close()
    finally:
        signal.signal(signal.SIGTERM, before)

    assert active_children() == []
    assert received == []


def test_large_chunks_that_are_queued_do_not_keep_the_run_from_ending() -> None:
    records = [600.0, 600.0, *["x" * 1_000_000] * 6]
    source = dispatcher(records, _enrichers.sleep, executor=processes, chunk_size=1, in_flight=8)
    source.open()
    source.supply()
    wait_until(active_children)
    source.close()

    assert active_children() == []


def test_processes_that_cannot_be_killed_are_terminated() -> None:
    process = Mock(**{"kill.side_effect": AttributeError("kill")})
    recording: Any = Recording()
    recording._processes = {1: process}
    source = dispatcher(executor=lambda: recording)
    source.open()
    source.close()

    process.terminate.assert_called_once_with()


async def test_closing_does_not_block_the_event_loop() -> None:
    source = dispatcher(range(100), executor=ThreadPoolExecutor, chunk_size=5, in_flight=8)
    source.open()
    await source.aclose()

    with pytest.raises(EnrichmentChunkError, match="after shutdown"):
        source.supply()
