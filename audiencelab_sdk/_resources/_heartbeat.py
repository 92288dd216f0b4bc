"""Do something regularly in the background of a ``with`` block."""

import logging
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial

import anyio

from audiencelab_sdk._loops import spawn

logger = logging.getLogger("audiencelab_sdk")

_SECONDS_TO_STOP = 5.0


class Heartbeat:
    """Calls a function in a thread until it is stopped.

    Args:
        beat: Does what is due, and returns the seconds until the next call. None ends the thread.
        pause: The seconds until the first call.
    """

    def __init__(self, beat: Callable[[], float | None], pause: float) -> None:
        self._beat = beat
        self._pause = pause
        self._stopped = threading.Event()
        # A daemon, so that a request without a response does not keep the program from ending.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="audiencelab heartbeat", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A call that takes longer than a few seconds ends on its own."""
        self._stopped.set()
        self._thread.join(_SECONDS_TO_STOP)

    def _run(self) -> None:
        pause: float | None = self._pause
        try:
            while pause is not None and not self._stopped.wait(pause):
                pause = self._beat()
        except Exception:
            logger.exception("the heartbeat ended")


class AsyncHeartbeat:
    """The asynchronous :class:`Heartbeat`, in a task.

    The task is no child of a task group. A task group would have to be left in the task that
    entered it, and would wrap the exceptions of the block in an ExceptionGroup.
    """

    def __init__(self, beat: Callable[[], Awaitable[float | None]], pause: float) -> None:
        self._beat = beat
        self._pause = pause
        self._task: tuple[anyio.CancelScope, anyio.Event] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = scope, ended = anyio.CancelScope(), anyio.Event()
        spawn(partial(self._run, scope), name="audiencelab heartbeat", on_end=ended.set)

    async def stop(self) -> None:
        """Cancel the task, and wait a few seconds for its end, even if the caller is canceled."""
        if self._task:
            scope, ended = self._task
            scope.cancel()
            with anyio.move_on_after(_SECONDS_TO_STOP, shield=True):
                await ended.wait()

    async def _run(self, scope: anyio.CancelScope) -> None:
        pause: float | None = self._pause
        try:
            with scope:
                while pause is not None:
                    await anyio.sleep(pause)
                    pause = await self._beat()
        except Exception:
            logger.exception("the heartbeat ended")
