"""Platform, migrations and seed, on databases of a server without a REST API."""

from pathlib import Path

import psycopg
import pytest

from audiencelab_sdk.local import MigrationError, _migrate
from audiencelab_sdk.local._migrate import (
    apply_migrations,
    apply_platform,
    apply_seed,
    as_role,
    create_database,
)
from audiencelab_sdk.local._postgres import PostgresServer


@pytest.fixture
def database(empty_database: str) -> str:
    """A database with the platform's objects, as role postgres."""
    apply_platform(empty_database)
    return as_role(empty_database, "postgres")


@pytest.fixture
def write(tmp_path: Path) -> "Writer":
    return Writer(tmp_path)


class Writer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, text: str) -> Path:
        file = self._folder / name
        file.write_text(text)
        return file


def test_a_database_name_is_quoted(postgres: PostgresServer) -> None:
    url = create_database(postgres.admin_url, 'odd "name"; drop/é')
    with psycopg.connect(url) as connection:
        assert connection.execute("select current_database()").fetchone() == ('odd "name"; drop/é',)


def test_the_platform_can_be_applied_again(empty_database: str) -> None:
    apply_platform(empty_database)
    apply_platform(empty_database)


def test_roles_are_as_on_hosted_supabase(database: str) -> None:
    with psycopg.connect(database) as connection:
        roles = {
            name: rest
            for name, *rest in connection.execute(
                """
                select rolname, rolcanlogin, rolsuper, rolbypassrls, rolinherit from pg_roles
                where rolname in
                  ('anon', 'authenticated', 'service_role', 'authenticator', 'postgres')
                """
            )
        }
    assert roles == {
        "anon": [False, False, False, True],
        "authenticated": [False, False, False, True],
        "service_role": [False, False, True, True],
        "authenticator": [True, False, False, False],
        "postgres": [True, False, True, True],
    }


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "authenticator"])
def test_postgres_may_become_and_grant_the_roles(database: str, role: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(f"set role {role}".encode())
        connection.execute("reset role")
        connection.execute("create role someone")
        connection.execute(f"grant {role} to someone".encode())
        connection.rollback()


def test_a_new_table_belongs_to_all_api_roles(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table public.note (id int)")
        connection.execute("create function public.f() returns int language sql return 1")
        for role in ("anon", "authenticated", "service_role"):
            row = connection.execute(
                "select has_table_privilege(%s, 'public.note', 'select, insert, update, delete'), "
                "has_function_privilege(%s, 'public.f()', 'execute')",
                (role, role),
            ).fetchone()
            assert row == (True, True)
        connection.rollback()


def test_auth_functions_read_the_claims(database: str) -> None:
    user = "11111111-1111-4111-8111-111111111111"
    query = "select auth.uid()::text, auth.role(), auth.jwt() ->> 'extra'"
    with psycopg.connect(database) as connection:
        connection.execute("set local role anon")
        assert connection.execute(query).fetchone() == (None, None, None)
        claims = f'{{"sub": "{user}", "role": "authenticated", "extra": "x"}}'
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        assert connection.execute(query).fetchone() == (user, "authenticated", "x")


def test_pgcrypto_is_in_extensions(database: str) -> None:
    with psycopg.connect(database) as connection:
        row = connection.execute("select length(extensions.gen_random_bytes(16))").fetchone()
    assert row == (16,)


def test_realtime_publication_is_empty_and_can_be_added_to(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table public.note (id int primary key)")
        connection.execute("alter publication supabase_realtime add table public.note")
        tables = connection.execute("select tablename from pg_publication_tables").fetchall()
        connection.rollback()
    assert tables == [("note",)]


def test_the_project_applies_once(database: str) -> None:
    files = _migrate.migration_files()
    versions = [file.name.split("_")[0] for file in files]
    assert apply_migrations(database) == versions
    assert apply_migrations(database) == []
    with psycopg.connect(database) as connection:
        recorded = connection.execute(
            "select version || '_' || name || '.sql' "
            "from supabase_migrations.schema_migrations order by version"
        ).fetchall()
    assert recorded == [(file.name,) for file in files]


def test_the_seed_can_be_applied_again(database: str) -> None:
    apply_migrations(database)
    apply_seed(database)
    apply_seed(database)
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*) from auth.users").fetchone() == (2,)


def test_migrations_run_as_postgres_and_start_with_fresh_settings(
    database: str, write: Writer
) -> None:
    files = [
        write("1_first.sql", "set search_path = ''; create table public.who (name text);"),
        write("2_second.sql", "insert into who select current_user;"),
    ]
    assert apply_migrations(database, files) == ["1", "2"]
    with psycopg.connect(database) as connection:
        assert connection.execute("select name from who").fetchall() == [("postgres",)]


def test_an_invalid_statement_is_named_with_its_line(database: str, write: Writer) -> None:
    file = write("1_broken.sql", "create table public.kept (é text);\n\n-- éé\nselect nope;\n")
    with pytest.raises(MigrationError) as caught:
        apply_migrations(database, [file])
    assert str(caught.value).startswith(f'{file}:4: column "nope" does not exist (SQLSTATE 42703)')


def test_a_failed_migration_changes_nothing(database: str, write: Writer) -> None:
    file = write("1_broken.sql", "create table public.kept (id int); select 1 / 0;")
    with pytest.raises(MigrationError, match="division by zero"):
        apply_migrations(database, [file])
    with psycopg.connect(database) as connection:
        assert connection.execute("select to_regclass('public.kept')").fetchone() == (None,)
    file.write_text("create table public.kept (id int);")
    assert apply_migrations(database, [file]) == ["1"]


def test_a_runtime_error_shows_its_hint_and_its_place(database: str, write: Writer) -> None:
    file = write("1_raise.sql", "do $$\nbegin\n  raise exception 'no' using hint = 'try';\nend $$")
    with pytest.raises(MigrationError) as caught:
        apply_migrations(database, [file])
    text = str(caught.value)
    assert "no (SQLSTATE P0001)" in text
    assert "Hint: try" in text
    assert "inline_code_block line 3 at RAISE" in text


def test_an_open_transaction_is_rejected(database: str, write: Writer) -> None:
    with pytest.raises(MigrationError, match="leaves a transaction open"):
        apply_migrations(database, [write("1_open.sql", "begin; create table public.t (i int);")])


def test_a_file_without_a_version(database: str, write: Writer) -> None:
    with pytest.raises(MigrationError, match=r"a migration is named <version>_<name>\.sql"):
        apply_migrations(database, [write("later.sql", "select 1")])


def test_a_missing_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_migrate, "_HERE", tmp_path / "a" / "b")
    with pytest.raises(MigrationError, match="The migrations are missing"):
        _migrate.migration_files()


def test_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "supabase" / "migrations").mkdir(parents=True)
    monkeypatch.setattr(_migrate, "_HERE", tmp_path)
    with pytest.raises(MigrationError, match="There are no migrations"):
        _migrate.migration_files()


def test_a_missing_seed(database: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"nothing\.sql does not exist"):
        apply_seed(database, tmp_path / "nothing.sql")
