"""Objects of earlier scripts on the tables: replaced with a warning, kept, or an error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests._waiting import wait_until
from tests.database._catalog import catalog
from tests.database._sql import Database, warnings_of
from tests.database._states import apply_state
from tests.database.conftest import make_database

_, *MIGRATIONS = migrate.migration_files()
FOUNDATION, API_KEYS, LIFE_CYCLE, USAGE, JOBS, SEGMENTS, _ = MIGRATIONS


def apply_all(db: Database) -> None:
    for file in MIGRATIONS:
        db.apply(file.read_text())


def test_the_policies_triggers_and_indexes_of_other_scripts_are_replaced(
    fresh: Database, db: Database
) -> None:
    apply_all(fresh)
    fresh.apply(
        "create policy select_segments on public.segments for select to public using (true);"
        'create policy "Accounts can read API Keys" on api_keys_private.api_keys'
        " for select to authenticated using (true);"
        "create trigger touch before update on public.segments"
        " for each row execute function public.trigger_set_timestamps();"
        "create index ix_segments_account_id on public.segments (account_id);"
        "grant all on public.segments to anon;"
        "grant update (account_id) on public.segments to api_key;"
        "grant execute on function public.verify_api_key(text) to anon, public;"
        "grant usage on schema api_keys_private to authenticated;"
        "create function public.revoke_api_key(text) returns text language sql return 'x';"
        "drop function public.list_api_keys(uuid);"
        "create function public.list_api_keys(p_account_id uuid) returns text"
        " language sql return 'x';"
        "alter table public.segments disable row level security;"
        "alter publication supabase_realtime drop table public.segments;",
    )
    apply_all(fresh)
    assert catalog(fresh) == catalog(db)


@pytest.mark.parametrize(
    "changes",
    [
        # Names that PostgreSQL generates, for objects with other definitions.
        [
            "drop index public.segments_created_at_idx",
            "create index on public.segments (created_at)",
        ],
        [
            "drop index api_keys_private.api_keys_key_hash_key",
            "create index api_keys_key_hash_key on api_keys_private.api_keys (key_hash)",
        ],
        ["alter table public.segments rename constraint segments_pkey to pk_segments"],
        [
            "alter index public.segments_created_at_idx rename to swapped",
            "alter index public.segments_created_by_idx rename to segments_created_at_idx",
            "alter index public.swapped rename to segments_created_by_idx",
        ],
        ["alter table public.segments rename constraint segments_account_id_fkey to fk"],
        [
            "alter table public.segments drop constraint segments_account_id_fkey",
            (
                "alter table public.segments add constraint segments_account_id_fkey"
                " foreign key (account_id) references public.accounts (id)"
            ),
        ],
        ["alter table public.segments drop constraint segments_source_type_check"],
        ["alter table public.segments disable trigger set_timestamps_segments"],
        [
            "drop function public.log_api_key_usage",
            (
                "create function public.log_api_key_usage(p_api_key_id uuid, p_endpoint text,"
                " p_method text, p_status_code integer default null,"
                " p_ip_address text default null, p_user_agent text default null)"
                " returns public.api_key_usage_log_response"
                " language plpgsql as 'begin return null; end'"
            ),
        ],
        [
            "drop function public.delete_studio_segment",
            (
                "create function public.delete_studio_segment(p_segment_id uuid) returns boolean"
                " language sql return true"
            ),
        ],
        [
            "create unique index ri on public.segments (id)",
            "alter table public.segments replica identity using index ri",
        ],
        [
            "grant select on public.segments to authenticated with grant option",
            "set role authenticated",
            "grant select on public.segments to anon",
        ],
    ],
)
def test_objects_with_an_expected_name_but_another_definition_are_replaced(
    fresh: Database, db: Database, changes: list[str]
) -> None:
    apply_all(fresh)
    fresh.apply(";".join(changes))
    apply_all(fresh)
    assert catalog(fresh) == catalog(db)
    tenant = fresh.add_tenant()
    segment = fresh.create_segment(tenant)
    rename = "update public.segments set name = 'x' where id = %s"
    assert fresh.affected(tenant.member, rename, segment) == 1


def test_each_alteration_raises_a_warning(fresh: Database) -> None:
    apply_all(fresh)
    fresh.apply(
        "create index mine on public.segments (name);"
        "alter index public.segments_created_by_idx rename to made_by;"
        "alter table public.segments alter column tags drop not null;"
        "alter table public.segments alter column tags set default '{x}';"
        "alter table public.segments add column note text;"
        "alter table public.segments force row level security;"
        "create policy everyone on public.segments using (true);"
        "alter publication supabase_realtime set table public.segments (id);"
    )
    assert sorted(warnings_of(fresh, SEGMENTS.read_text())) == [
        "FORCE ROW LEVEL SECURITY is removed from public.segments",
        "column note of public.segments is not part of the schema; it is kept: text",
        (
            "column tags of public.segments is altered from text[] default '{x}'::text[]"
            " to text[] not null default '{}'::text[]"
        ),
        "index made_by on public.segments is renamed to segments_created_by_idx",
        "index mine on public.segments is dropped: USING btree (name)",
        (
            "policy everyone on public.segments is dropped:"
            " as permissive for all to public using (true)"
        ),
        (
            "publication supabase_realtime published only some rows or columns of public.segments;"
            " it now publishes the whole table"
        ),
    ]
    (rows,) = fresh.admin(
        "select count(*) from information_schema.columns where column_name = 'note'"
    )
    assert rows["count"] == 1


def test_a_column_of_another_type_keeps_its_values(fresh: Database, db: Database) -> None:
    apply_all(fresh)
    tenant = fresh.add_tenant()
    segment = fresh.create_segment(tenant, "old")
    fresh.apply(
        "drop trigger segments_name_limit on public.segments;"
        "alter table public.segments alter column name type varchar(80)"
    )
    fresh.apply(SEGMENTS.read_text())
    assert catalog(fresh) == catalog(db)
    assert fresh.admin("select name from public.segments where id = %s", segment) == [
        {"name": "old"}
    ]


def test_an_additional_column_does_not_break_inserts(fresh: Database) -> None:
    apply_all(fresh)
    fresh.apply("alter table public.segments add column slug text not null")
    apply_all(fresh)
    assert isinstance(fresh.create_segment(fresh.add_tenant()), UUID)


def test_nulls_in_a_required_column_are_set_to_its_default(fresh: Database, db: Database) -> None:
    apply_all(fresh)
    segment = fresh.create_segment(fresh.add_tenant())
    fresh.apply("alter table public.segments alter column tags drop not null")
    fresh.admin("update public.segments set tags = null where id = %s", segment)
    warnings = warnings_of(fresh, SEGMENTS.read_text())
    assert (
        "column tags of public.segments is set to its default in 1 rows that were null" in warnings
    )
    assert fresh.admin("select tags from public.segments where id = %s", segment) == [{"tags": []}]
    assert catalog(fresh) == catalog(db)


def test_a_value_that_is_too_long_for_the_column_raises_an_error(fresh: Database) -> None:
    apply_all(fresh)
    tenant = fresh.add_tenant()
    key = fresh.create_key(tenant)
    fresh.apply(
        "drop view api_keys_private.live_api_keys cascade;"
        "alter table api_keys_private.api_keys alter column key_prefix type text;"
    )
    fresh.admin(
        "update api_keys_private.api_keys set key_prefix = 'sk_abcdefgh' where id = %s", key["id"]
    )
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        fresh.apply(API_KEYS.read_text())


@pytest.mark.parametrize(
    "privileges",
    [
        'alter default privileges in schema public grant all on functions to "Odd Role"',
        'alter default privileges grant all on functions to authenticated, "Odd Role"',
        'alter default privileges grant all on tables to authenticated, "Odd Role"',
    ],
)
def test_default_privileges_are_revoked(bare_server: PostgresServer, privileges: str) -> None:
    expected = catalog(make_database(bare_server, "expected"))
    db = make_database(bare_server, "defaults", migrated=False)
    db.apply(migrate.migration_files()[0].read_text())
    db.apply(f'create role "Odd Role"; {privileges};')
    warnings = [warning for file in MIGRATIONS for warning in warnings_of(db, file.read_text())]
    assert catalog(db) == expected
    assert any('the privileges of "Odd Role" on' in warning for warning in warnings)


def test_an_index_name_of_another_table_raises_an_error(fresh: Database) -> None:
    apply_all(fresh)
    fresh.apply("alter table public.segments rename to segments_backup")
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="segments_backup has an index"
    ):
        fresh.apply(SEGMENTS.read_text())


def test_a_table_owned_by_a_role_of_the_api_raises_an_error(fresh: Database) -> None:
    apply_all(fresh)
    fresh.admin("alter table public.segments owner to authenticated")
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match="from authenticated to postgres"
    ):
        fresh.apply(SEGMENTS.read_text())


def test_two_sessions_can_migrate_concurrently(fresh: Database, db: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(apply_all, fresh) for _ in range(2)]:
            run.result()
    assert catalog(fresh) == catalog(db)


def test_a_type_with_an_expected_name_but_other_attributes_raises_an_error(fresh: Database) -> None:
    fresh.apply(FOUNDATION.read_text())
    fresh.apply("create type public.verify_api_key_response as (valid boolean)")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        fresh.apply(API_KEYS.read_text())
    assert refusal.value.diag.message_primary == (
        "nothing was changed, because type public.verify_api_key_response has the attributes"
        " (valid boolean) instead of (valid boolean, api_key_id uuid, account_id uuid, error text)"
    )
    assert "Rename or drop the type" in (refusal.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("alter table public.segments owner to supabase_admin", "the ownership of public.segments"),
        (
            "alter function public.has_scope owner to supabase_admin",
            "the ownership of function public.has_scope",
        ),
        (
            "alter schema api_keys_private owner to supabase_admin",
            "the ownership of schema api_keys_private",
        ),
    ],
)
def test_an_object_of_another_owner_is_reported_with_its_owner(
    fresh: Database, change: str, missing: str
) -> None:
    apply_all(fresh)
    fresh.admin(change)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        apply_all(fresh)
    message = refusal.value.diag.message_primary or ""
    assert f"- {missing}: run the migration as supabase_admin" in message


def test_a_publication_of_all_tables_is_sufficient(fresh: Database) -> None:
    fresh.admin("drop publication supabase_realtime")
    fresh.admin("create publication supabase_realtime for all tables")
    apply_all(fresh)
    published = fresh.admin("select relid from pg_get_publication_tables('supabase_realtime')")
    assert len(published) >= 2


def test_keys_of_an_account_that_is_deleted_during_the_migration_are_invalid(
    fresh: Database,
) -> None:
    apply_state(fresh, "first_script")
    tenant = fresh.add_tenant()
    fresh.admin(
        "insert into api_keys_private.api_keys"
        " (account_id, name, key_prefix, key_hash, created_by) values (%s, 'n', 'sk_abcd',"
        " extensions.crypt('sk_abcd', extensions.gen_salt('bf', 4)), %s)",
        tenant.account_id,
        tenant.user_id,
    )
    with psycopg.connect(fresh.admin_url) as deleting, ThreadPoolExecutor(1) as pool:
        deleting.execute("delete from public.accounts where id = %s", [tenant.account_id])
        migration = pool.submit(apply_all, fresh)
        wait_until(
            lambda: fresh.admin(
                "select 1 from pg_locks"
                " where relation = 'public.accounts'::regclass and not granted"
            )
        )
        deleting.commit()
        migration.result()
    assert fresh.verify("sk_abcd")["valid"] is False


def test_keys_of_deleted_accounts_are_kept_and_deactivated(fresh: Database) -> None:
    fresh.admin("create schema api_keys_private authorization postgres")
    fresh.apply(
        "create table api_keys_private.api_keys (id uuid primary key default gen_random_uuid(),"
        " account_id uuid not null, name text not null, key_prefix varchar(7) not null,"
        " key_hash text not null, scopes jsonb not null default '[]', expires_at timestamptz,"
        " created_at timestamptz not null default now(), last_used_at timestamptz,"
        " created_by uuid not null, is_active boolean not null default true)",
    )
    alive = fresh.add_tenant()
    insert = (
        "insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)"
        " values (%s, 'old', left(%s, 7), extensions.crypt(%s, extensions.gen_salt('bf', 4)), %s)"
    )
    fresh.admin(insert, alive.account_id, "sk_alive", "sk_alive", alive.user_id)
    fresh.admin(insert, alive.user_id, "sk_orphan", "sk_orphan", alive.user_id)
    apply_all(fresh)
    keys = fresh.admin("select key_prefix, is_active from api_keys_private.api_keys order by 1")
    assert keys == [
        {"key_prefix": "sk_aliv", "is_active": True},
        {"key_prefix": "sk_orph", "is_active": False},
    ]
    assert fresh.verify("sk_alive")["valid"] is True
    assert fresh.verify("sk_orphan")["valid"] is False
