"""Compare migrated databases with pg-delta, as the Supabase CLI does."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._catalog import catalog
from tests.database._sql import Database
from tests.database._states import RECORDED, apply_state, provide_uuid_ossp
from tests.database._tools import SupabaseProject, find_supabase_cli
from tests.database.conftest import make_database

if TYPE_CHECKING:
    from collections.abc import Iterator

STAND_IN = migrate.migration_files()[0]
# Up to a semicolon that is not part of a body, string, name or comment.
STATEMENT = re.compile(r"""(?:(\$\w*\$).*?\1|'[^']*'|"[^"]*"|--[^\n]*|[^;])+""", re.DOTALL)
CHANGES = {
    "drop policy segments_select on public.segments": 'DROP POLICY "segments_select"',
    "alter table public.segments add column note text": 'ADD COLUMN "note" text',
    "alter table public.segments alter column tags drop not null": (
        'ALTER COLUMN "tags" DROP NOT NULL'
    ),
    "drop index public.segments_created_at_idx": 'DROP INDEX "public"."segments_created_at_idx"',
    "drop trigger set_timestamps_segments on public.segments": (
        'DROP TRIGGER "set_timestamps_segments"'
    ),
    "alter table api_keys_private.api_keys disable row level security": (
        "DISABLE ROW LEVEL SECURITY"
    ),
    "alter function public.revoke_api_key security invoker": (
        "CREATE OR REPLACE FUNCTION public.revoke_api_key"
    ),
    "grant select on public.segments to anon": (
        'GRANT SELECT ON TABLE "public"."segments" TO "anon"'
    ),
    "alter publication supabase_realtime drop table public.segments": (
        'ALTER PUBLICATION "supabase_realtime" DROP TABLE "public"."segments"'
    ),
}
numbers = count()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SupabaseProject:
    return SupabaseProject(find_supabase_cli(), tmp_path_factory.mktemp("pg_delta"))


@pytest.fixture(scope="module")
def original(server: PostgresServer) -> Database:
    """A database that was empty before the migrations."""
    return migrated(server)


def migrated(server: PostgresServer, *states: str) -> Database:
    """A migrated database that went through these states before."""
    db = make_database(server, f"pg_delta_{next(numbers)}", migrated=False)
    provide_uuid_ossp(db)
    migrate.apply_migrations(address(db), [STAND_IN])
    for state in states:
        apply_state(db, state)
    migrate.apply_migrations(address(db))
    return db


def address(db: Database) -> str:
    return migrate.as_role(db.admin_url, "postgres")


@contextmanager
def without_privileges_on_parameters(db: Database) -> Iterator[None]:
    """Revoke what the platform grants on parameters of the server, which pg-delta does not know."""
    db.admin("revoke set on parameter pgrst.db_pre_request from postgres")
    try:
        yield
    finally:
        db.admin("grant set on parameter pgrst.db_pre_request to postgres")


def differences(project: SupabaseProject, before: Database, after: Database) -> str:
    """The SQL with which pg-delta would make one database equal to the other."""
    with without_privileges_on_parameters(before):
        result = project.run(
            *("db", "diff", "--use-pg-delta", "--strict-coverage"),
            *("--from", address(before), "--to", address(after)),
        )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def export(project: SupabaseProject, db: Database) -> list[Path]:
    """The files in which pg-delta exports a database, in their load order."""
    with without_privileges_on_parameters(db):
        result = project.run(
            *("db", "schema", "declarative", "generate", "--strict-coverage"),
            f"--remote={address(db)}",
        )
    assert result.returncode == 0, result.stderr
    folder = project.migrations.parent / "schemas"
    index = json.loads((folder / ".pgdelta-export.json").read_text())
    return [folder / name for name in index["loadOrder"]]


def load(db: Database, files: list[Path]) -> None:
    """Run the statements of the files. Retry those that depend on later ones."""
    pending = [
        statement
        for file in files
        for match in STATEMENT.finditer(file.read_text())
        if (statement := match[0].strip())
    ]
    options = "-c check_function_bodies=off"
    with psycopg.connect(address(db), autocommit=True, options=options) as connection:
        while pending:
            failed = {}
            for statement in pending:
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    failed[statement] = str(error)
            assert len(failed) < len(pending), failed
            pending = [*failed]


@pytest.mark.parametrize("states", [*([state] for state in RECORDED), RECORDED], ids=", ".join)
def test_it_finds_no_difference_after_migrating_any_state(
    project: SupabaseProject, server: PostgresServer, original: Database, states: list[str]
) -> None:
    target = migrated(server, *states)

    assert differences(project, original, target) == ""


def test_it_finds_every_change(
    project: SupabaseProject, server: PostgresServer, original: Database
) -> None:
    target = migrated(server)
    for change in CHANGES:
        target.apply(change)

    found = differences(project, original, target)

    assert [text for text in CHANGES.values() if text not in found] == []


def test_its_export_creates_the_same_database(
    project: SupabaseProject, server: PostgresServer, original: Database
) -> None:
    rebuilt = make_database(server, f"pg_delta_{next(numbers)}", migrated=False)
    provide_uuid_ossp(rebuilt)

    # The export contains pgcrypto, but every Supabase project has it already.
    files = [file for file in export(project, original) if file.parent.name != "extensions"]
    defaults = [file for file in files if file.name == "default_privileges.sql"]
    load(rebuilt, [file for file in files if file not in defaults])
    # Loaded last, because they would apply to the objects created after them.
    load(rebuilt, defaults)

    assert differences(project, original, rebuilt) == ""
    assert catalog(rebuilt) == catalog(original)
