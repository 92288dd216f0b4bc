"""Do something regularly in the background of a ``with`` block."""

import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeAlias

import anyio

logger = logging.getLogger("audiencelab_sdk")

_SECONDS_TO_STOP = 5.0

_Stop: TypeAlias = Callable[[], Awaitable[object]]


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
        self._cancel_and_wait: _Stop | None = None

    def start(self) -> None:
        """Start the task."""
        self._cancel_and_wait = (_start_in_trio if _runs_in_trio() else _start_in_asyncio)(
            self._run
        )

    async def stop(self) -> None:
        """Cancel the task, and wait until it has ended, even if the caller is canceled."""
        if self._cancel_and_wait:
            with anyio.move_on_after(_SECONDS_TO_STOP, shield=True):
                await self._cancel_and_wait()

    async def _run(self) -> None:
        pause: float | None = self._pause
        try:
            while pause is not None:
                await anyio.sleep(pause)
                pause = await self._beat()
        except Exception:
            # An exception of a system task would end all tasks of trio.
            logger.exception("the heartbeat ended")


def _runs_in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def _start_in_trio(function: Callable[[], Awaitable[object]]) -> _Stop:
    import trio  # noqa: PLC0415 - an application that uses trio has imported it

    scope, ended = trio.CancelScope(), trio.Event()

    async def run() -> None:
        try:
            with scope:
                await function()
        finally:
            ended.set()

    async def stop() -> None:
        scope.cancel()
        await ended.wait()

    trio.lowlevel.spawn_system_task(run, name="audiencelab heartbeat", context=copy_context())
    return stop


def _start_in_asyncio(function: Callable[[], Coroutine[Any, Any, object]]) -> _Stop:
    import asyncio  # noqa: PLC0415 - see _client

    task = asyncio.get_running_loop().create_task(function(), name="audiencelab heartbeat")

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    return stop
