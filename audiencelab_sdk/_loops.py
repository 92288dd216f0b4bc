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
    function: Callable[[], Coroutine[Any, Any, None]],
    *,
    name: str,
    context: Context | None = None,
    on_end: Callable[[], object] = lambda: None,
) -> None:
    """Run a function in a task of its own, which no cancellation of the caller reaches.

    The task is canceled when the event loop ends. The function must handle its own exceptions.

    Args:
        function: The function.
        name: The name of the task.
        context: Its context variables. Without it, a copy of the caller's.
        on_end: Called when the task has ended, even if it was canceled before its first step.
    """
    loop = event_loop()
    if _is_trio(loop):
        import trio  # noqa: PLC0415 - only where it runs

        async def run() -> None:
            try:
                await function()
            finally:
                on_end()

        # The default of trio is the context of the loop.
        context = copy_context() if context is None else context
        trio.lowlevel.spawn_system_task(run, name=name, context=context)
        return
    # Task factories of applications may take no further arguments.
    task = loop.create_task(function(), **({} if context is None else {"context": context}))
    task.set_name(name)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)

    def end(_: Any) -> None:
        on_end()

    task.add_done_callback(end)


def from_any_thread(function: Callable[[], object]) -> Callable[[], object]:
    """Return a function that makes the running event loop call another one soon."""
    loop = event_loop()
    return partial(loop.run_sync_soon if _is_trio(loop) else loop.call_soon_threadsafe, function)


def _is_trio(loop: Any) -> bool:
    return hasattr(loop, "run_sync_soon")
