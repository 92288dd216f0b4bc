"""Tasks that belong to an event loop of asyncio or trio, and to no other task."""

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

# Otherwise the garbage collector may end the tasks of asyncio.
_tasks: set[Any] = set()


def event_loop() -> Any:
    """Return what identifies the running event loop: asyncio's loop, or trio's token."""
    token: Any = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


def spawn(
    function: Callable[[], Coroutine[Any, Any, None]], *, context: Context | None = None
) -> None:
    """Run a function in a task of its own, which no cancellation of the caller reaches.

    The event loop cancels it when it ends. The function raises no other exception.

    Args:
        function: The function.
        context: Its context variables. Without it, a copy of the caller's.
    """
    loop, context = event_loop(), copy_context() if context is None else context
    if _is_trio(loop):
        import trio  # noqa: PLC0415 - only where it runs

        trio.lowlevel.spawn_system_task(function, context=context)
        return
    task = loop.create_task(function(), context=context)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def from_any_thread(function: Callable[[], object]) -> Callable[[], object]:
    """Return a function that makes the running event loop call another one soon."""
    loop = event_loop()
    return partial(loop.run_sync_soon if _is_trio(loop) else loop.call_soon_threadsafe, function)


def _is_trio(loop: Any) -> bool:
    return hasattr(loop, "run_sync_soon")
