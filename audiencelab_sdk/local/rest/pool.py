"""The connection pool."""

import logging
import select
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool

# SQL may read this name, and with it the version whose responses this server gives.
APPLICATION_NAME = "PostgREST 14.17"

_psycopg_logger = logging.getLogger("psycopg")


class Pool:
    """Connections to one database, each used by one request at a time.

    Args:
        db_url: The connection string.
        size: The maximum number of connections.
    """

    def __init__(self, db_url: str, size: int) -> None:
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection] = AsyncConnectionPool(
            db_url,
            min_size=1,
            max_size=size,
            timeout=10,
            open=False,
            kwargs={
                "cursor_factory": psycopg.AsyncRawCursor,
                "fallback_application_name": APPLICATION_NAME,
            },
        )
        self._thread = threading.get_ident()

    async def open(self) -> None:
        """Connect."""
        self._thread = threading.get_ident()
        _psycopg_logger.addFilter(self._is_relevant)
        await self._pool.open(wait=True)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()
        _psycopg_logger.removeFilter(self._is_relevant)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[psycopg.AsyncConnection]:
        """Take a working connection from the pool. Its transaction ends with the block.

        The pool's own `check` waits longer after each broken connection, and after a restart of
        PostgreSQL all of them are broken.
        """
        connection = await self._pool.getconn()
        while _is_dead(connection):
            await connection.close()
            await self._pool.putconn(connection)
            connection = await self._pool.getconn()
        try:
            async with connection:
                yield connection
        finally:
            await self._pool.putconn(connection)

    def _is_relevant(self, record: logging.LogRecord) -> bool:
        """Return False for warnings about errors that a request's response reports anyway.

        Only this server's thread is filtered: the rest of the program may use psycopg, too.
        """
        ours = record.thread == self._thread
        return not (ours and record.getMessage().startswith("error ignored terminating"))


def _is_dead(connection: psycopg.AsyncConnection) -> bool:
    """Return whether the server has closed an idle connection, without a round trip.

    An idle connection has data to read only if the server has closed it.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
