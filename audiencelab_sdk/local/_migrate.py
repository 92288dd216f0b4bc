"""Platform objects, then migrations in order, then the seed.

Each step is a function of a connection string, so that a test which needs only a server and a
fresh database can take the steps one by one.
"""

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
_SEED = "supabase/seed.sql"  # as the Supabase CLI records it
_FILE_NAME = re.compile(r"(?P<version>\d+)_(?P<name>.+)\.sql")


def as_role(url: str, role: str, password: str = "postgres") -> str:  # noqa: S107 - development
    """The same database as in `url`, for another role.

    Args:
        url: A connection string of the form `postgresql://…`.
        role: The role to log in as, for example `postgres` or `authenticator`.
        password: Its password; the platform's roles all have the same.
    """
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{quote(role, safe='')}:{quote(password, safe='')}@{place}")
    )


def create_database(admin_url: str, name: str) -> str:
    """Create an empty database on the server and return its superuser's connection string.

    Args:
        admin_url: A superuser's connection string to any database of the server.
        name: The name of the new database.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(admin_url)._replace(path=f"/{quote(name, safe='')}"))


def apply_platform(admin_url: str) -> None:
    """Make what hosted Supabase provides: roles, schemas `auth` and `extensions`, publication.

    Args:
        admin_url: The superuser's connection string to the database.

    Raises:
        MigrationError: PostgreSQL refused a statement.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        _run_file(connection, _HERE / "_platform.sql")


def migration_files() -> list[Path]:
    """The project's migrations, in order.

    Raises:
        MigrationError: The folder is missing or empty.
    """
    files = sorted((_supabase_folder() / "migrations").glob("*.sql"))
    if not files:
        raise MigrationError(f"There are no migrations in {_supabase_folder() / 'migrations'}.")
    return files


def apply_migrations(db_url: str, files: Iterable[Path] | None = None) -> list[str]:
    """Run the migrations that `supabase_migrations.schema_migrations` does not list yet.

    Each file is sent whole, as the Supabase CLI does, and recorded when it has succeeded.

    Args:
        db_url: The database, as role `postgres`: migrations must not need a superuser.
        files: The files, named `<version>_<name>.sql`; by default the project's own.

    Returns:
        The versions that were applied by this call, in order.

    Raises:
        MigrationError: A file is badly named, leaves a transaction open, or holds a statement
            that PostgreSQL refused; the text names file, line and PostgreSQL's message.
    """
    applied: list[str] = []
    with psycopg.connect(db_url, autocommit=True) as connection:
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
            # A session setting of one migration is not there for the next one.
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
        file: The SQL file; by default the project's `seed.sql`.

    Raises:
        MigrationError: The file is missing, or holds a statement that PostgreSQL refused.
    """
    with psycopg.connect(db_url, autocommit=True) as connection:
        _run_file(connection, file or _supabase_folder() / "seed.sql")


def apply_seed_once(db_url: str) -> None:
    """Run the project's seed unless `supabase_migrations.seed_files` lists it.

    What was changed or deleted of the seed's rows since then stays so.

    Args:
        db_url: The database, as role `postgres`.

    Raises:
        MigrationError: The file is missing, or holds a statement that PostgreSQL refused.
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


def _supabase_folder() -> Path:
    # In a wheel the SQL travels inside the package; in a checkout it is the project's own folder.
    places = (_HERE / "supabase", _HERE.parents[1] / "supabase")
    for folder in places:
        if (folder / "migrations").is_dir():
            return folder
    raise MigrationError(
        "The migrations are missing: neither of these folders has any: "
        + ", ".join(str(place / "migrations") for place in places)
    )


def _run_file(connection: psycopg.Connection, file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MigrationError(f"{file} does not exist.") from error
    try:
        # Without parameters this is one simple query, which may hold many statements.
        connection.execute(text.encode())
    except psycopg.Error as error:
        raise MigrationError(_describe(error, file, text)) from error
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise MigrationError(f"{file}: leaves a transaction open; `commit;` is missing.")


def _describe(error: psycopg.Error, file: Path, text: str) -> str:
    place = str(file)
    if error.diag.statement_position:
        # In characters, from 1, and counted from the start of the whole file.
        position = int(error.diag.statement_position)
        place += f":{text.count(chr(10), 0, position - 1) + 1}"
    message = error.diag.message_primary or str(error).strip()
    lines = [f"{place}: {message} (SQLSTATE {error.sqlstate})"]
    for label, value in (
        ("Detail", error.diag.message_detail),
        ("Hint", error.diag.message_hint),
        # A statement that fails while it runs has no position; its context is PL/pgSQL's own.
        ("Where", error.diag.context),
    ):
        if value:
            lines.append(f"{label}: {value}")
    return "\n".join(lines)
