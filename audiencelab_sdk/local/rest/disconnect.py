"""Cancel the work for a client that has disconnected."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

_CLIENT_CLOSED_REQUEST = 499  # as in nginx; no client receives it


async def respond_unless_disconnected(
    request: Request, work: Coroutine[Any, Any, Response]
) -> Response:
    """Return the response of `work`, which is canceled if the client disconnects.

    psycopg then cancels the running statement in PostgreSQL, too.

    Args:
        request: The request, whose body has been read.
        work: The coroutine that returns the response.
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else disconnected_response(request)
    finally:
        disconnect.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def disconnected_response(_request: Request, _error: Exception | None = None) -> Response:
    """Return a placeholder response for a client that has disconnected."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
