"""Chunks of records: what an executor's worker gets, does and returns.

A worker is a thread, a process or another machine. Everything here can be pickled, and none of it
knows a client.
"""

import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Generic, NamedTuple, TypeVar, cast

from audiencelab_sdk.errors import EnrichmentRecordError

R = TypeVar("R")
T = TypeVar("T")

_RETURNED_A_COROUTINE = (
    "enrich returned a coroutine: pass the coroutine function itself, or functools.partial of it, "
    "to AsyncAudienceLab, and no executor"
)


class ChunkNotRunError(Exception):
    """The chunk was not run to its end."""


class RemoteError(Exception):
    """Stands for an exception of a worker that cannot be pickled. Its text has type and message."""


class Stop:
    """Stops the chunks that run in threads of this process. Unpickled elsewhere, it does nothing.

    Attributes:
        is_set: Whether the chunks are to stop. Each of them finishes its current record first.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._running = 0
        self._changed = threading.Condition()

    def __reduce__(self) -> tuple[Any, ...]:
        return Stop, ()

    @contextmanager
    def running(self) -> Generator[None]:
        """Count a chunk as running."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until no chunk is running."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)


@dataclass(frozen=True, slots=True)
class Chunk(Generic[R]):
    """Consecutive records.

    It is an object and not a list, because dask looks for its own objects in each list and dict.

    Attributes:
        number: The chunk's number, from 0.
        first: The index of its first record.
        records: The records.
        stop: Stops the chunk.
        run: A unique text for each run.
    """

    number: int
    first: int
    records: list[R]
    stop: Stop
    run: str

    def __dask_tokenize__(self) -> tuple[str, int]:
        # Otherwise dask visits every value of every record to build the key of a task.
        return self.run, self.number

    def __str__(self) -> str:
        last = self.first + len(self.records) - 1
        return f"record {last}" if last == self.first else f"records {self.first} to {last}"


class Failure:
    """An exception of `enrich`.

    It is kept without its frames, because these hold all records of the chunk.

    Attributes:
        error: The exception, or a `RemoteError` if it cannot be pickled.
        reason: The type and the message of the exception.
        traceback: The traceback in the worker, as text.
    """

    def __init__(self, error: BaseException) -> None:
        # The first frame is that of the caller in this package.
        frames = error.__traceback__ and error.__traceback__.tb_next
        self.reason = described(error)
        self.traceback = "".join(traceback.format_exception(type(error), error, frames))
        self.error = error
        _drop_frames(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_failure, (_pickled(self.error), self.reason, self.traceback)

    def of(self, index: int) -> EnrichmentRecordError:
        """Return the error of the record with this index."""
        error = EnrichmentRecordError(index, self.reason)
        error.__cause__ = self.error
        error.add_note(f"In the worker:\n{self.traceback}")
        return error


class Results(NamedTuple, Generic[T]):
    """The results of a chunk.

    Attributes:
        values: The values in the order of the records, with None for a failed record.
        failures: The failures by the position of the record in the chunk.
    """

    values: list[T | None]
    failures: dict[int, Failure]


def run_chunk(
    number: int,  # noqa: ARG001 - for executors that run equal calls only once, as dask does
    attempt: int,  # noqa: ARG001 - likewise
    enrich: Callable[[R], T],
    chunk: Chunk[R],
) -> Results[T]:
    """Call `enrich` for each record of a chunk, in a worker."""
    values: list[T | None] = []
    failures: dict[int, Failure] = {}
    stop = chunk.stop
    with stop.running():
        for record in chunk.records:
            if stop.is_set:
                raise ChunkNotRunError("the run has ended")
            try:
                value = enrich(record)
            except Exception as error:  # noqa: BLE001 - it is the outcome of this record
                failures[len(values)] = Failure(error)
                values.append(None)
            except SystemExit as error:
                # It would end the worker of some executors, and with it the chunks of others.
                raise ChunkNotRunError(f"enrich raised {described(error)}") from error
            else:
                if isinstance(value, CoroutineType):
                    value.close()
                    raise ChunkNotRunError(_RETURNED_A_COROUTINE)
                values.append(value)
    return Results(values, failures)


def described(error: BaseException) -> str:
    """Return the type and the message of an exception."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the method of the exception may raise anything
        message = "its message cannot be shown"
    return f"{type(error).__qualname__}: {message}" if message else type(error).__qualname__


def _pickled(error: BaseException) -> bytes | None:
    """Pickle an exception, if it can be unpickled again."""
    # Workers of dask and loky have cloudpickle, which also pickles the classes of a script.
    for pickler in filter(None, (pickle, sys.modules.get("cloudpickle"))):
        # Many exceptions can be pickled and not unpickled, and that would break a process pool.
        # Their methods may raise anything.
        with suppress(Exception):
            pickled: bytes = pickler.dumps(error)
            pickle.loads(pickled)  # noqa: S301 - written in the line above
            return pickled
    return None


def _unpickled_failure(pickled: bytes | None, reason: str, traceback_text: str) -> Failure:
    error: BaseException = RemoteError(reason)
    if pickled is not None:
        # The class of the exception may be missing here. Then the RemoteError stands for it.
        with suppress(Exception):
            error = pickle.loads(pickled)  # noqa: S301 - a part of what is being unpickled
    failure = Failure.__new__(Failure)
    failure.error, failure.reason, failure.traceback = error, reason, traceback_text
    return failure


def _drop_frames(error: BaseException) -> None:
    """Remove the frames of an exception and of those that it is chained to."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        # An assignment may be refused, as by a frozen dataclass.
        BaseException.with_traceback(each, None)
        todo += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", each).exceptions
