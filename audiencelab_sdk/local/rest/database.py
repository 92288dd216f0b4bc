"""The schema cache, the settings in the database, and one transaction per request."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg.errors import DeadlockDetected, SerializationFailure
from psycopg.rows import args_row

from audiencelab_sdk.local.rest.config import DatabaseConfig, load_config
from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.introspect import load_catalog
from audiencelab_sdk.local.rest.pool import APPLICATION_NAME, Pool
from audiencelab_sdk.local.rest.pre_request import PreRequest
from audiencelab_sdk.local.rest.render import Statement
from audiencelab_sdk.local.rest.schema import Catalog
from audiencelab_sdk.local.rest.transaction import RequestSettings, Row, apply_settings

logger: logging.Logger = logging.getLogger("audiencelab_sdk.local.rest")

_RELOAD_INTERVAL = 1.0  # seconds between two reloads because of unknown names
_RECONNECT_DELAY = 0.5  # seconds
_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of the REST server.

    Attributes:
        db_url: The connection string of a role that may switch to the roles of all tokens. Its
            setting `pgrst.db_pre_request` names a function that runs before each statement.
        schemas: The exposed schemas. The first is the default.
        anonymous_role: The role of requests without a token.
        jwt_secret: The HS256 secret that signs tokens, or a JWK or JWKS as JSON.
        extra_search_path: Schemas to add to the search path after the exposed one.
        max_rows: The maximum number of rows per response, None for no limit. The setting
            `pgrst.db_max_rows` of the role overrides it.
        pool_size: The maximum number of database connections.
    """

    db_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    schemas: tuple[str, ...] = ("public",)
    anonymous_role: str = "anon"
    extra_search_path: tuple[str, ...] = ("public", "extensions")
    max_rows: int | None = 1000
    pool_size: int = 10


class Database:
    """Runs each statement in its own transaction, with the role of its request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = Pool(settings.db_url, settings.pool_size)
        self._catalog = Catalog()
        self._config = DatabaseConfig()
        self._pre_request = PreRequest()
        self._timezones: frozenset[str] | None = None
        self._loaded_at = 0.0
        self._reloading = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @property
    def catalog(self) -> Catalog:
        """The schema cache."""
        return self._catalog

    @property
    def max_rows(self) -> int | None:
        """The maximum number of rows per response."""
        own = self._config.max_rows
        return self._settings.max_rows if own is None else own

    async def timezones(self) -> frozenset[str]:
        """Return the names of all time zones. PostgreSQL reads files for them, so only once."""
        if self._timezones is None:
            async with self._pool.connection() as connection:
                cursor = await connection.execute("select name from pg_timezone_names")
                self._timezones = frozenset([name async for (name,) in cursor])
        return self._timezones

    async def open(self) -> None:
        """Connect, load the schema cache, and listen for `notify pgrst`."""
        await self._pool.open()
        await self.reload()
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Disconnect."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._pool.close()

    async def reload(self) -> None:
        """Reload the settings of the login role and the schema cache."""
        async with self._pool.connection() as connection:
            self._config = await load_config(connection)
        await self._reload_catalog()
        logger.debug("The settings of the role and the schema cache are loaded.")

    async def reload_if_old(self) -> bool:
        """Reload the schema cache unless it is recent, and return whether it was reloaded."""
        async with self._reloading:
            if time.monotonic() - self._loaded_at < _RELOAD_INTERVAL:
                return False
            await self._reload_catalog()
            return True

    async def _reload_catalog(self) -> None:
        async with self._pool.connection() as connection:
            path = (*reversed(self._settings.extra_search_path), self._settings.schemas[0])
            catalog = await load_catalog(connection, self._settings.schemas, path)
        self._catalog, self._loaded_at = catalog, time.monotonic()

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

        The pre-request function runs before it, in the same transaction. PostgREST repeats a
        transaction that could not be serialized or was in a deadlock without end; here, a function
        that always raises such an error is reported.

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
        for _ in range(_MOST_ATTEMPTS - 1):
            try:
                return await self._run_once(
                    statement, request, read_only=read_only, check=check, plan=plan
                )
            except (SerializationFailure, DeadlockDetected):
                continue
        return await self._run_once(statement, request, read_only=read_only, check=check, plan=plan)

    async def reject(self, error: ApiError, request: RequestSettings, *, read_only: bool) -> None:
        """Raise an error that PostgREST would get from the statement: after the pre-request.

        Raises:
            ApiError: Always, unless PostgreSQL raises an error before it.
            psycopg.Error: The role does not exist, or the pre-request function raised an error.
        """
        async with self._pool.connection() as connection:
            await connection.set_read_only(read_only)
            async with connection.pipeline():
                check_pre_request = await self._begin(connection, request)
            if check_pre_request is not None:
                check_pre_request()
            raise error

    async def _run_once(
        self,
        statement: Statement,
        request: RequestSettings,
        *,
        read_only: bool,
        check: Callable[[Row], None],
        plan: Statement | None,
    ) -> Row:
        async with self._pool.connection() as connection:
            await connection.set_read_only(read_only)
            async with connection.pipeline():
                check_pre_request = await self._begin(connection, request)
                cursor = connection.cursor(row_factory=args_row(Row))
                await cursor.execute(statement.text, statement.values)
            row = await cursor.fetchone()
            if check_pre_request is not None:
                check_pre_request()
            assert row is not None  # noqa: S101 - every statement returns one row
            check(row)
            most = self.max_rows
            if plan and (row.total is None or most is None or row.total > most):
                cursor_of_plan = await connection.execute(plan.text, plan.values)
                planned = await cursor_of_plan.fetchone()
                assert planned is not None  # noqa: S101 - every plan is one row
                estimate = int(planned[0][0]["Plan"]["Plan Rows"])
                counted = 0 if row.total is None else row.total
                # PostgREST does not count beyond the limit.
                row = row._replace(
                    total=max(estimate, counted if most is None else min(counted, most + 1))
                )
        return row

    async def _begin(
        self, connection: psycopg.AsyncConnection, request: RequestSettings
    ) -> Callable[[], None] | None:
        """Send the settings, and the call of the pre-request function if there is one."""
        config = self._config
        role_settings = config.role_settings.get(request.role, ())
        await apply_settings(connection, request, self._settings.extra_search_path, role_settings)
        if config.pre_request is None:
            return None
        return await self._pre_request.call(connection, config.pre_request)

    async def _listen(self) -> None:
        """Reload on `notify pgrst` and after reconnecting.

        PostgREST reads the role's settings on each of the three payloads.
        """
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._settings.db_url,
                    autocommit=True,
                    fallback_application_name=APPLICATION_NAME,
                ) as connection:
                    await connection.execute("listen pgrst")
                    await self.reload()
                    async for notification in connection.notifies():
                        if notification.payload in {"", "reload schema", "reload config"}:
                            await self.reload()
            except psycopg.Error as error:
                logger.warning("Cannot listen for notifications; retrying: %s", error)
            await asyncio.sleep(_RECONNECT_DELAY)
