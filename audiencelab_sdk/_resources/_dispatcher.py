"""Sends chunks of records to an executor, and takes back what has been done.

The synchronous and the asynchronous run share it.
"""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import uuid4

import anyio

from audiencelab_sdk._resources._chunks import Chunk, Results, Stop, described, run_chunk
from audiencelab_sdk._resources._plans import Plan
from audiencelab_sdk._resources._portions import Portion
from audiencelab_sdk.errors import EnrichmentChunkError, InvalidArgumentError

R = TypeVar("R")
T = TypeVar("T")

_NOTHING = object()
_SECONDS_BETWEEN_LOOKS = 0.01
_HINT = (
    "If you pass a function that creates the executor, such as ProcessPoolExecutor without "
    "parentheses, the run replaces a broken pool"
)


class _Attempt(NamedTuple, Generic[R]):
    """A chunk that was submitted, for the n-th time, to an executor."""

    chunk: Chunk[R]
    number: int
    executor: Executor


class Dispatcher(Generic[R, T]):
    """The chunks of a run.

    Attributes:
        sent: The number of records in the chunks that were submitted.
    """

    def __init__(self, plan: Plan[R, T], notify: Callable[[], None]) -> None:
        self._plan = plan
        self._notify = notify
        self._executor: Executor | None = plan.executor
        self._owns_executor = plan.executor is None
        self._stop = Stop()
        # By the number of the chunk.
        self._futures: dict[int, Future[Results[T]]] = {}
        # Not the unit, under whose name another run may send other chunks to the same cluster.
        self._id = uuid4().hex
        self._chunks = self._split(plan)
        # By the own pool that has broken: the chunks that it may have been running.
        self._suspects: dict[Executor, set[int]] = {}
        # Submitted, and not consumed.
        self._in_flight = 0
        self._is_exhausted = False
        self.sent = 0
        # The attempts that have ended. None only wakes up the thread that waits.
        self._back: queue.SimpleQueue[tuple[_Attempt[R], Future[Results[T]]] | None] = (
            queue.SimpleQueue()
        )

    @property
    def is_idle(self) -> bool:
        """Whether no chunk is left: neither to submit nor to consume."""
        return self._is_exhausted and not self._in_flight

    @property
    def has_ended_calls(self) -> bool:
        """Whether a chunk has come back that was not taken yet."""
        return not self._back.empty()

    def open(self) -> None:
        """Create the executor unless the caller has passed one, and submit the first chunk.

        Raises:
            InvalidArgumentError: `enrich` does not suit the executor, or the executor is shut down.
        """
        executor = self._usable_executor()
        self._plan.check_picklable(executor)
        chunk = next(self._chunks, None)
        if chunk is None:
            self._is_exhausted = True
            return
        try:
            self._send(_Attempt(chunk, 1, executor))
        except Exception as error:
            raise InvalidArgumentError(
                f"executor does not accept calls: {described(error)}"
            ) from error
        self._count(chunk)

    def supply(self) -> None:
        """Submit chunks until `in_flight` are, no record is left, or one has come back."""
        while not self._is_exhausted and self._in_flight < self._plan.in_flight:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._is_exhausted = True
                return
            self._submit(chunk, 1)
            self._count(chunk)
            # Reading records may take long. What has come back must not wait for it.
            if not self._back.empty():
                return

    def take(self, timeout: float = 0.0) -> Portion[T] | None:
        """Wait for a chunk to come back, and return its outcomes.

        None if the chunk has to be tried again, or if none has come back within `timeout` seconds.

        Raises:
            EnrichmentChunkError: It was the last attempt.
        """
        try:
            ended = self._back.get(timeout=timeout)
        except queue.Empty:
            return None
        return self._portion(*ended) if ended else None

    def check_processes(self) -> None:
        """Break an own pool if one of its processes was killed.

        The pool itself may be waiting for the rest of a result that the process was sending.
        """
        executor = self._executor if self._owns_executor else None
        if executor and any(process.exitcode for process in _processes_of(executor)):
            _killed(executor)

    def wake(self) -> None:
        """End the wait of `take` in another thread."""
        self._back.put(None)

    def consumed(self) -> None:
        """Make room for another chunk."""
        self._in_flight -= 1

    def has_more_records(self) -> bool:
        """Whether a record is left that was not submitted. Takes that record."""
        return not self._is_exhausted and next(self._plan.records, _NOTHING) is not _NOTHING

    def close(self) -> None:
        """Cancel what is queued, wait for threads of this process, and shut down an own executor.

        The threads finish their current records first.
        """
        self._stop.is_set = True
        executor = self._executor if self._owns_executor else None
        # Waiting for processes would take until the ends of their chunks.
        if not (self._futures and executor and _killed(executor)):
            for future in tuple(self._futures.values()):
                with suppress(NotImplementedError):  # Parsl cannot cancel
                    future.cancel()
        if executor:
            executor.shutdown(wait=True)
        self._stop.wait()

    async def aclose(self) -> None:
        """Close it without blocking the event loop."""
        # Not a thread of anyio, which would outlive the run.
        thread = ThreadPoolExecutor(1)
        closing = thread.submit(self.close)
        try:
            while not closing.done():  # noqa: ASYNC110 - threads cannot set anyio's events
                await anyio.sleep(_SECONDS_BETWEEN_LOOKS)
            closing.result()
        finally:
            # If this is interrupted, waiting would block the event loop.
            thread.shutdown(wait=closing.done())

    def _portion(self, attempt: _Attempt[R], future: Future[Results[T]]) -> Portion[T] | None:
        chunk = attempt.chunk
        error = _error_of(future)
        if error is None:
            del self._futures[chunk.number]
            return Portion(chunk.first, future.result())
        was_tried = True
        if attempt.executor in self._suspects:
            self._discard(attempt.executor)
            was_tried = chunk.number in self._suspects[attempt.executor]
        if was_tried and attempt.number >= self._plan.attempts:
            raise EnrichmentChunkError(str(chunk), attempt.number, _reason(error)) from error
        self._submit(chunk, attempt.number + was_tried)
        return None

    def _split(self, plan: Plan[R, T]) -> Iterator[Chunk[R]]:
        number = first = 0
        while records := list(islice(plan.records, plan.chunk_size)):
            yield Chunk(number, first, records, self._stop, self._id)
            number, first = number + 1, first + len(records)

    def _count(self, chunk: Chunk[R]) -> None:
        self._in_flight += 1
        self.sent += len(chunk.records)
        # A chunk that is not full ends the records. Some iterators block if they are asked again.
        self._is_exhausted = len(chunk.records) < self._plan.chunk_size

    def _submit(self, chunk: Chunk[R], number: int) -> None:
        try:
            try:
                self._send(_Attempt(chunk, number, self._usable_executor()))
            except BrokenExecutor as error:
                if not self._owns_executor or self._executor is None:
                    reason = f"{described(error)}. {_HINT}"
                    raise EnrichmentChunkError(str(chunk), max(1, number - 1), reason) from error
                self._discard(self._executor)
                self._send(_Attempt(chunk, number, self._usable_executor()))
        except EnrichmentChunkError:
            raise
        except Exception as error:
            raise EnrichmentChunkError(str(chunk), number, described(error)) from error

    def _send(self, attempt: _Attempt[R]) -> None:
        chunk = attempt.chunk
        future = attempt.executor.submit(
            run_chunk, chunk.number, attempt.number, self._plan.enrich, chunk
        )
        # In the order of their submission.
        self._futures.pop(chunk.number, None)
        self._futures[chunk.number] = future
        future.add_done_callback(partial(self._come_back, attempt))

    def _come_back(self, attempt: _Attempt[R], future: Future[Results[T]]) -> None:
        is_intact = self._owns_executor and attempt.executor not in self._suspects
        if is_intact and isinstance(_error_of(future), BrokenExecutor):
            # A pool that breaks fails all of its futures, one after the other. At the first one,
            # the others still say whether they were running.
            running = [number for number, each in tuple(self._futures.items()) if each.running()]
            # A pool fails its oldest chunk first. It also marks chunks as running that it has
            # fetched for later, beyond one for each process.
            processes = _processes_of(attempt.executor)
            others = running[: len(processes) - 1] if processes else running
            self._suspects[attempt.executor] = {attempt.chunk.number, *others}
            # Before Python 3.11.5, the pool waits until it has written all calls to this pipe,
            # which no process reads any more.
            _close_pipe(attempt.executor, "_call_queue", "_reader")
        self._back.put((attempt, future))
        self._notify()

    def _usable_executor(self) -> Executor:
        if self._executor is None:
            create = self._plan.new_executor or _thread_pool
            self._executor = self._plan.checked_executor(create())
        return self._executor

    def _discard(self, executor: Executor) -> None:
        # The chunks of one broken pool come back one after the other.
        if executor is self._executor:
            self._executor = None
            _killed(executor)
            executor.shutdown(wait=True)


def _thread_pool() -> Executor:
    return ThreadPoolExecutor(thread_name_prefix="audiencelab-enrichment")


def _error_of(future: Future[Any]) -> BaseException | None:
    """Return why a future has no result. Others may have canceled it."""
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _killed(executor: Executor) -> bool:
    """Kill the processes of an executor. Returns whether there are any."""
    # The futures then get a BrokenProcessPool, and must not be canceled before: some versions of
    # Python cannot do both.
    processes = _processes_of(executor)
    for process in processes:
        # Not `terminate`: a forked process has the handler of SIGTERM that this process has set.
        try:
            process.kill()
        except AttributeError:
            # Those of loky cannot be killed. They inherit no handlers.
            process.terminate()
    if processes:
        # The pool may be reading half a result. It waits for the rest as long as anyone may write.
        _close_pipe(executor, "_result_queue", "_writer")
    return bool(processes)


def _reason(error: BaseException) -> str:
    """Describe the error of a future, with the cause that the executor states as a traceback."""
    reason = described(error)
    if isinstance(error, BrokenExecutor) and error.__cause__:
        # Quotes enclose the traceback, on lines of their own.
        lines = [line for line in str(error.__cause__).splitlines() if line.strip("'\" ")]
        return " ".join([reason, *lines[-1:]])
    return reason


def _processes_of(executor: Executor | None) -> tuple[Any, ...]:
    # The pools of the standard library and of loky have this attribute.
    processes: dict[int, Any] = getattr(executor, "_processes", None) or {}
    return tuple(processes.values())


def _close_pipe(executor: Executor, name: str, end: str) -> None:
    """Close an end of a pipe between the pool and its processes, if the executor has one."""
    pipe: Any = getattr(getattr(executor, name, None), end, None)
    if pipe is not None:
        pipe.close()
