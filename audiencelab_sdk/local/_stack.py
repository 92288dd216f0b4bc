"""`LocalStack`: start and stop the embedded stack."""

import contextlib
import errno
import json
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import anyio.to_thread
import psycopg

from audiencelab_sdk.local import _keys
from audiencelab_sdk.local._errors import LocalStackError
from audiencelab_sdk.local._migrate import (
    DIRECT_ACCESS,
    apply_migrations,
    apply_platform,
    apply_seed_once,
    as_role,
    enable_direct_access,
)
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local._postgrest import PostgrestServer, RestChoice, find_postgrest
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.gateway import Gateway
from audiencelab_sdk.local.rest.proxy import create_proxy
from audiencelab_sdk.local.rest.server import BackgroundServer


@dataclass(frozen=True)
class _Running:
    """The state of a running stack."""

    url: str
    db_url: str = field(repr=False)
    resources: contextlib.ExitStack = field(repr=False)


class LocalStack:
    """PostgreSQL with the project's schema and seed, and a REST API like Supabase's.

    For tests, examples and development on a machine without Docker and Supabase. Use it as a
    context manager, sync or async, or call `start` and `stop`. It listens on 127.0.0.1 only. It
    stops with the Python process and leaves nothing behind, even after a crash.

    The data is deleted when the stack stops, unless `data_dir` is given. A stack with `data_dir`
    applies new migrations each time it starts.

    ::

        with LocalStack() as stack:
            client = AudienceLab(stack.url, stack.secret_key)

    Args:
        port: The port of the REST API. By default, any free one.
        data_dir: The folder that keeps the data, created if necessary.
        rest: The server of the REST API: `embedded`, this package's own REST application, or
            `postgrest`, the program at `AUDIENCELAB_POSTGREST_BIN` or on the PATH. By default,
            PostgREST if it is installed.

    Raises:
        LocalStackError: The stack is already running, or its port is in use (from `start`).
        PostgresNotFoundError: PostgreSQL is not installed (from `start`).
        PostgresStartError: PostgreSQL did not start, and the message ends with its log; or
            `data_dir` is in use, or holds other files or data of another version (from `start`).
        PostgrestNotFoundError: PostgREST was chosen but is not installed (from `start`).
        PostgrestStartError: PostgREST did not start; the message ends with its output (from
            `start`).
        MigrationError: A migration is missing, or PostgreSQL rejected it (from `start`).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        data_dir: str | os.PathLike[str] | None = None,
        rest: RestChoice | None = None,
    ) -> None:
        self._port = port
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._rest: RestChoice | None = rest
        self._running: _Running | None = None

    def __repr__(self) -> str:
        return f"<LocalStack {self._running.url if self._running else 'not running'}>"

    @property
    def url(self) -> str:
        """The project's URL for Supabase clients, such as `http://127.0.0.1:54321`."""
        return self._require_running().url

    @property
    def db_url(self) -> str:
        """The connection string for the role `postgres`, with the password."""
        return self._require_running().db_url

    @property
    def jwt_secret(self) -> str:
        """The secret that signs this stack's access tokens (HS256)."""
        return _keys.JWT_SECRET

    @property
    def signing_key(self) -> str:
        """A private key whose tokens this stack accepts (ES256), as the JSON text of a JWK."""
        return json.dumps(_keys.SIGNING_KEY)

    @property
    def rsa_signing_key(self) -> str:
        """A private key like `signing_key`, but RSA (RS256). Each process has another one."""
        return json.dumps(_keys.rsa_signing_key())

    @property
    def publishable_key(self) -> str:
        """The project's public key (`sb_publishable_…`). Requests run as role `anon`."""
        return _keys.PUBLISHABLE_KEY

    @property
    def secret_key(self) -> str:
        """The project's secret key (`sb_secret_…`).

        Requests run as `service_role`, without row level security. From a browser it is rejected.
        """
        return _keys.SECRET_KEY

    @property
    def anon_key(self) -> str:
        """The older form of the public key, a JWT. Requests run as role `anon`."""
        return _keys.project_key("anon")

    @property
    def service_role_key(self) -> str:
        """The older form of the secret key, a JWT.

        Requests run as `service_role`, without row level security.
        """
        return _keys.project_key("service_role")

    def start(self) -> None:
        """Start PostgreSQL, apply the migrations and the seed, and serve the REST API."""
        if self._running is not None:
            raise LocalStackError(f"This stack is already running at {self._running.url}.")
        postgrest = find_postgrest(self._rest)
        with contextlib.ExitStack() as resources:
            postgres = resources.enter_context(PostgresServer(data_dir=self._data_dir))
            db_url = as_role(postgres.admin_url, "postgres")
            apply_platform(postgres.admin_url)
            applied = apply_migrations(db_url)
            apply_seed_once(db_url)
            # At later starts, whether it is enabled is part of the data.
            if DIRECT_ACCESS in applied:
                enable_direct_access(db_url)
            settings = Settings(
                db_url=as_role(postgres.admin_url, "authenticator"),
                jwt_secret=_keys.verifying_keys(),
            )
            if postgrest is None:
                api = create_app(settings)
            else:
                program = resources.enter_context(PostgrestServer(postgrest, settings))
                api = create_proxy(program.url)
            server = BackgroundServer(Gateway(api, _keys.tokens_of_keys()), self._port)
            resources.callback(server.stop)
            port = self._serve(server)
            self._running = _Running(f"http://127.0.0.1:{port}", db_url, resources.pop_all())

    def stop(self) -> None:
        """Stop the stack and delete its temporary data. Does nothing if it is not running."""
        running, self._running = self._running, None
        if running is not None:
            running.resources.close()

    def create_user(self, email: str | None = None) -> UUID:
        """Create a user (a row in `auth.users`) and return its id.

        Raises:
            psycopg.errors.UniqueViolation: A user with this email address exists.
        """
        return self._insert("insert into auth.users (email) values (%s) returning id", email)

    def create_account(self, name: str, *, owner: UUID) -> UUID:
        """Create a team account (a row in `public.accounts`) and return its id.

        Args:
            name: The account's name.
            owner: The user who becomes a member with the role `owner`.

        Raises:
            psycopg.errors.ForeignKeyViolation: The user does not exist.
        """
        return self._insert(
            """
            with account as (
              insert into public.accounts (name, is_personal_account, primary_owner_user_id)
              values (%s, false, %s)
              returning id, primary_owner_user_id
            )
            insert into public.accounts_memberships (account_id, user_id, account_role)
            select id, primary_owner_user_id, 'owner' from account
            returning account_id
            """,
            name,
            owner,
        )

    def add_member(self, account_id: UUID, user_id: UUID, role: str = "member") -> None:
        """Add a user to an account (a row in `public.accounts_memberships`).

        Raises:
            psycopg.errors.ForeignKeyViolation: The account, user or role does not exist.
            psycopg.errors.UniqueViolation: The user is already a member.
        """
        self._insert(
            """
            insert into public.accounts_memberships (account_id, user_id, account_role)
            values (%s, %s, %s)
            returning account_id
            """,
            account_id,
            user_id,
            role,
        )

    def access_token(self, user_id: UUID, *, expires_in: timedelta = timedelta(hours=1)) -> str:
        """Return an access token like the one that Supabase Auth issues at login.

        Args:
            user_id: The user's id, which `auth.uid()` returns.
            expires_in: The token's lifetime. A negative value gives an expired token.
        """
        now = int(time.time())
        claims = {
            "role": "authenticated",
            "sub": str(user_id),
            "aud": "authenticated",
            "iat": now,
            "exp": now + int(expires_in.total_seconds()),
        }
        return _keys.sign(claims)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.stop)

    def _serve(self, server: BackgroundServer) -> int:
        try:
            return server.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"Port {self._port} cannot be used: another program listens on it."
                raise LocalStackError(message) from error
            raise LocalStackError(f"Port {self._port} cannot be used: {error}") from error
        except RuntimeError as error:
            raise LocalStackError(str(error)) from error

    def _require_running(self) -> _Running:
        if self._running is None:
            raise LocalStackError(
                "This stack is not running: use `with LocalStack() as stack:` or call start()."
            )
        return self._running

    def _insert(self, query: Any, *values: object) -> UUID:
        with psycopg.connect(self.db_url) as connection:
            row = connection.execute(query, values).fetchone()
        assert row is not None  # noqa: S101 - `returning` returns a row
        inserted: UUID = row[0]
        return inserted
