"""Privileges on tables and schemas, and properties that all functions share."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._catalog import catalog
from tests.database._inventory import BASE_SCHEMA, FUNCTIONS, ROLES, SCHEMAS, TABLES
from tests.database._sql import Database
from tests.database.conftest import make_database


@pytest.fixture(scope="module")
def plain(server: PostgresServer) -> Database:
    """A plain Supabase project, whose default privileges grant new objects to all roles."""
    db = make_database(server, "plain", migrated=False)
    stand_in, *rest = migrate.migration_files()
    as_postgres = migrate.as_role(db.admin_url, "postgres")
    migrate.apply_migrations(as_postgres, [stand_in])
    db.admin("grant usage on schema public to public, anon")
    db.admin("alter default privileges for role postgres grant execute on functions to public")
    migrate.apply_migrations(as_postgres, rest)
    return db


def test_no_function_raises_40001_on_which_postgrest_retries_forever(db: Database) -> None:
    sources = db.admin(
        "select prosrc from pg_proc where pronamespace::regnamespace::text = any (%s)",
        list(SCHEMAS),
    )
    assert len(sources) >= len(FUNCTIONS)
    for row in sources:
        assert "40001" not in row["prosrc"]
        assert "serialization_failure" not in row["prosrc"]


def test_the_privileges_on_tables_are_those_of_the_inventory(db: Database) -> None:
    privileges = db.admin(
        """
        select oid::regclass::text as table,
               case grantee when 0 then 'public' else pg_get_userbyid(grantee) end as role,
               array_agg(privilege_type) as privileges, bool_or(is_grantable) as is_grantable
        from pg_class
        cross join lateral aclexplode(coalesce(relacl, acldefault('r', relowner)))
        where relkind in ('r', 'v') and grantee <> relowner
          and relnamespace::regnamespace::text = any (%s) and relname <> all (%s)
        group by 1, 2
        """,
        list(SCHEMAS),
        list(BASE_SCHEMA),
    )
    actual: dict[str, dict[str, set[str]]] = {table: {} for table in TABLES}
    for row in privileges:
        assert not row["is_grantable"]
        name = row["table"] if "." in row["table"] else f"public.{row['table']}"
        actual[name][row["role"]] = set(row["privileges"])
    assert actual == TABLES


def test_every_table_has_row_level_security(db: Database) -> None:
    rows = db.admin(
        "select relname, relrowsecurity from pg_class where relkind = 'r'"
        " and relnamespace::regnamespace::text = any (%s)",
        list(SCHEMAS),
    )
    assert {row["relname"] for row in rows} >= {"segments", "enrichment_tracking", "api_keys"}
    assert all(row["relrowsecurity"] for row in rows), rows


@pytest.mark.parametrize("schema", ["api_keys_private", "enrichment_private"])
def test_only_service_role_has_usage_of_a_private_schema(db: Database, schema: str) -> None:
    usage = "select has_schema_privilege(%s, %s, 'usage') as allowed"
    allowed = {role for role in ROLES if db.admin(usage, role, schema)[0]["allowed"]}
    assert allowed == {"service_role"}
    assert db.admin("select * from pg_policies where schemaname = %s", schema) == []


def test_no_role_has_usage_of_the_schema_of_the_shared_functions(db: Database) -> None:
    usage = "select has_schema_privilege(%s, 'audiencelab_private', 'usage') as allowed"
    assert not any(db.admin(usage, role)[0]["allowed"] for role in ROLES)


def test_a_key_cannot_update_the_columns_that_identify_a_job(db: Database) -> None:
    rows = db.admin(
        "select attname from pg_attribute cross join lateral aclexplode(attacl)"
        " where attrelid = 'public.enrichment_tracking'::regclass"
        " and grantee = 'api_key'::regrole and privilege_type = 'UPDATE'"
    )
    assert {row["attname"] for row in rows} == {
        *("status", "total_records", "processed_records", "failed_records"),
        *("enrichment_fields", "metadata", "started_at", "completed_at"),
    }


def test_a_key_updates_a_segment_but_not_whose_it_is(db: Database) -> None:
    rows = db.admin(
        "select attname from pg_attribute cross join lateral aclexplode(attacl)"
        " where attrelid = 'public.segments'::regclass"
        " and grantee = 'api_key'::regrole and privilege_type = 'UPDATE'"
    )
    assert {row["attname"] for row in rows} == {
        *("name", "description", "source_type", "source_id", "filters", "custom_columns"),
        *("enrichment_fields", "tags", "deleted"),
    }


def test_role_api_key_has_no_attributes_and_has_usage_of_schema_public(db: Database) -> None:
    (role,) = db.admin("select * from pg_roles where rolname = 'api_key'")
    for attribute in ("rolcanlogin", "rolbypassrls", "rolsuper", "rolcreaterole", "rolcreatedb"):
        assert role[attribute] is False, attribute
    (membership,) = db.admin("select pg_has_role('authenticator', 'api_key', 'member') as member")
    assert membership["member"] is True
    (usage,) = db.admin("select has_schema_privilege('api_key', 'public', 'usage') as usage")
    assert usage["usage"] is True


def test_a_plain_project_ends_with_the_same_privileges(db: Database, plain: Database) -> None:
    assert catalog(plain) == catalog(db)


def test_the_stand_in_revokes_execute_on_new_functions_from_public(db: Database) -> None:
    url = migrate.as_role(db.admin_url, "postgres")
    as_postgres = Database(url, url)
    as_postgres.admin("create function public.new_one() returns int language sql return 1")
    (row,) = db.admin(
        "select has_function_privilege('api_key', 'public.new_one()', 'execute') as is_public"
    )
    db.admin("drop function public.new_one()")
    assert row["is_public"] is False


def test_both_public_tables_are_published_to_realtime(db: Database) -> None:
    rows = db.admin(
        "select schemaname, tablename from pg_publication_tables"
        " where pubname = 'supabase_realtime' order by tablename"
    )
    assert [(row["schemaname"], row["tablename"]) for row in rows] == [
        ("public", "enrichment_tracking"),
        ("public", "segments"),
    ]


def test_every_function_and_table_has_a_comment(db: Database) -> None:
    comments = " ".join(catalog(db)["comments"])
    for name in (*(function.name for function in FUNCTIONS), *TABLES):
        assert name.removeprefix("public.") in comments, name


def test_no_version_is_part_of_v3s_own_history() -> None:
    taken = {"20250101000000", "20250101000001", "20250115000000", "20250115000001"}
    versions = [file.name.partition("_")[0] for file in migrate.migration_files()]
    assert len(set(versions)) == len(versions)
    assert not taken & set(versions)


def test_every_migration_has_a_rollback() -> None:
    for file in migrate.migration_files():
        assert (Path(file).parents[1] / "rollback" / file.name).is_file(), file.name
