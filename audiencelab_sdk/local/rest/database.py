"""The connection pool, the schema cache, and one transaction per request."""

import asyncio
import logging
import select
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
from psycopg.rows import args_row
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from audiencelab_sdk.local.rest.introspect import load_catalog
from audiencelab_sdk.local.rest.render import Statement
from audiencelab_sdk.local.rest.schema import Catalog

logger: logging.Logger = logging.getLogger("audiencelab_sdk.local.rest")
_psycopg_logger = logging.getLogger("psycopg")

_RELOAD_INTERVAL = 1.0  # seconds between two reloads because of unknown names
_RECONNECT_DELAY = 0.5  # seconds


@dataclass(frozen=True)
class Settings:
    """Settings of the REST server.

    Attributes:
        db_url: The connection string of a role that may switch to the roles of all tokens.
        schemas: The exposed schemas. The first is the default.
        anonymous_role: The role of requests without a token.
        jwt_secret: The HS256 secret that signs tokens, or a JWK or JWKS as JSON.
        extra_search_path: Schemas to add to the search path after the exposed one.
        max_rows: The maximum number of rows per response.
        pool_size: The maximum number of database connections.
    """

    db_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    schemas: tuple[str, ...] = ("public",)
    anonymous_role: str = "anon"
    extra_search_path: tuple[str, ...] = ("public", "extensions")
    max_rows: int = 1000
    pool_size: int = 10


@dataclass(frozen=True)
class RequestSettings:
    """The parts of a request that SQL can read, as settings of its transaction."""

    schema: str
    role: str
    claims: str = field(repr=False)
    method: str
    path: str
    headers: str = field(repr=False)
    cookies: str = field(repr=False)


class Row(NamedTuple):
    """The one row that every statement returns."""

    total: int | None
    rows: int
    inserted: int | None
    body: str
    response_headers: str | None
    response_status: str | None


class Database:
    """Runs each statement in its own transaction, with the role of its request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection] = AsyncConnectionPool(
            settings.db_url,
            min_size=1,
            max_size=settings.pool_size,
            timeout=10,
            open=False,
            kwargs={"cursor_factory": psycopg.AsyncRawCursor},
        )
        self._catalog = Catalog()
        self._loaded_at = 0.0
        self._reloading = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._thread = threading.get_ident()

    def _is_relevant(self, record: logging.LogRecord) -> bool:
        """Return False for warnings about errors that a request's response reports anyway.

        Only this server's thread is filtered: the rest of the program may use psycopg, too.
        """
        ours = record.thread == self._thread
        return not (ours and record.getMessage().startswith("error ignored terminating"))

    @property
    def catalog(self) -> Catalog:
        """The schema cache."""
        return self._catalog

    async def open(self) -> None:
        """Connect, load the schema cache, and listen for `notify pgrst`."""
        self._thread = threading.get_ident()
        _psycopg_logger.addFilter(self._is_relevant)
        await self._pool.open(wait=True)
        await self.reload()
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Disconnect."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._pool.close()
        _psycopg_logger.removeFilter(self._is_relevant)

    async def reload(self) -> None:
        """Reload the schema cache."""
        async with self._connection() as connection:
            path = (*reversed(self._settings.extra_search_path), self._settings.schemas[0])
            catalog = await load_catalog(connection, self._settings.schemas, path)
        self._catalog, self._loaded_at = catalog, time.monotonic()

    async def reload_if_old(self) -> bool:
        """Reload the schema cache unless it is recent, and return whether it was reloaded."""
        async with self._reloading:
            if time.monotonic() - self._loaded_at < _RELOAD_INTERVAL:
                return False
            await self.reload()
            return True

    async def run(
        self,
        statement: Statement,
        request: RequestSettings,
        *,
        read_only: bool,
        check: Callable[[Row], None],
        plan: Statement | None = None,
    ) -> Row:
        """Run a statement in a transaction, which is rolled back if `check` raises.

        Args:
            statement: The statement.
            request: The settings of the transaction.
            read_only: Whether the transaction is read-only.
            check: Called with the row that the statement returns.
            plan: An EXPLAIN of all rows. The planner's estimate replaces the total if the
                statement does not count rows, or counts more than `max_rows`.

        Raises:
            psycopg.Error: PostgreSQL rejected the statement or could not be reached.
        """
        async with self._connection() as connection:
            await connection.set_read_only(read_only)
            async with connection.pipeline():
                await connection.execute(_SETTINGS, self._values(connection, request))
                cursor = connection.cursor(row_factory=args_row(Row))
                await cursor.execute(statement.text, statement.values)
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - every statement returns one row
            check(row)
            most = self._settings.max_rows
            if plan and (row.total is None or row.total > most):
                cursor_of_plan = await connection.execute(plan.text, plan.values)
                planned = await cursor_of_plan.fetchone()
                assert planned is not None  # noqa: S101 - every plan is one row
                estimate = int(planned[0][0]["Plan"]["Plan Rows"])
                row = row._replace(total=estimate if row.total is None else max(estimate, most + 1))
        return row

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[psycopg.AsyncConnection]:
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

    def _values(
        self, connection: psycopg.AsyncConnection, request: RequestSettings
    ) -> Sequence[str]:
        path = dict.fromkeys((request.schema, *self._settings.extra_search_path))
        search_path = SQL(", ").join(map(Identifier, path)).as_string(connection)
        return (
            search_path,
            request.role,
            request.claims,
            request.method,
            request.path,
            request.headers,
            request.cookies,
        )

    async def _listen(self) -> None:
        """Reload the schema cache on `notify pgrst, 'reload schema'` and after reconnecting."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._settings.db_url, autocommit=True
                ) as connection:
                    await connection.execute("listen pgrst")
                    await self.reload()
                    async for notification in connection.notifies():
                        if notification.payload in {"", "reload schema"}:
                            await self.reload()
            except psycopg.Error as error:
                logger.warning("Cannot listen for notifications; retrying: %s", error)
            await asyncio.sleep(_RECONNECT_DELAY)


def _is_dead(connection: psycopg.AsyncConnection) -> bool:
    """Return whether the server has closed an idle connection, without a round trip.

    An idle connection has data to read only if the server has closed it.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


_SETTINGS = """
select
  set_config('search_path', $1, true),
  set_config('role', $2, true),
  set_config('request.jwt.claims', $3, true),
  set_config('request.method', $4, true),
  set_config('request.path', $5, true),
  set_config('request.headers', $6, true),
  set_config('request.cookies', $7, true)
"""
