from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._sql import Database, Tenant
from tests.database._tools import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

numbers = count()
# None is version 17, which the extra `local` installs.
PROGRAMS = {"PostgreSQL 17": None, "PostgreSQL 15": Path("/usr/lib/postgresql/15/bin")}


@pytest.fixture(scope="session", params=PROGRAMS)
def programs(request: pytest.FixtureRequest) -> Path | None:
    """The programs of each supported PostgreSQL version; None for those of the wheel."""
    folder = PROGRAMS[request.param]
    if folder and not folder.is_dir():
        reason = f"{request.param} is not installed: apt-get install postgresql-15"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def server(programs: Path | None) -> Iterator[PostgresServer]:
    with start_server(programs) as server:
        yield server


@pytest.fixture
def bare_server(programs: Path | None) -> Iterator[PostgresServer]:
    """A server for one test, because all databases of a server share role api_key."""
    with start_server(programs) as server:
        yield server


@pytest.fixture(scope="session")
def db(server: PostgresServer) -> Database:
    """A migrated database that tests share. Each test creates its own accounts."""
    return make_database(server, "contract")


@pytest.fixture
def tenant(db: Database) -> Tenant:
    return db.add_tenant()


@pytest.fixture
def fresh(server: PostgresServer) -> Database:
    """A Supabase database with V3's base schema, before the other migrations."""
    db = make_database(server, f"fresh_{next(numbers)}", migrated=False)
    migrate.apply_migrations(
        migrate.as_role(db.admin_url, "postgres"), migrate.migration_files()[:1]
    )
    return db


@contextmanager
def start_server(
    programs: Path | None, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresServer]:
    with pytest.MonkeyPatch.context() as patch:
        if programs:
            patch.setenv("AUDIENCELAB_POSTGRES_BIN", str(programs))
        server = PostgresServer(settings={"track_functions": "all", **(settings or {})})
        server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def start_server_with(
    extension: str, package: str, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresServer]:
    """A server of Debian's PostgreSQL 15, for which Debian has a package with the extension."""
    control = Path("/usr/share/postgresql/15/extension") / f"{extension}.control"
    if not control.is_file():
        unavailable(f"{extension} is not installed: apt-get install {package}")
    with start_server(PROGRAMS["PostgreSQL 15"], settings) as server:
        yield server


def make_database(server: PostgresServer, name: str, *, migrated: bool = True) -> Database:
    url = migrate.create_database(server.admin_url, name)
    migrate.apply_platform(url)
    if migrated:
        migrate.apply_migrations(migrate.as_role(url, "postgres"))
        migrate.apply_seed(migrate.as_role(url, "postgres"))
    return Database(url, migrate.as_role(url, "authenticator"))
