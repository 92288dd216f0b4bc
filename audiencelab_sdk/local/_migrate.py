"""Apply the platform's SQL, the migrations and the seed.

Each step takes a connection string, so that tests can run the steps separately.
"""

import contextlib
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from audiencelab_sdk.local._errors import MigrationError

_HERE = Path(__file__).parent
_SEED = "supabase/seed.sql"  # the path that the Supabase CLI records
DIRECT_ACCESS = "20261122000500"
"""The version of the migration for direct access."""
_FILE_NAME = re.compile(r"(?P<version>\d+)_(?P<name>.+)\.sql")


def as_role(url: str, role: str, password: str = "postgres") -> str:  # noqa: S107 - development
    """Return the connection string for the same database and another role.

    Args:
        url: A connection string of the form `postgresql://…`.
        role: The role to log in as, for example `postgres` or `authenticator`.
        password: The role's password. All roles of the platform have the same one.
    """
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{quote(role, safe='')}:{quote(password, safe='')}@{place}")
    )


def create_database(admin_url: str, name: str) -> str:
    """Create an empty database and return the superuser's connection string for it.

    Args:
        admin_url: A superuser's connection string to any database of the server.
        name: The name of the new database.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(admin_url)._replace(path=f"/{quote(name, safe='')}"))


def apply_platform(admin_url: str) -> None:
    """Create what hosted Supabase provides: roles, the schemas `auth` and `extensions`, and so on.

    Args:
        admin_url: The superuser's connection string to the database.

    Raises:
        MigrationError: PostgreSQL rejected a statement.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        _run_file(connection, _HERE / "_platform.sql")


def migration_files() -> list[Path]:
    """Return the project's migrations in order.

    Raises:
        MigrationError: The folder is missing or empty.
    """
    files = sorted((_supabase_folder() / "migrations").glob("*.sql"))
    if not files:
        raise MigrationError(f"There are no migrations in {_supabase_folder() / 'migrations'}.")
    return files


def apply_migrations(db_url: str, files: Iterable[Path] | None = None) -> list[str]:
    """Run the migrations that `supabase_migrations.schema_migrations` does not list yet.

    Each file is sent as one query, as the Supabase CLI does, and recorded once it has succeeded.

    Args:
        db_url: The database, as role `postgres`: migrations must not need a superuser.
        files: Files named `<version>_<name>.sql`. By default, the project's migrations.

    Returns:
        The versions that this call applied, in order.

    Raises:
        MigrationError: A file name is invalid, a file leaves a transaction open, or PostgreSQL
            rejected a statement. The message includes file, line and PostgreSQL's message.
    """
    applied: list[str] = []
    # No prepared statements, because `discard all` drops them.
    with psycopg.connect(db_url, autocommit=True, prepare_threshold=None) as connection:
        known = {
            version
            for (version,) in connection.execute(
                "select version from supabase_migrations.schema_migrations"
            )
        }
        for file in migration_files() if files is None else files:
            named = _FILE_NAME.fullmatch(file.name)
            if named is None:
                raise MigrationError(f"{file}: a migration is named <version>_<name>.sql.")
            if named["version"] in known:
                continue
            _run_file(connection, file)
            # Session settings must not carry over to the next migration.
            connection.execute("discard all")
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name) values (%s, %s)",
                (named["version"], named["name"]),
            )
            applied.append(named["version"])
            known.add(named["version"])
    return applied


def apply_seed(db_url: str, file: Path | None = None) -> None:
    """Run the seed: users and accounts for local use.

    Args:
        db_url: The database, as role `postgres`.
        file: The SQL file. By default, the project's `seed.sql`.

    Raises:
        MigrationError: The file is missing, or PostgreSQL rejected a statement.
    """
    with psycopg.connect(db_url, autocommit=True) as connection:
        _run_file(connection, file or _supabase_folder() / "seed.sql")


def apply_seed_once(db_url: str) -> None:
    """Run the project's seed unless `supabase_migrations.seed_files` lists it.

    Later changes to the seed's rows are therefore kept.

    Args:
        db_url: The database, as role `postgres`.

    Raises:
        MigrationError: The file is missing, or PostgreSQL rejected a statement.
    """
    file = _supabase_folder() / "seed.sql"
    with psycopg.connect(db_url, autocommit=True) as connection:
        known = connection.execute(
            "select from supabase_migrations.seed_files where path = %s", (_SEED,)
        ).fetchone()
        if known is None:
            _run_file(connection, file)
            connection.execute(
                "insert into supabase_migrations.seed_files (path, hash) values (%s, %s)",
                (_SEED, sha256(file.read_bytes()).hexdigest()),
            )


def enable_direct_access(db_url: str) -> None:
    """Let requests with the header `x-api-key` run as that API key.

    Does nothing if the database has another pre-request function.

    Args:
        db_url: The database, as role `postgres`.
    """
    with (
        psycopg.connect(db_url, autocommit=True) as connection,
        contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState),
    ):
        connection.execute("select api_keys_direct.enable()")


def _supabase_folder() -> Path:
    # A wheel has the SQL in the package; a checkout has it in the project's root.
    places = (_HERE / "supabase", _HERE.parents[1] / "supabase")
    for folder in places:
        if (folder / "migrations").is_dir():
            return folder
    raise MigrationError(
        "The migrations are missing. Neither of these folders exists: "
        + ", ".join(str(place / "migrations") for place in places)
    )


def _run_file(connection: psycopg.Connection, file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MigrationError(f"{file} does not exist.") from error
    try:
        # A query without parameters may consist of several statements.
        connection.execute(text.encode())
    except psycopg.Error as error:
        raise MigrationError(_describe(error, file, text)) from error
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise MigrationError(f"{file} leaves a transaction open: `commit;` is missing.")


def _describe(error: psycopg.Error, file: Path, text: str) -> str:
    place = str(file)
    if error.diag.statement_position:
        # The position counts characters from the start of the file, beginning with 1.
        position = int(error.diag.statement_position)
        place += f":{text.count(chr(10), 0, position - 1) + 1}"
    message = error.diag.message_primary or str(error).strip()
    lines = [f"{place}: {message} (SQLSTATE {error.sqlstate})"]
    for label, value in (
        ("Detail", error.diag.message_detail),
        ("Hint", error.diag.message_hint),
        # A runtime error has no position, but a PL/pgSQL call stack.
        ("Where", error.diag.context),
    ):
        if value:
            lines.append(f"{label}: {value}")
    return "\n".join(lines)
