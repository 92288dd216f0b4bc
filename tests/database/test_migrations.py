"""Applying the migrations again, to databases that lack something, and taking them back."""

from __future__ import annotations

import subprocess
from itertools import count

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._errors import MigrationError
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests.database._catalog import catalog
from tests.database._sql import Database
from tests.database.conftest import make_database

STAND_IN, STAGING, SUPPORT = migrate.migration_files()
CONFIRMED = "set audiencelab.confirm_rollback = 'delete enrichment jobs, segments and API keys';"
SUPPORT_CONFIRMED = "set audiencelab.confirm_rollback = 'delete the progress of workers';"
numbers = count()


def rollback_of(name: str) -> str:
    return (STAGING.parents[1] / "rollback" / name).read_text()


def dump(db: Database) -> str:
    """The schema and the roles as pg_dump sees them, without what differs on every run."""
    commands = (
        ["pg_dump", "--schema-only", db.admin_url],
        ["pg_dumpall", "--roles-only", "--no-role-passwords", "--dbname", db.admin_url],
    )
    text = ""
    for program, *arguments in commands:
        command = [str(find_programs() / program), *arguments]
        text += subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in text.splitlines() if "restrict" not in line)


def test_running_it_again_changes_nothing(db: Database) -> None:
    oids = (
        "select oid from pg_proc where pronamespace = 'api_keys_private'::regnamespace"
        " or proname = 'verify_api_key' union all"
        " select indexrelid from pg_index where indrelid = 'public.segments'::regclass order by 1"
    )
    tenant = db.add_tenant()
    key = db.create_key(tenant)
    segment = db.create_segment(tenant)
    before = catalog(db), db.admin(oids)
    for file in (STAND_IN, STAGING, SUPPORT, SUPPORT, STAGING):
        db.apply(file.read_text())
        assert (catalog(db), db.admin(oids)) == before
    assert db.verify(key["key"])["valid"] is True
    assert db.admin("select id from public.segments where id = %s", segment) == [{"id": segment}]


def test_without_the_base_schema_all_that_is_missing_is_named(server: PostgresServer) -> None:
    db = make_database(server, f"bare_{next(numbers)}", migrated=False)
    db.admin("drop extension pgcrypto")
    db.admin("drop publication supabase_realtime")
    before = dump(db)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        db.apply(STAGING.read_text())
    message = refusal.value.diag.message_primary or ""
    assert message.splitlines() == [
        "nothing was changed, because this is missing:",
        (
            "- public.accounts, public.accounts_memberships,"
            " public.has_role_on_account(uuid, character varying),"
            " public.trigger_set_timestamps(): apply V3's base schema first"
        ),
        (
            "- extensions.crypt(text, text), extensions.gen_random_bytes(integer):"
            " run: create extension pgcrypto with schema extensions,"
            " or if it is elsewhere: alter extension pgcrypto set schema extensions"
        ),
        "- publication supabase_realtime: run: create publication supabase_realtime",
    ]
    assert dump(db) == before


def test_with_too_few_privileges_what_is_missing_is_named(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "unprivileged", migrated=False)
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAND_IN])
    before = dump(db)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        db.apply(STAGING.read_text(), role="authenticator")
    message = refusal.value.diag.message_primary or ""
    assert message.splitlines()[1:] == [
        (
            "- the right to add tables to publication supabase_realtime,"
            " the right to create in schema public and to grant its use,"
            " the right to create role api_key and to grant it, the right to create schemas,"
            " the right to reference public.accounts and auth.users,"
            " the right to use the schemas auth and extensions:"
            " run this as a role that has it, such as postgres; you are authenticator"
        )
    ]
    assert dump(db) == before


def test_on_a_database_that_is_not_supabase_it_says_so(server: PostgresServer) -> None:
    url = migrate.create_database(server.admin_url, f"other_{next(numbers)}")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="a Supabase database"):
        Database(url, url).apply(STAGING.read_text(), role="postgres")


def test_a_failure_half_way_leaves_nothing_half_done(fresh: Database) -> None:
    fresh.admin("create view public.segments as select 1 as id")
    fresh.admin("alter view public.segments owner to postgres")
    before = dump(fresh)
    with pytest.raises(psycopg.Error):
        fresh.apply(STAGING.read_text())
    assert dump(fresh) == before


def test_a_rollback_refuses_until_it_is_confirmed(db: Database, fresh: Database) -> None:
    before = catalog(db)
    for text in ("", "set audiencelab.confirm_rollback = 'yes';"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
            db.apply(text + rollback_of(SUPPORT.name))
        message = refusal.value.diag.message_primary or ""
        assert "nothing was changed" in message
        assert SUPPORT_CONFIRMED.rstrip(";") in message
    assert catalog(db) == before
    fresh.apply(STAGING.read_text())
    before = catalog(fresh)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        fresh.apply(rollback_of(STAGING.name))
    assert CONFIRMED.rstrip(";") in (refusal.value.diag.message_primary or "")
    assert catalog(fresh) == before


def test_the_rollback_takes_back_exactly_what_was_done(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "rollback", migrated=False)
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAND_IN])
    before = dump(db)
    db.apply(STAGING.read_text())
    assert dump(db) != before
    for _ in range(2):
        db.apply(CONFIRMED + rollback_of(STAGING.name))
        assert dump(db) == before
    db.apply(STAGING.read_text())
    with_staging = dump(db)
    db.apply(SUPPORT.read_text())
    assert dump(db) != with_staging
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=SUPPORT.name):
        db.apply(CONFIRMED + rollback_of(STAGING.name))
    for _ in range(2):
        db.apply(SUPPORT_CONFIRMED + rollback_of(SUPPORT.name))
        assert dump(db) == with_staging
    assert db.verify(db.create_key(db.add_tenant())["key"])["valid"] is True


def test_the_stand_in_leaves_a_real_base_schema_alone(server: PostgresServer) -> None:
    db = make_database(server, f"real_{next(numbers)}", migrated=False)
    db.apply("create table public.accounts (id uuid primary key, theirs text)")
    before = dump(db)
    db.apply(STAND_IN.read_text())
    db.apply(rollback_of(STAND_IN.name))
    assert dump(db) == before


def test_the_stand_in_can_be_taken_back_when_that_is_confirmed(fresh: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was changed"):
        fresh.apply(rollback_of(STAND_IN.name))
    confirmed = "set audiencelab.confirm_rollback = 'delete the stand-in accounts';"
    fresh.apply(confirmed + rollback_of(STAND_IN.name))
    assert fresh.admin("select to_regclass('public.accounts') as accounts") == [{"accounts": None}]


def test_the_second_migration_says_that_the_first_is_missing(fresh: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=STAGING.name):
        fresh.apply(SUPPORT.read_text())


@pytest.mark.parametrize(
    "harm",
    [
        "create role api_key login bypassrls",
        "create role api_key createrole",
        "create role api_key; grant service_role to api_key",
    ],
)
def test_a_harmful_api_key_role_is_reported(bare_server: PostgresServer, harm: str) -> None:
    db = make_database(bare_server, "harmful", migrated=False)
    db.apply(harm, role="postgres") if "bypassrls" not in harm else db.admin(harm)
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAND_IN])
    with pytest.raises(MigrationError, match="alter role api_key nologin"):
        migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAGING])


def test_a_project_that_is_not_v3s_is_left_alone(server: PostgresServer) -> None:
    db = make_database(server, f"todo_{next(numbers)}", migrated=False)
    db.apply("create table public.todos (id int)")
    before = dump(db)
    db.apply(STAND_IN.read_text())
    assert dump(db) == before
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="base schema first"):
        db.apply(STAGING.read_text())
    assert dump(db) == before


def test_a_yes_to_a_rollback_holds_once(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "once", migrated=False)
    for migration in (STAND_IN, STAGING):
        db.apply(migration.read_text())
    url = migrate.as_role(db.admin_url, "postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((CONFIRMED + rollback_of(STAGING.name)).encode())
        connection.execute(STAGING.read_text().encode())
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was"):
            connection.execute(rollback_of(STAGING.name).encode())
