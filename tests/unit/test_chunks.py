"""What a worker does with a chunk, and what comes back from another process."""

import pickle
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from audiencelab_sdk import EnrichmentRecordError
from audiencelab_sdk._resources._chunks import (
    Chunk,
    ChunkNotRunError,
    Failure,
    RemoteError,
    Results,
    Stop,
    described,
    run_chunk,
)
from tests.unit import _enrichers
from tests.unit._enrichers import UnpicklableError


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def chunk(*records: Any) -> Chunk[Any]:
    return Chunk(0, 0, list(records), Stop(), "run")


def failure_of(error: Exception) -> Failure:
    def enrich(_: object) -> None:
        raise error

    return run_chunk(0, 1, enrich, chunk("record")).failures[0]


def test_a_chunk_has_a_value_or_a_failure_for_each_record() -> None:
    results = run_chunk(0, 1, _enrichers.odd_fails, chunk(4, 5, 6))

    assert results.values == [4, None, 6]
    assert results.failures.keys() == {1}
    assert results.failures[1].reason == "ValueError: 5 is odd"


def test_a_failure_becomes_the_error_of_its_record() -> None:
    cause = LookupError("nobody")

    error = failure_of(cause).of(7)

    assert isinstance(error, EnrichmentRecordError)
    assert (error.index, str(error)) == (7, "record 7: LookupError: nobody")
    assert error.__cause__ is cause
    assert "in enrich" in error.__notes__[0]
    assert "in run_chunk" not in error.__notes__[0]


def test_a_failure_keeps_no_frames() -> None:
    def enrich(_: object) -> None:
        raise ValueError from ExceptionGroup("several", [KeyError(1)])

    failure = run_chunk(0, 1, enrich, chunk(1)).failures[0]

    group = failure.error.__cause__
    assert isinstance(group, ExceptionGroup)
    assert {each.__traceback__ for each in (failure.error, group, *group.exceptions)} == {None}
    assert "KeyError" in failure.traceback


def test_a_failure_comes_unchanged_from_another_process() -> None:
    failure = failure_of(ValueError("odd"))

    copy = pickle.loads(pickle.dumps(failure))

    assert type(copy.error) is ValueError
    assert (copy.error.args, copy.reason) == (("odd",), failure.reason)
    assert copy.traceback == failure.traceback


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnpicklableError(429, "rate limit"), "UnpicklableError: rate limit (429)"),
        (ValueError(threading.Lock()), "ValueError: <unlocked _thread.lock"),
    ],
    ids=["unpickled", "pickled"],
)
def test_an_exception_that_cannot_be_pickled_has_a_substitute(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "cloudpickle", raising=False)

    copy = pickle.loads(pickle.dumps(failure_of(error)))

    assert isinstance(copy.error, RemoteError)
    assert str(copy.error).startswith(reason)


def test_cloudpickle_is_used_where_a_worker_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def dumps(error: Exception) -> bytes:
        return pickle.dumps(LookupError(str(error)))

    monkeypatch.setitem(sys.modules, "cloudpickle", SimpleNamespace(dumps=dumps))
    copy = pickle.loads(pickle.dumps(failure_of(UnpicklableError(429, "rate limit"))))

    assert isinstance(copy.error, LookupError)


def test_an_exception_whose_class_is_missing_here_has_a_substitute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pickled = pickle.dumps(failure_of(_enrichers.MovedError()))
    monkeypatch.delattr(_enrichers, "MovedError")

    assert isinstance(pickle.loads(pickled).error, RemoteError)


def test_an_exception_that_cannot_be_changed_loses_its_frames() -> None:
    failure = failure_of(_enrichers.FrozenError(429))

    assert failure.error.__traceback__ is None
    assert failure.reason == "FrozenError: 429"


def test_exceptions_are_described_by_type_and_message() -> None:
    assert described(ValueError("odd")) == "ValueError: odd"
    assert described(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert described(SilentError()) == "SilentError: its message cannot be shown"


def test_system_exit_ends_the_chunk_and_not_the_worker() -> None:
    with pytest.raises(ChunkNotRunError, match="enrich raised SystemExit: no more"):
        run_chunk(0, 1, _enrichers.exit_python, chunk(1))


def test_a_coroutine_is_no_value() -> None:
    with pytest.raises(ChunkNotRunError, match="enrich returned a coroutine: pass the coroutine f"):
        run_chunk(0, 1, _enrichers.double_later, chunk(1))


def test_a_chunk_that_is_stopped_finishes_its_record_first() -> None:
    stopped = chunk(1, 2)
    done: list[int] = []

    def enrich(record: int) -> None:
        stopped.stop.is_set = True
        done.append(record)

    with pytest.raises(ChunkNotRunError, match="the run has ended"):
        run_chunk(0, 1, enrich, stopped)
    assert done == [1]


def test_stop_waits_for_the_chunks_of_this_process() -> None:
    stop = Stop()
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with stop.running():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    leave.set()
    waiting.join()
    thread.join()


def test_stop_does_nothing_in_another_process() -> None:
    stop = Stop()
    stop.is_set = True
    copied: Chunk[int] = pickle.loads(pickle.dumps(Chunk(0, 0, [1], stop, "run")))

    assert run_chunk(0, 1, _enrichers.double, copied) == Results([2], {})


def test_the_key_of_dask_does_not_depend_on_the_records() -> None:
    assert Chunk(3, 30, [object()], Stop(), "run").__dask_tokenize__() == ("run", 3)


def test_a_chunk_is_named_by_the_indices_of_its_records() -> None:
    assert str(Chunk(3, 30, [1, 2], Stop(), "run")) == "records 30 to 31"
    assert str(Chunk(3, 30, [1], Stop(), "run")) == "record 30"
