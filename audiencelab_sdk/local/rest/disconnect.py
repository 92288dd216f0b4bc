"""A client that goes away: nobody waits for the answer any more, so its work is stopped."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

_CLIENT_CLOSED_REQUEST = 499  # nginx's status, for the log: nobody receives it


async def respond_unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer that `work` gives; it is cancelled when the client closes the connection.

    PostgreSQL is told, too, when psycopg is cancelled in a statement.

    Args:
        request: The request, its body read.
        work: What makes the answer.
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else answer_nobody(request)
    finally:
        disconnect.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def answer_nobody(_request: Request, _error: Exception | None = None) -> Response:
    """What stands in for an answer that nobody receives, also where a body breaks off."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
