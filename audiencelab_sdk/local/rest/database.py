"""The connection pool, the catalog's upkeep, and the one transaction of each request."""

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

_RELOAD_INTERVAL = 1.0  # seconds between two reloads that unknown names ask for
_RECONNECT_DELAY = 0.5


@dataclass(frozen=True)
class Settings:
    """What the REST server serves, and how.

    Attributes:
        db_url: Connection string of a role that may become the roles of all tokens.
        schemas: The exposed schemas; the first is the default one.
        anonymous_role: The role of requests without a token.
        jwt_secret: The secret that signs tokens (HS256), or the text of a JWK or JWKS.
        extra_search_path: Schemas that SQL finds without naming them, besides the exposed one.
        max_rows: The most rows that one answer holds.
        pool_size: The most connections to the database.
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
    """What SQL can read of a request, as settings of its transaction."""

    schema: str
    role: str
    claims: str = field(repr=False)
    method: str
    path: str
    headers: str = field(repr=False)
    cookies: str = field(repr=False)


class Row(NamedTuple):
    """The one row that a statement gives."""

    total: int | None
    rows: int
    inserted: int | None
    body: str
    response_headers: str | None
    response_status: str | None


class Database:
    """Runs statements, each in a transaction of its own and as the role of its request."""

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

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Whether a line of psycopg's log is not about an error that a request is answered with.

        The filter is for this server's thread only; the rest of the program may use psycopg, too.
        """
        ours = record.thread == self._thread
        return not (ours and record.getMessage().startswith("error ignored terminating"))

    @property
    def catalog(self) -> Catalog:
        """What the exposed schemas hold, as last read."""
        return self._catalog

    async def open(self) -> None:
        """Connect, read the catalog, and listen for `notify pgrst`."""
        self._thread = threading.get_ident()
        _psycopg_logger.addFilter(self._is_news)
        await self._pool.open(wait=True)
        await self.reload()
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Disconnect."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._pool.close()
        _psycopg_logger.removeFilter(self._is_news)

    async def reload(self) -> None:
        """Read the catalog again."""
        async with self._connection() as connection:
            path = (*reversed(self._settings.extra_search_path), self._settings.schemas[0])
            catalog = await load_catalog(connection, self._settings.schemas, path)
        self._catalog, self._loaded_at = catalog, time.monotonic()

    async def reload_if_old(self) -> bool:
        """Read the catalog again unless that has just been done, and say whether it was."""
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
        """Run a statement in a transaction, which is undone when `check` raises.

        Args:
            statement: The statement.
            request: The settings of the transaction.
            read_only: Whether the transaction may not write.
            check: Called with the row that the statement gives.
            plan: Plans all rows, for a total that is the planner's estimate: always if the
                statement counts none, else where it counts more than `max_rows`.

        Raises:
            psycopg.Error: PostgreSQL refused the statement or could not be reached.
        """
        async with self._connection() as connection:
            await connection.set_read_only(read_only)
            async with connection.pipeline():
                await connection.execute(_SETTINGS, self._values(connection, request))
                cursor = connection.cursor(row_factory=args_row(Row))
                await cursor.execute(statement.text, statement.values)
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - every statement gives one row
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
        """A live connection of the pool; its transaction ends with the block.

        The pool's own `check` waits longer and longer between dead connections, and after a
        restart of PostgreSQL all of them are dead.
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
        """Reload the catalog on `notify pgrst, 'reload schema'`, and after a lost connection."""
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
                logger.warning("No notifications from PostgreSQL for now: %s", error)
            await asyncio.sleep(_RECONNECT_DELAY)


def _is_dead(connection: psycopg.AsyncConnection) -> bool:
    """Whether the server has closed an idle connection, found out without a round trip.

    It leaves its farewell to be read then; a connection that is alive has nothing to read.
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
