"""Who may do what: written down here, and compared with what the database says."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._catalog import catalog
from tests.database._sql import Database
from tests.database.conftest import make_database

ROLES = ("anon", "authenticated", "service_role", "api_key")

EXECUTE = {
    "public.create_api_key": {"authenticated"},
    "public.list_api_keys": {"authenticated"},
    "public.revoke_api_key": {"authenticated"},
    "public.revoke_api_keys_of": {"authenticated", "service_role"},
    "public.verify_api_key": {"service_role", "api_key"},
    "public.log_api_key_usage": {"service_role"},
    "public.has_scope": {"api_key"},
    "public.get_api_key_account_id": {"api_key"},
    "public.create_studio_segment": {"authenticated"},
    "audiencelab_private.member_account_ids": {"authenticated"},
    "audiencelab_private.caller_id": set(),
    "audiencelab_private.is_member": set(),
    "audiencelab_private.require_member": set(),
    "audiencelab_private.is_service": set(),
    "audiencelab_private.set_server_columns": set(),
    "audiencelab_private.keep_identity": set(),
    "audiencelab_private.enforce_limit": set(),
    "audiencelab_private.exceeds_json_limit": {"authenticated", "service_role", "api_key"},
    "audiencelab_private.exceeds_texts_limit": {"authenticated", "service_role", "api_key"},
    "audiencelab_private.require_ownership": set(),
    "audiencelab_private.revoke_privileges": set(),
    "audiencelab_private.prepare_functions": set(),
    "audiencelab_private.apply_type": set(),
    "audiencelab_private.apply_table": set(),
    "audiencelab_private.apply_foreign_keys": set(),
    "audiencelab_private.apply_parts": set(),
    "audiencelab_private.apply_columns": set(),
    "audiencelab_private.table_parts": set(),
    "audiencelab_private.table_columns": set(),
    "audiencelab_private.publish": set(),
    "api_keys_private.require_scopes": set(),
    "api_keys_private.base62": set(),
    "api_keys_private.random_base62": set(),
    "api_keys_private.crc32": set(),
    "api_keys_private.generate_api_key": set(),
    "api_keys_private.require_manager": set(),
    "api_keys_private.require_live_caller": set(),
    "api_keys_private.admit_comparison": set(),
    "api_keys_private.count_failed_comparisons": set(),
    "public.delete_studio_segment": {"authenticated"},
    "public.restore_studio_segment": {"authenticated"},
    "public.report_enrichment_progress": {"authenticated", "service_role", "api_key"},
    "public.reset_enrichment_progress": {"service_role"},
    "public.log_api_key_usage_batch": {"service_role"},
    "api_keys_private.has_scope_on_all": {"api_key"},
    "api_keys_private.scoped_entity_ids": {"api_key"},
    "api_keys_private.log_usage_events": set(),
    "enrichment_private.may_write": set(),
    "enrichment_private.keep_counters": set(),
    "enrichment_private.count_records": set(),
}

# Why each of these runs with its owner's rights. A new one needs a reason here.
SECURITY_DEFINER = {
    "public.create_api_key": "the keys are closed to everybody; checks membership",
    "public.list_api_keys": "the keys are closed to everybody; checks membership",
    "public.revoke_api_key": "the keys are closed to everybody; checks membership",
    "public.verify_api_key": "the keys are closed to everybody; the caller holds the key's text",
    "public.log_api_key_usage": "the logs are closed to everybody; service_role only",
    "public.has_scope": "the keys are closed to everybody; the caller's own key",
    "public.get_api_key_account_id": "the keys are closed to everybody; the caller's own key",
    "public.revoke_api_keys_of": "the keys are closed to everybody; checks membership",
    "audiencelab_private.caller_id": "api_key has no access to schema auth; the caller's own id",
    "audiencelab_private.is_service": "compares the request's role with the owner of our functions",
    "audiencelab_private.set_server_columns": "the shared functions are closed; own id only",
    "audiencelab_private.member_account_ids": "row security on memberships; the caller's own",
    "public.create_studio_segment": "the shared functions are closed; checks membership",
    "public.delete_studio_segment": "finds a segment that is deleted already; checks membership",
    "public.restore_studio_segment": "row security hides deleted segments; checks membership",
    "public.report_enrichment_progress": "the workers' totals are closed; checks who may write",
    "public.reset_enrichment_progress": "the sums are closed to everybody; service_role only",
    "public.log_api_key_usage_batch": "the logs are closed to everybody; service_role only",
    "api_keys_private.scoped_entity_ids": "the keys are closed to everybody; the caller's own key",
}

READ_WRITE = {"SELECT", "INSERT", "UPDATE", "DELETE"}
TABLES: dict[str, dict[str, set[str]]] = {
    "public.enrichment_tracking": {
        "authenticated": READ_WRITE - {"DELETE"},
        "service_role": READ_WRITE,
        "api_key": {"SELECT"},  # and UPDATE of some columns
    },
    "public.segments": {
        "authenticated": READ_WRITE,
        "service_role": READ_WRITE,
        "api_key": {"SELECT"},
    },
    "api_keys_private.api_keys": {"service_role": READ_WRITE},
    "api_keys_private.api_key_logs": {"service_role": READ_WRITE},
    "api_keys_private.failed_comparisons": {"service_role": {"SELECT", "DELETE"}},
    "api_keys_private.settings": {"service_role": {"SELECT", "UPDATE"}},
    "api_keys_private.live_api_keys": {"service_role": {"SELECT"}},
    "api_keys_private.bcrypt_api_keys": {"service_role": {"SELECT"}},
    "enrichment_private.worker_progress": {"service_role": READ_WRITE},
}

OUR_FUNCTIONS = """
    select pronamespace::regnamespace || '.' || proname as name, oid, prosecdef, proconfig, prosrc,
           exists (
             select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0
           ) as is_public
    from pg_proc
    where pronamespace::regnamespace::text in
      ('audiencelab_private', 'api_keys_private', 'enrichment_private', 'public')
      and proname not in ('has_role_on_account', 'trigger_set_timestamps')
"""


@pytest.fixture(scope="module")
def plain(server: PostgresServer) -> Database:
    """A plain Supabase project, which gives everything new in public to everybody."""
    db = make_database(server, "plain", migrated=False)
    stand_in, *rest = migrate.migration_files()
    as_postgres = migrate.as_role(db.admin_url, "postgres")
    migrate.apply_migrations(as_postgres, [stand_in])
    db.admin("grant usage on schema public to public, anon")
    db.admin("alter default privileges for role postgres grant execute on functions to public")
    migrate.apply_migrations(as_postgres, rest)
    return db


def test_functions_are_executable_by_exactly_whom_they_are_for(db: Database) -> None:
    may_execute = "select 1 where has_function_privilege(%s, %s::oid, 'execute')"
    for function in db.admin(OUR_FUNCTIONS):
        assert not function["is_public"], function["name"]
        executors = {role for role in ROLES if db.admin(may_execute, role, function["oid"])}
        assert executors == EXECUTE[function["name"]], function["name"]


def test_every_function_has_an_expectation(db: Database) -> None:
    assert {function["name"] for function in db.admin(OUR_FUNCTIONS)} == set(EXECUTE)


def test_no_function_looks_for_anything_in_the_callers_schemas_first(db: Database) -> None:
    for function in db.admin(OUR_FUNCTIONS):
        assert function["proconfig"] == ["search_path=pg_catalog, pg_temp"], function["name"]


def test_security_definer_functions_have_a_reason(db: Database) -> None:
    definers = {row["name"] for row in db.admin(OUR_FUNCTIONS) if row["prosecdef"]}
    assert definers == set(SECURITY_DEFINER)


def test_no_function_raises_what_makes_postgrest_repeat_for_ever(db: Database) -> None:
    for function in db.admin(OUR_FUNCTIONS):
        assert "40001" not in function["prosrc"]
        assert "serialization_failure" not in function["prosrc"]


def test_tables_are_open_to_exactly_whom_they_are_for(db: Database) -> None:
    privileges = db.admin(
        """
        select oid::regclass::text as table,
               case grantee when 0 then 'public' else pg_get_userbyid(grantee) end as role,
               array_agg(privilege_type) as privileges, bool_or(is_grantable) as is_grantable
        from pg_class
        cross join lateral aclexplode(coalesce(relacl, acldefault('r', relowner)))
        where relkind in ('r', 'v') and grantee <> relowner
          and (relnamespace::regnamespace::text in ('api_keys_private', 'enrichment_private')
               or oid in ('public.segments'::regclass, 'public.enrichment_tracking'::regclass))
        group by 1, 2
        """
    )
    actual: dict[str, dict[str, set[str]]] = {table: {} for table in TABLES}
    for row in privileges:
        assert not row["is_grantable"]
        name = row["table"] if "." in row["table"] else f"public.{row['table']}"
        actual[name][row["role"]] = set(row["privileges"])
    assert actual == TABLES


def test_every_table_has_row_security(db: Database) -> None:
    rows = db.admin(
        "select relname, relrowsecurity from pg_class where relkind = 'r'"
        " and relnamespace::regnamespace::text in"
        " ('audiencelab_private', 'api_keys_private', 'enrichment_private', 'public')"
    )
    assert {row["relname"] for row in rows} >= {"segments", "enrichment_tracking", "api_keys"}
    assert all(row["relrowsecurity"] for row in rows), rows


@pytest.mark.parametrize("schema", ["api_keys_private", "enrichment_private"])
def test_a_private_schema_is_closed_to_all_but_the_service_role(db: Database, schema: str) -> None:
    usage = "select has_schema_privilege(%s, %s, 'usage') as allowed"
    allowed = {role for role in ROLES if db.admin(usage, role, schema)[0]["allowed"]}
    assert allowed == {"service_role"}
    assert db.admin("select * from pg_policies where schemaname = %s", schema) == []


def test_the_shared_functions_are_in_a_schema_that_nobody_uses(db: Database) -> None:
    usage = "select has_schema_privilege(%s, 'audiencelab_private', 'usage') as allowed"
    assert not any(db.admin(usage, role)[0]["allowed"] for role in ROLES)


def test_a_key_updates_a_job_but_not_whose_it_is_or_what_it_is_about(db: Database) -> None:
    rows = db.admin(
        "select attname from pg_attribute cross join lateral aclexplode(attacl)"
        " where attrelid = 'public.enrichment_tracking'::regclass"
        " and grantee = 'api_key'::regrole and privilege_type = 'UPDATE'"
    )
    assert {row["attname"] for row in rows} == {
        *("status", "total_records", "processed_records", "failed_records"),
        *("enrichment_fields", "metadata", "started_at", "completed_at"),
    }


def test_the_api_key_role_is_harmless_and_can_reach_its_functions(db: Database) -> None:
    (role,) = db.admin("select * from pg_roles where rolname = 'api_key'")
    for attribute in ("rolcanlogin", "rolbypassrls", "rolsuper", "rolcreaterole", "rolcreatedb"):
        assert role[attribute] is False, attribute
    (membership,) = db.admin("select pg_has_role('authenticator', 'api_key', 'member') as member")
    assert membership["member"] is True
    (usage,) = db.admin("select has_schema_privilege('api_key', 'public', 'usage') as usage")
    assert usage["usage"] is True


def test_a_plain_project_ends_with_the_same_privileges(db: Database, plain: Database) -> None:
    assert catalog(plain) == catalog(db)


def test_the_stand_in_closes_new_functions_to_public(db: Database) -> None:
    url = migrate.as_role(db.admin_url, "postgres")
    as_postgres = Database(url, url)
    as_postgres.admin("create function public.new_one() returns int language sql return 1")
    (row,) = db.admin(
        "select has_function_privilege('api_key', 'public.new_one()', 'execute') as is_public"
    )
    db.admin("drop function public.new_one()")
    assert row["is_public"] is False


def test_both_public_tables_are_in_realtime(db: Database) -> None:
    rows = db.admin(
        "select schemaname, tablename from pg_publication_tables"
        " where pubname = 'supabase_realtime' order by tablename"
    )
    assert [(row["schemaname"], row["tablename"]) for row in rows] == [
        ("public", "enrichment_tracking"),
        ("public", "segments"),
    ]


def test_everything_is_commented(db: Database) -> None:
    comments = " ".join(catalog(db)["comments"])
    for name in [*EXECUTE, *TABLES]:
        assert name.removeprefix("public.") in comments, name


def test_versions_are_not_those_of_v3s_own_history() -> None:
    taken = {"20250101000000", "20250101000001", "20250115000000", "20250115000001"}
    versions = [file.name.partition("_")[0] for file in migrate.migration_files()]
    assert len(set(versions)) == len(versions)
    assert not taken & set(versions)


def test_every_migration_has_a_rollback() -> None:
    for file in migrate.migration_files():
        assert (Path(file).parents[1] / "rollback" / file.name).is_file(), file.name
