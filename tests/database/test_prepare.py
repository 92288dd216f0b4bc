"""supabase/prepare.sql builds the indexes and foreign keys of the migrations, and nothing else."""

from __future__ import annotations

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests._waiting import wait_until
from tests.database._catalog import catalog
from tests.database._sql import Database
from tests.database._states import apply_state
from tests.database._tools import ROOT, run
from tests.database.conftest import make_database

PREPARE = ROOT / "supabase" / "prepare.sql"
LOCK_TIMEOUT = 3
numbers = count()

# The definition of each index and foreign key, and values that change when it is rebuilt.
_PARTS = """
select indrelid::regclass::text, case when indisunique then 'unique index' else 'index' end,
       relname::text, substring(pg_get_indexdef(class.oid) from ' (USING .*)$'),
       class.oid, relfilenode
from pg_index join pg_class as class on class.oid = indexrelid
where indrelid::regclass::text = any (%(tables)s)
  and not exists (select from pg_constraint where conindid = class.oid and contype = 'p')
union all
select conrelid::regclass::text, 'foreign key', conname::text, pg_get_constraintdef(oid), oid, 0
from pg_constraint
where contype = 'f' and conrelid::regclass::text = any (%(tables)s)
"""
_TABLES = [
    *("public.enrichment_tracking", "public.segments"),
    *("api_keys_private.api_keys", "api_keys_private.api_key_logs"),
]

Part = tuple[Any, ...]


def parts(db: Database) -> dict[Part, Part]:
    """The indexes and foreign keys of the tables, by definition, with what identifies each."""
    with psycopg.connect(db.admin_url, options="-c search_path=") as connection:
        rows = connection.execute(_PARTS, {"tables": _TABLES}).fetchall()
    return {row[:4]: row[4:] for row in rows}


def prepare(db: Database) -> subprocess.CompletedProcess[str]:
    url = migrate.as_role(db.admin_url, "postgres")
    return run([str(find_programs() / "psql"), url, "--no-psqlrc", f"--file={PREPARE}"])


def prepared(db: Database) -> list[str]:
    """The steps that a successful run lists."""
    result = prepare(db)
    assert (result.returncode, result.stderr) == (0, "")
    return [line[2:] for line in result.stdout.splitlines() if line.startswith("- ")]


def apply_migrations(db: Database) -> None:
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"))


@pytest.fixture
def live(fresh: Database) -> Database:
    """A database with all four tables as earlier scripts created them."""
    for state in ("live_keys", "segments_migration", "first_script"):
        apply_state(fresh, state)
    return fresh


def test_it_builds_and_lists_what_is_missing(live: Database, db: Database) -> None:
    before = parts(live)

    steps = prepared(live)

    built = {part for part in parts(live) if part not in before}
    assert built == {
        part
        for part in parts(db)
        if (part[0], part[1], part[3]) not in {(found[0], found[1], found[3]) for found in before}
    }
    assert sorted(steps) == sorted(
        [
            "add column position to api_keys_private.api_key_logs",
            *(
                f"add {kind} {name} to {relation}"
                if kind == "foreign key"
                else f"build {kind} {name} on {relation}"
                for relation, kind, name, _ in built
            ),
        ]
    )


def test_a_second_run_does_nothing(live: Database) -> None:
    prepare(live)
    before = parts(live)

    again = prepare(live)

    assert (again.returncode, again.stdout, again.stderr) == (0, "Nothing to do.\n", "")
    assert parts(live) == before


def test_the_migrations_reuse_its_indexes_and_foreign_keys(live: Database, db: Database) -> None:
    prepare(live)
    before = parts(live)

    apply_migrations(live)

    assert set(parts(live).values()) <= set(before.values())
    assert catalog(live) == catalog(db)


def test_it_rebuilds_every_index_and_foreign_key_of_the_migrations(
    server: PostgresServer, db: Database
) -> None:
    target = make_database(server, f"prepare_{next(numbers)}")
    for relation, kind, name, _ in parts(target):
        target.admin(
            f"alter table {relation} drop constraint {name}"
            if kind == "foreign key"
            else f"drop index {relation.partition('.')[0]}.{name}"
        )
    assert parts(target) == {}

    prepare(target)

    assert parts(target).keys() == parts(db).keys()
    assert catalog(target) == catalog(db)


def test_it_defines_the_same_indexes_and_foreign_keys_as_the_migrations(db: Database) -> None:
    wanted = re.findall(
        r"\('([\w.]+)', '((?:unique )?index|foreign key)', '(\w+)',\s+'((?:[^']|'')+)'\)",
        PREPARE.read_text(),
    )

    assert {(*row[:3], row[3].replace("''", "'")) for row in wanted} == parts(db).keys()


@pytest.mark.parametrize("state", ["empty", "base schema", "migrated"])
def test_it_does_nothing_if_nothing_is_missing(server: PostgresServer, state: str) -> None:
    target = make_database(server, f"prepare_{next(numbers)}", migrated=state == "migrated")
    if state == "base schema":
        migrate.apply_migrations(
            migrate.as_role(target.admin_url, "postgres"), migrate.migration_files()[:1]
        )
    before = catalog(target), parts(target)

    result = prepare(target)

    assert (result.returncode, result.stdout, result.stderr) == (0, "Nothing to do.\n", "")
    assert (catalog(target), parts(target)) == before


def test_it_stops_at_an_error_and_replaces_the_invalid_index_in_the_next_run(
    live: Database,
) -> None:
    tenant = live.add_tenant()
    for name in ("one", "other"):
        live.admin(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by)"
            " values (%s, %s, 'sk_same', 'same', %s)",
            tenant.account_id,
            name,
            tenant.user_id,
        )

    stopped = prepare(live)
    live.admin("delete from api_keys_private.api_keys where name = 'other'")
    steps = prepared(live)

    assert stopped.returncode == 3
    assert "Key (key_hash)=(same) is duplicated" in stopped.stderr
    assert steps == [
        "drop invalid index api_keys_private.api_keys_key_hash_key",
        "build unique index api_keys_key_hash_key on api_keys_private.api_keys",
        "add foreign key api_keys_account_id_fkey to api_keys_private.api_keys",
    ]
    assert live.admin("select 1 from pg_index where not indisvalid") == []
    assert prepared(live) == []


def test_an_index_built_under_another_name_is_renamed_by_the_migrations(
    live: Database, db: Database
) -> None:
    live.apply(
        "create index segments_deleted_idx on public.segments (name);"
        "alter table public.segments drop constraint segments_account_id_fkey;"
        "alter table public.segments add constraint segments_account_id_fkey"
        " foreign key (account_id) references public.accounts (id);"
    )

    steps = prepared(live)
    before = parts(live)
    again = prepared(live)
    apply_migrations(live)

    assert {
        "build index segments_deleted_idx_new on public.segments",
        "add foreign key segments_account_id_fkey_new to public.segments",
        "validate foreign key segments_account_id_fkey_new of public.segments",
    } <= set(steps)
    assert again == []
    assert set(parts(live).values()) <= set(before.values())
    assert catalog(live) == catalog(db)


def test_a_foreign_key_with_another_name_is_only_validated(live: Database, db: Database) -> None:
    prepare(live)
    live.apply(
        "alter table public.segments drop constraint segments_account_id_fkey;"
        "alter table public.segments add constraint other foreign key (account_id)"
        " references public.accounts (id) on delete cascade not valid;"
    )

    steps = prepared(live)
    apply_migrations(live)

    assert steps == ["validate foreign key other of public.segments"]
    assert catalog(live) == catalog(db)


def test_a_violated_foreign_key_is_validated_after_the_row_is_deleted(
    live: Database,
) -> None:
    prepare(live)
    tenant = live.add_tenant()
    live.admin("alter table public.segments drop constraint segments_account_id_fkey")
    live.admin(
        "insert into public.segments (account_id, name, source_type, source_id, created_by)"
        " values (gen_random_uuid(), 'orphan', 'audience', '1', %s)",
        tenant.user_id,
    )

    stopped = prepare(live)
    live.admin("delete from public.segments where name = 'orphan'")

    assert stopped.returncode == 3
    assert 'violates foreign key constraint "segments_account_id_fkey"' in stopped.stderr
    assert prepared(live) == ["validate foreign key segments_account_id_fkey of public.segments"]


def test_tables_without_the_columns_or_the_key_are_skipped(fresh: Database) -> None:
    fresh.apply(
        "create table public.segments (id uuid primary key, account_id text);"
        "create schema api_keys_private;"
        "create table api_keys_private.api_keys (id uuid unique);"
        "create table api_keys_private.api_key_logs (id uuid primary key, api_key_id uuid);"
    )

    assert prepared(fresh) == []


def test_a_build_waits_for_older_transactions_and_a_concurrent_run_stops(live: Database) -> None:
    tenant = live.add_tenant()
    with psycopg.connect(live.admin_url) as older, ThreadPoolExecutor(1) as pool:
        older.execute(
            "insert into public.segments (account_id, name, source_type, source_id, created_by)"
            " values (%s, 'x', 'audience', '1', %s)",
            [tenant.account_id, tenant.user_id],
        )
        first = pool.submit(prepare, live)
        wait_until(
            lambda: live.admin(
                "select 1 from pg_stat_progress_create_index"
                " where phase = 'waiting for writers before build'"
            )
        )
        second = prepare(live)
        time.sleep(LOCK_TIMEOUT + 0.5)
        older.commit()

    assert second.returncode == 3
    assert "another session is building an index on public.segments" in second.stderr
    assert first.result().returncode == 0


def test_a_foreign_key_waits_at_most_three_seconds_for_its_lock(live: Database) -> None:
    tenant = live.add_tenant()
    with psycopg.connect(live.admin_url) as writing:
        writing.execute("update public.accounts set name = 'x' where id = %s", [tenant.account_id])
        stopped = prepare(live)

    assert stopped.returncode == 3
    assert "canceling statement due to lock timeout" in stopped.stderr
    assert prepared(live) == [
        "add foreign key api_keys_account_id_fkey to api_keys_private.api_keys"
    ]
