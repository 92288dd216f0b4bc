"""Pools: the connections of a client, kept apart by process and event loop."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import TypeAlias

import anyio
import anyio.lowlevel
import httpx

from audiencelab_sdk._http._connections import AsyncConnections, Connections, closed
from audiencelab_sdk._http._operation import Response
from audiencelab_sdk._http._settings import Settings


class Pool:
    """The connections of a client and of those derived from it: of each process its own.

    A forked child shares the sockets of its parent, so it never uses its parent's connections, and
    keeps them, because closing them may reach the parent's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_closed = False
        self._connections = {_process(): Connections(settings)}

    def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response; raises what :class:`Connections` does."""
        if self._is_closed:
            raise closed()
        process = _process()
        connections = self._connections.get(process)
        if connections is None:
            # No lock: at the fork, a thread that is not in the child may have held it.
            connections = self._connections.setdefault(process, Connections(self._settings))
        return connections.exchange(request)

    def close(self) -> None:
        """Close the connections of this process; later requests raise ClientClosedError."""
        self._is_closed = True
        connections = self._connections.get(_process())
        if connections:
            connections.close()


class AsyncPool:
    """The connections of an asynchronous client: of each process and event loop its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_closed = False
        # For the first event loop. Made here, so that an unusable environment shows at once. In a
        # list, because of threads that come at the same time only one can pop it.
        self._unused = [AsyncConnections(settings)]
        self._by_loop: dict[tuple[object, object], tuple[AsyncConnections, _Lifetime]] = {}

    async def exchange(self, request: httpx.Request) -> Response:
        """Send a request and return the response; raises what :class:`Connections` does."""
        if self._is_closed:
            raise closed()
        loop = (_process(), _event_loop())
        entry = self._by_loop.get(loop)
        if entry is None:
            self._forget_closed_loops()
            try:
                connections = self._unused.pop()
            except IndexError:
                connections = AsyncConnections(self._settings)
            lifetime = self._live(loop, connections)
            entry = self._by_loop[loop] = (connections, lifetime)
            await anext(lifetime)
        return await entry[0].exchange(request)

    async def aclose(self) -> None:
        """Close the connections of this event loop; later requests raise ClientClosedError.

        Those of other event loops are closed when their loops end.
        """
        self._is_closed = True
        for connections in self._unused:
            await connections.aclose()
        entry = self._by_loop.get((_process(), _event_loop()))
        if entry:
            await entry[1].aclose()

    async def _live(
        self, loop: tuple[object, object], connections: AsyncConnections
    ) -> "_Lifetime":
        """Close the connections when the event loop ends, which closes its generators."""
        try:
            yield
        finally:
            del self._by_loop[loop]
            with anyio.CancelScope(shield=True):
                await connections.aclose()

    def _forget_closed_loops(self) -> None:
        process = _process()
        for owner, loop in list(self._by_loop):
            if (
                owner == process
                and isinstance(loop, asyncio.AbstractEventLoop)
                and loop.is_closed()
            ):
                self._by_loop.pop((owner, loop), None)


_Lifetime: TypeAlias = AsyncGenerator[None]
_forks = 0


def _process() -> tuple[int, int]:
    """This process: the pid alone may come again, and forks by C code run no hooks."""
    return (os.getpid(), _forks)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_fork)


def _event_loop() -> object:
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)
