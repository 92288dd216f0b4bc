"""supabase/verify.sql finds every difference from the schema that the migrations create."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests.database import update_verify
from tests.database._sql import Database
from tests.database.conftest import make_database

VERIFY = update_verify.VERIFY.read_text()
numbers = count()

# A change of the database, and the difference that must be reported.
CHANGES = {
    "drop policy segments_select on public.segments": (
        "policy segments_select on public.segments: missing"
    ),
    "drop policy enrichment_tracking_update_api_key on public.enrichment_tracking": (
        "policy enrichment_tracking_update_api_key on public.enrichment_tracking: missing"
    ),
    "create policy extra on public.segments using (true)": (
        "policy extra on public.segments: unexpected"
    ),
    "alter policy segments_update on public.segments using (true)": (
        "policy segments_update on public.segments: expected"
    ),
    "alter policy segments_select on public.segments to authenticated, anon": (
        "found <to anon, authenticated>"
    ),
    "alter table public.segments disable row level security": (
        "table public.segments: expected <row level security enabled>;"
        " found <row level security disabled>"
    ),
    "alter table api_keys_private.api_keys disable row level security": (
        "table api_keys_private.api_keys: expected"
    ),
    "grant select on public.segments to anon": (
        "privileges public.segments: found <select to anon>"
    ),
    "grant update (account_id) on public.segments to api_key": (
        "privileges public.segments: found <update (account_id) to api_key>"
    ),
    "revoke insert on public.enrichment_tracking from authenticated": (
        "privileges public.enrichment_tracking: expected <insert to authenticated>"
    ),
    "grant delete on public.enrichment_tracking to authenticated": (
        "found <delete to authenticated>"
    ),
    "grant usage on schema api_keys_private to authenticated": (
        "privileges schema api_keys_private: found <usage to authenticated>"
    ),
    "grant execute on function public.verify_api_key(text) to public": "found <execute to public>",
    "grant execute on function public.log_api_key_usage to authenticated": (
        "found <execute to authenticated>"
    ),
    "grant execute on function public.revoke_api_keys_of to anon": "found <execute to anon>",
    "alter table api_keys_private.api_keys disable trigger api_keys_record_change": (
        "trigger api_keys_record_change on api_keys_private.api_keys: expected"
    ),
    "grant delete on api_keys_private.api_key_events to service_role": (
        "privileges api_keys_private.api_key_events: found <delete to service_role>"
    ),
    "drop function public.reset_enrichment_progress": (
        "function public.reset_enrichment_progress(uuid,text): missing"
    ),
    "revoke execute on function public.create_api_key from authenticated": (
        "privileges public.create_api_key(uuid,text,jsonb,timestamp with time zone): missing"
    ),
    "drop function public.has_scope cascade": "function public.has_scope(text,text,text): missing",
    "create or replace function public.get_api_key_account_id() returns uuid language sql stable"
    " security definer set search_path = '' as 'select null::uuid'": (
        "function public.get_api_key_account_id(): expected <body"
    ),
    "alter function public.revoke_api_key reset search_path": (
        "expected <search_path=pg_catalog, pg_temp>"
    ),
    "alter function api_keys_private.has_scope_on_all security definer": "found <security definer>",
    "create function public.revoke_api_key(text) returns int language sql return 1": (
        "function public.revoke_api_key(text): unexpected"
    ),
    "drop index api_keys_private.api_keys_key_hash_key": (
        "index api_keys_private.api_keys_key_hash_key: missing"
    ),
    "create index extra on public.segments (name)": "index public.extra: unexpected",
    "drop trigger set_timestamps_segments on public.segments": (
        "trigger set_timestamps_segments on public.segments: missing"
    ),
    "drop trigger add_up_records_enrichment_tracking on public.enrichment_tracking": (
        "trigger add_up_records_enrichment_tracking on public.enrichment_tracking: missing"
    ),
    "alter table public.segments disable trigger set_timestamps_segments": (
        "found <not always enabled>"
    ),
    "alter publication supabase_realtime drop table public.segments": (
        "publication supabase_realtime of public.segments: missing"
    ),
    "alter table public.segments drop column tags cascade": (
        "columns public.segments: expected <tags text[] not null default '{}'::text[]>"
    ),
    "alter table public.segments add column note text": (
        "columns public.segments: found <note text>"
    ),
    "alter table public.segments alter column filters drop not null": (
        "found <filters jsonb default '[]'::jsonb>"
    ),
    "alter table public.segments alter column deleted drop default": (
        "found <deleted boolean not null>"
    ),
    "alter table api_keys_private.api_keys drop constraint api_keys_account_id_fkey": (
        "constraint api_keys_account_id_fkey on api_keys_private.api_keys: missing"
    ),
    "alter table public.segments drop constraint segments_source_type_check": (
        "constraint segments_source_type_check on public.segments: missing"
    ),
    "alter type public.verify_api_key_response add attribute x text": "found <x text>",
    "drop table enrichment_private.unit_progress": (
        "table enrichment_private.unit_progress: missing"
    ),
    "alter view api_keys_private.live_api_keys reset (security_invoker)": (
        "expected <security invoker>"
    ),
    "create or replace view api_keys_private.live_api_keys with (security_invoker = true) as"
    " select id, account_id, key_prefix, key_hash, scopes, allowed_ips"
    " from api_keys_private.api_keys": ("view api_keys_private.live_api_keys: expected <as SELECT"),
    "alter table public.segments owner to anon": (
        "owner public.segments: unexpected: owned by anon"
    ),
    "alter function public.create_api_key owner to service_role": "owned by service_role",
    "grant service_role to api_key": "role api_key: found <member of service_role>",
    "grant api_key to anon": "role api_key: found <has the member anon>",
    "alter role api_key createrole": "role api_key: found <can create roles or databases",
    "create rule silent as on delete to public.segments do instead nothing": (
        "rule silent on public.segments: unexpected"
    ),
    "alter publication supabase_realtime set (publish = 'insert')": "found <only some operations>",
    "alter publication supabase_realtime set table"
    " public.enrichment_tracking, public.segments (id)": (
        "publication supabase_realtime of public.segments: found <only some columns>"
    ),
    "alter function api_keys_private.require_scopes strict": "found <null on null input>",
    "create view public.k as select * from api_keys_private.api_keys": (
        "view public.k: unexpected: reads api_keys_private.api_keys"
    ),
    "alter table public.segments replica identity nothing": (
        "found <replica identity does not allow updates>"
    ),
    "create table api_keys_private.copy (key text)": ("table api_keys_private.copy: unexpected"),
    "revoke usage on schema public from api_key": (
        "role api_key: expected <has usage of schema public>"
    ),
    "alter role api_key login": "role api_key: expected <cannot log in>; found <can log in>",
    "alter role api_key inherit": "role api_key: found <inherits>",
    "alter role api_key bypassrls": "found <bypasses row level security>",
    "set local role postgres; revoke api_key from authenticator; reset role": (
        "role api_key: expected <granted to authenticator>"
    ),
}


def verify(db: Database) -> None:
    db.apply(VERIFY)


@pytest.fixture(scope="module")
def healthy(server: PostgresServer) -> Database:
    return make_database(server, "healthy")


def test_a_migrated_database_is_ok(healthy: Database) -> None:
    with psycopg.connect(migrate.as_role(healthy.admin_url, "postgres")) as connection:
        cursor = connection.execute(VERIFY.encode())
        while cursor.nextset():
            pass
        rows = cursor.fetchall()
    assert {row[2] for row in rows} == {"ok"}
    assert {row[0] for row in rows} == {
        *("role", "table", "columns", "constraint", "index", "policy", "trigger", "type"),
        *("function", "publication", "privileges", "view"),
    }


def test_it_expects_what_the_migrations_create(healthy: Database) -> None:
    assert update_verify.verify_sql(healthy.admin_url) == VERIFY, "run: make sql"


def test_it_covers_every_public_function_of_the_migrations(fresh: Database) -> None:
    public = (
        "select oid::regprocedure::text as name from pg_proc"
        " where pronamespace = 'public'::regnamespace"
    )
    before = {row["name"] for row in fresh.admin(public)}
    migrate.apply_migrations(migrate.as_role(fresh.admin_url, "postgres"))

    created = {row["name"] for row in fresh.admin(public)} - before

    assert created
    assert [name for name in created if f"('function', 'public.{name}'" not in VERIFY] == []


@pytest.mark.parametrize(
    "harmless",
    [
        "alter table public.segments set (autovacuum_vacuum_scale_factor = 0.01)",
        "grant select on public.segments to postgres",
        "create view public.mine as select id from public.segments",
    ],
)
def test_harmless_changes_are_not_differences(healthy: Database, harmless: str) -> None:
    with psycopg.connect(healthy.admin_url) as connection:
        connection.execute(harmless.encode())
        connection.execute(VERIFY.encode())
        connection.rollback()


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(healthy: Database, change: str) -> None:
    # The rollback also restores roles.
    with psycopg.connect(healthy.admin_url) as connection:
        connection.execute(change.encode())
        with pytest.raises(psycopg.errors.RaiseException) as verdict:
            connection.execute(VERIFY.encode())
        connection.rollback()
    message = verdict.value.diag.message_primary or ""
    assert message.startswith(
        "the database differs from the schema that the migrations create:\n- "
    )
    assert CHANGES[change] in message


def test_without_the_migrations_everything_is_missing(server: PostgresServer) -> None:
    bare = make_database(server, f"unmigrated_{next(numbers)}", migrated=False)
    with pytest.raises(psycopg.errors.RaiseException, match=r"table public\.segments: missing"):
        verify(bare)


def test_psql_prints_every_row_and_fails_if_there_is_a_difference(
    server: PostgresServer,
) -> None:
    damaged = make_database(server, f"damaged_{next(numbers)}")

    def psql() -> subprocess.CompletedProcess[str]:
        url = migrate.as_role(damaged.admin_url, "postgres")
        program = shutil.which("psql", path=f"{find_programs()}:{os.environ['PATH']}")
        assert program
        return subprocess.run(
            [program, "-X", "-v", "ON_ERROR_STOP=1", "-f", str(update_verify.VERIFY), url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    good = psql()
    assert good.returncode == 0, good.stderr
    assert "public.segments" in good.stdout
    damaged.admin("drop policy segments_select on public.segments")
    bad = psql()
    assert bad.returncode == 3
    assert "segments_select on public.segments" in bad.stdout
    assert "missing" in bad.stdout
    assert "policy segments_select on public.segments: missing" in bad.stderr
