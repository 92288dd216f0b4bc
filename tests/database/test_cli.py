"""Apply the migrations with the Supabase CLI and with psql."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests.database._catalog import catalog
from tests.database._tools import SupabaseProject, find_supabase_cli, run
from tests.database.conftest import make_database
from tests.database.update_staging import STAGING, staging_migration

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.database._sql import Database

STAND_IN, *MIGRATIONS = migrate.migration_files()
OUR_HISTORY = [file.name for file in (STAND_IN, *MIGRATIONS)]
# The history of V3. The stand-in takes the place of its base schema.
V3_HISTORY = {
    "20250101000000": ("base_schema", [STAND_IN.read_text()]),
    "20250101000001": ("billing", ["create table public.invoices (id uuid)", "select 1"]),
    "20250115000000": ("notifications", ["create table public.notifications (id uuid)"]),
    "20250115000001": ("nothing", []),
}
numbers = count()


@pytest.fixture
def project(tmp_path: Path) -> SupabaseProject:
    return SupabaseProject(find_supabase_cli(), tmp_path)


@pytest.fixture
def empty(server: PostgresServer) -> Database:
    """A Supabase project without migrations."""
    db = make_database(server, f"cli_{next(numbers)}", migrated=False)
    db.admin("drop schema supabase_migrations cascade")
    return db


@pytest.fixture
def live(server: PostgresServer) -> Database:
    """The database of V3: its schema and its history of migrations."""
    db = make_database(server, f"cli_{next(numbers)}", migrated=False)
    migrate.apply_migrations(address(db), [STAND_IN])
    db.admin("truncate supabase_migrations.schema_migrations")
    for version, (name, statements) in V3_HISTORY.items():
        record(db, version, name, statements)
    return db


def address(db: Database) -> str:
    return migrate.as_role(db.admin_url, "postgres")


def psql(db: Database, file: Path) -> None:
    """Run a file, which must print nothing."""
    program = str(find_programs() / "psql")
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--tuples-only"]
    result = run([program, address(db), *options, f"--file={file}"])
    assert (result.returncode, result.stderr, result.stdout.strip()) == (0, "", "")


def record(db: Database, version: str, name: str, statements: list[str]) -> None:
    db.admin(
        "insert into supabase_migrations.schema_migrations (version, name, statements)"
        " values (%s, %s, %s)",
        version,
        name,
        statements,
    )


def push(project: SupabaseProject, db: Database, *flags: str) -> subprocess.CompletedProcess[str]:
    return project.run("db", "push", f"--remote={address(db)}", *flags)


def history(db: Database) -> list[str]:
    """The applied migrations according to the history, as file names."""
    rows = db.admin(
        "select version || '_' || name || '.sql' as file"
        " from supabase_migrations.schema_migrations order by version"
    )
    return [row["file"] for row in rows]


def findings(project: SupabaseProject, db: Database) -> set[tuple[str, str, str]]:
    """The findings of the advisors on all levels: the lint, the schema and the object."""
    result = project.run(
        "db", "advisors", f"--remote={address(db)}", "--level=info", "--output-format=json"
    )
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return {
        (lint["name"], lint["metadata"]["schema"], lint["metadata"]["name"])
        for lint in found
        # No query has used an index of this new database.
        if lint["name"] != "unused_index"
    }


def test_a_push_to_an_empty_project(
    project: SupabaseProject, empty: Database, db: Database
) -> None:
    first = push(project, empty)
    assert first.returncode == 0, first.stderr
    assert history(empty) == OUR_HISTORY
    assert catalog(empty) == catalog(db)
    again = push(project, empty)
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout
    assert catalog(empty) == catalog(db)


@pytest.mark.parametrize(
    "later", [{}, {"20270101000000": ("later", ["create table public.later (id uuid)"])}]
)
def test_a_push_to_a_project_with_its_own_history(
    project: SupabaseProject,
    live: Database,
    db: Database,
    later: dict[str, tuple[str, list[str]]],
) -> None:
    for version, (name, statements) in later.items():
        record(live, version, name, statements)
    before = history(live)
    refused = push(project, live)
    assert refused.returncode != 0
    assert "not found in local migrations directory" in refused.stderr
    assert history(live) == before

    fetched = project.run("migration", "fetch", f"--remote={address(live)}")
    assert fetched.returncode == 0, fetched.stderr
    assert {file.name for file in project.migrations.iterdir()} == {*before, *OUR_HISTORY}
    pushed = push(project, live, "--include-all")
    assert pushed.returncode == 0, pushed.stderr
    assert history(live) == sorted([*before, *OUR_HISTORY])
    assert catalog(live) == catalog(db)
    # V3's own migrations are not run again.
    assert live.admin("select to_regclass('public.invoices') as made") == [{"made": None}]
    assert "up to date" in push(project, live, "--include-all").stdout


def test_a_failed_push_reports_unmet_prerequisites_and_can_be_repeated(
    project: SupabaseProject, empty: Database, db: Database
) -> None:
    empty.admin("drop extension pgcrypto")
    refused = push(project, empty)
    assert refused.returncode != 0
    assert "nothing was changed" in refused.stderr
    assert "run: create extension pgcrypto with schema extensions" in refused.stderr
    assert history(empty) == [STAND_IN.name]
    assert empty.admin("select to_regclass('public.segments') as made") == [{"made": None}]

    empty.admin("create extension pgcrypto with schema extensions")
    repeated = push(project, empty)
    assert repeated.returncode == 0, repeated.stderr
    assert catalog(empty) == catalog(db)


def test_psql_applies_each_file(empty: Database, db: Database) -> None:
    for file in (STAND_IN, *MIGRATIONS):
        psql(empty, file)
    assert catalog(empty) == catalog(db)


def test_the_file_to_paste_is_up_to_date() -> None:
    assert STAGING.read_text() == staging_migration(), "run: make sql"


def test_psql_and_the_editor_apply_the_file_to_paste(
    live: Database, empty: Database, db: Database
) -> None:
    empty.apply(STAND_IN.read_text())
    for _ in range(2):
        psql(live, STAGING)
        empty.apply(STAGING.read_text())
        assert catalog(live) == catalog(empty) == catalog(db)


def test_the_file_to_paste_can_be_applied_before_and_after_a_push(
    project: SupabaseProject, empty: Database, db: Database
) -> None:
    empty.apply(STAND_IN.read_text() + STAGING.read_text())
    pushed = push(project, empty)
    assert pushed.returncode == 0, pushed.stderr
    assert history(empty) == OUR_HISTORY
    empty.apply(STAGING.read_text())
    assert catalog(empty) == catalog(db)
    assert "up to date" in push(project, empty).stdout


def test_the_file_to_paste_is_one_transaction(live: Database) -> None:
    live.admin("create view public.segments as select 1 as id")
    live.admin("alter view public.segments owner to postgres")
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="segments is not an ordinary table"
    ):
        live.apply(STAGING.read_text())
    assert live.admin("select to_regnamespace('audiencelab_private') as made") == [{"made": None}]


def test_the_advisors_report_only_private_tables_without_policies(
    project: SupabaseProject, db: Database
) -> None:
    # Only service_role, which bypasses row level security, has access to these tables.
    assert findings(project, db) == {
        ("rls_enabled_no_policy", "api_keys_private", "api_keys"),
        ("rls_enabled_no_policy", "api_keys_private", "api_key_events"),
        ("rls_enabled_no_policy", "api_keys_private", "api_key_logs"),
        ("rls_enabled_no_policy", "api_keys_private", "api_key_usage_hours"),
        ("rls_enabled_no_policy", "api_keys_private", "api_key_usage_progress"),
        ("rls_enabled_no_policy", "api_keys_private", "failed_comparisons"),
        ("rls_enabled_no_policy", "api_keys_private", "settings"),
        ("rls_enabled_no_policy", "enrichment_private", "partial_sums"),
        ("rls_enabled_no_policy", "enrichment_private", "unit_progress"),
    }


def test_the_advisors_report_missing_protection(
    project: SupabaseProject, server: PostgresServer
) -> None:
    damaged = make_database(server, f"cli_{next(numbers)}")
    damaged.admin("alter table public.segments disable row level security")
    damaged.admin("alter function public.verify_api_key(text) reset search_path")
    assert {
        ("rls_disabled_in_public", "public", "segments"),
        ("function_search_path_mutable", "public", "verify_api_key"),
    } <= findings(project, damaged)
