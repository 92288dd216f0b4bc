"""Executors without threads, which run a call when a test says so."""

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Recording(Executor):
    """Keeps the calls. `run` runs the oldest one that is not canceled.

    Attributes:
        calls: All calls, each with its function and its arguments.
        is_down: Whether it is shut down.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.queued: list[tuple[Future[Any], tuple[Any, ...]]] = []
        self.is_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.is_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        assert not kwargs
        future: Future[Any] = Future()
        self.calls.append((fn, *args))
        self.queued.append((future, (fn, *args)))
        return future

    def run(self) -> None:
        future, (function, *arguments) = self.queued.pop(0)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - as executors do
                future.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """Let the oldest call end with an error of the executor."""
        future, _ = self.queued.pop(0)
        future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.is_down = True


class Inline(Recording):
    """Runs each call at once, with what another process would get."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*pickle.loads(pickle.dumps((fn, *args))), **kwargs)
        self.run()
        return future
