"""The checked arguments of `run`."""

import inspect
import pickle
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from audiencelab_sdk._arguments import checked_int, checked_text, checked_uuid
from audiencelab_sdk._limits import LONGEST_NAME, MOST_RECORDS
from audiencelab_sdk._resources import _jobs as jobs
from audiencelab_sdk._resources._chunks import described
from audiencelab_sdk.errors import InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob

R = TypeVar("R")
T = TypeVar("T")

NewExecutor: TypeAlias = Callable[[], Executor]


class Plan(Generic[R, T]):
    """The checked arguments of `run`.

    Attributes:
        new_executor: Creates the executor if it belongs to the run.
        executor: The executor of the caller.
    """

    def __init__(
        self,
        job: EnrichmentJob | UUID | str,
        records: Iterable[R],
        enrich: Callable[[R], T],
        *,
        executor: Executor | NewExecutor | None,
        chunk_size: int,
        in_flight: int,
        attempts: int,
        unit: str | None,
        on_error: jobs.OnError,
        show: bool,
    ) -> None:
        self.job_id: UUID = checked_uuid("job", job.id if isinstance(job, EnrichmentJob) else job)
        self.records: Iterator[R] = _checked_records(records)
        if not callable(enrich):
            raise InvalidArgumentError(f"enrich must be a function, not {type(enrich).__name__}")
        self.enrich: Callable[[R], T] = enrich
        self.executor: Executor | None = None
        self.new_executor: NewExecutor | None = None
        if isinstance(executor, Executor):
            self.executor = executor
        elif callable(executor):
            self.new_executor = executor
        elif executor is not None:
            raise InvalidArgumentError(_not_an_executor(executor))
        self.chunk_size: int = checked_int("chunk_size", chunk_size, 1, MOST_RECORDS)
        self.in_flight: int = checked_int("in_flight", in_flight, 1, MOST_RECORDS)
        self.attempts: int = checked_int("attempts", attempts, 1, MOST_RECORDS)
        name = jobs.WHOLE_JOB if unit is None else unit
        self.unit: str = checked_text("unit", name, longest=LONGEST_NAME)
        self.leave: bool = jobs.checked_leave(on_error)
        self.show: bool = show

    @property
    def is_asynchronous(self) -> bool:
        """Whether `enrich` is a coroutine function, or an object or partial of one."""
        function: Any = self.enrich
        while isinstance(function, partial):
            function = function.func
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - not whether, but what kind
        )

    def checked_executor(self, created: object) -> Executor:
        """Return what `new_executor` has created, if it is an executor."""
        if not isinstance(created, Executor):
            raise InvalidArgumentError(_not_an_executor(created))
        return created

    def check_picklable(self, executor: Executor) -> None:
        """Make sure that `enrich` reaches the processes of the executor.

        Only those of the standard library are known to use pickle. The executors of dask and loky
        also send functions that pickle refuses.
        """
        # Imported here, because it imports multiprocessing.
        from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

        if not isinstance(executor, ProcessPoolExecutor):
            return
        try:
            pickle.dumps(self.enrich)
        except Exception as error:
            name = getattr(self.enrich, "__qualname__", type(self.enrich).__qualname__)
            raise InvalidArgumentError(
                f"enrich ({name}) cannot be pickled, which a ProcessPoolExecutor needs: pass a "
                f"function that is defined at the top level of a module. {described(error)}"
            ) from error


def _checked_records(records: Any) -> Iterator[Any]:
    if not isinstance(records, str | bytes | bytearray):
        try:
            return iter(records)
        except TypeError:
            pass
    raise InvalidArgumentError(
        f"records must be an iterable of records, such as a list or a generator, not "
        f"{type(records).__name__}{_hint(records)}"
    )


def _hint(records: Any) -> str:
    if isinstance(records, AsyncIterable):
        return ". The asynchronous client needs a plain iterable as well"
    return ""


def _not_an_executor(value: object) -> str:
    return (
        "executor must be a concurrent.futures.Executor, or a function that creates one, not "
        f"{type(value).__name__}"
    )
