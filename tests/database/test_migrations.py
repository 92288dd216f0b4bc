"""Repeat migrations, apply them without their prerequisites, and roll them back."""

from __future__ import annotations

import subprocess
from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests.database._catalog import catalog
from tests.database._sql import Database, warnings_of
from tests.database._states import RECORDED, apply_state, provide_uuid_ossp
from tests.database.conftest import make_database

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STAND_IN, *MIGRATIONS = migrate.migration_files()
FOUNDATION, API_KEYS, LIFE_CYCLE, USAGE, JOBS, SEGMENTS, DIRECT_ACCESS = MIGRATIONS
CONFIRMATIONS = {
    FOUNDATION: "",
    API_KEYS: "set audiencelab.confirm_rollback = 'delete all API keys';",
    LIFE_CYCLE: "",
    USAGE: "set audiencelab.confirm_rollback = 'delete the usage of all API keys';",
    JOBS: "set audiencelab.confirm_rollback = 'delete all enrichment jobs';",
    SEGMENTS: "set audiencelab.confirm_rollback = 'delete all segments';",
    DIRECT_ACCESS: "",
}
# The script with which the team rolled back the first staging script.
OLD_ROLLBACK = """
    drop table if exists public.enrichment_tracking cascade;
    drop table if exists public.segments cascade;
    drop schema if exists api_keys_private cascade;
    drop function if exists public.create_api_key(uuid, text, jsonb, timestamptz) cascade;
    drop function if exists public.list_api_keys(uuid) cascade;
    drop function if exists public.revoke_api_key(uuid) cascade;
    drop function if exists public.verify_api_key(text) cascade;
    drop function if exists
      public.log_api_key_usage(uuid, text, text, integer, text, text) cascade;
    drop function if exists public.has_scope(text, text, text) cascade;
    drop function if exists public.get_api_key_account_id() cascade;
    drop function if exists public.create_studio_segment(
      uuid, text, text, text, text, jsonb, text[], jsonb, text[]) cascade;
    drop type if exists public.create_api_key_response cascade;
    drop type if exists public.verify_api_key_response cascade;
    drop type if exists public.api_key_usage_log_response cascade;
"""
numbers = count()


def rollback_of(migration: Path) -> str:
    return (migration.parents[1] / "rollback" / migration.name).read_text()


def confirmed_rollback_of(migration: Path) -> str:
    return CONFIRMATIONS[migration] + rollback_of(migration)


def apply_all(db: Database, files: Iterable[Path] = MIGRATIONS) -> None:
    for file in files:
        db.apply(file.read_text())


def dump(db: Database) -> str:
    """The schema and the roles according to pg_dump, without lines that differ on every run."""
    commands = (
        ["pg_dump", "--schema-only", db.admin_url],
        ["pg_dumpall", "--roles-only", "--no-role-passwords", "--dbname", db.admin_url],
    )
    text = ""
    for program, *arguments in commands:
        command = [str(find_programs() / program), *arguments]
        text += subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout
    return "\n".join(line for line in text.splitlines() if "restrict" not in line)


def test_a_second_run_changes_nothing(db: Database) -> None:
    oids = (
        "select oid from pg_proc where pronamespace::regnamespace::text like '%%_private'"
        " or pronamespace = 'public'::regnamespace union all"
        " select oid from pg_policy union all select oid from pg_trigger union all"
        " select oid from pg_constraint union all"
        " select indexrelid from pg_index where indrelid = 'public.segments'::regclass order by 1"
    )
    tenant = db.add_tenant()
    key = db.create_key(tenant)
    segment = db.create_segment(tenant)
    before = catalog(db), db.admin(oids)
    for file in (STAND_IN, *MIGRATIONS, *reversed(MIGRATIONS)):
        assert warnings_of(db, file.read_text()) == []
        assert (catalog(db), db.admin(oids)) == before
    assert db.verify(key["key"])["valid"] is True
    assert db.admin("select id from public.segments where id = %s", segment) == [{"id": segment}]


def test_a_second_run_takes_no_lock_that_blocks_reads_or_the_base_schema(db: Database) -> None:
    locks = """
        select relation::regclass::text, mode
        from pg_locks
        join pg_class on pg_class.oid = relation
        where pid = pg_backend_pid() and relkind = 'r' and (
          (relation in ('public.accounts'::regclass, 'auth.users'::regclass)
           and mode not in ('AccessShareLock', 'RowShareLock'))
          or (mode = 'AccessExclusiveLock' and relation in (
            'public.segments'::regclass, 'public.enrichment_tracking'::regclass,
            'api_keys_private.api_keys'::regclass, 'api_keys_private.api_key_logs'::regclass)))
    """
    url = migrate.as_role(db.admin_url, "postgres")
    for file in MIGRATIONS:
        with psycopg.connect(url) as connection:
            connection.execute(file.read_text().rpartition("commit;")[0].encode())
            assert connection.execute(locks.encode()).fetchall() == [], file.name
            connection.rollback()


# A vacuum holds a share update exclusive lock on its table. It waits for a transaction that has
# changed the row of the table, or of an index, in pg_class. If that transaction takes such a lock
# only afterwards, the two deadlock.
WRITES_BEFORE_LOCKS = """
    create function public.refuse_writes_before_locks() returns event_trigger language plpgsql as $$
    declare
      v_table regclass;
    begin
      select coalesce(indrelid, class.oid) into v_table
      from pg_class as class
      left join pg_index on indexrelid = class.oid
      where class.relkind in ('r', 'p', 'i', 'I') and class.xmin = pg_current_xact_id()::xid
        and not exists (
          select from pg_locks
          where pid = pg_backend_pid() and relation = coalesce(indrelid, class.oid)
            and mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
              'ExclusiveLock', 'AccessExclusiveLock'));
      if found then
        raise exception using
          message = format('%%s is changed by %%s before it is locked', v_table, tg_tag);
      end if;
    end;
    $$;
    create event trigger refuse_writes_before_locks on ddl_command_end
      execute function public.refuse_writes_before_locks();
"""


@pytest.mark.parametrize("state", [*RECORDED, "a second run"])
def test_no_deadlock_with_vacuum(fresh: Database, state: str) -> None:
    if state == "a second run":
        apply_all(fresh)
    else:
        apply_state(fresh, state)
    fresh.admin(WRITES_BEFORE_LOCKS)
    apply_all(fresh)


def test_each_file_requires_only_those_that_it_depends_on(fresh: Database, db: Database) -> None:
    of_api_keys = [LIFE_CYCLE, USAGE, JOBS, SEGMENTS, DIRECT_ACCESS]
    for missing, dependents in ((FOUNDATION, [API_KEYS]), (API_KEYS, of_api_keys)):
        for file in dependents:
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=missing.name):
                fresh.apply(file.read_text())
        apply_all(fresh, [missing])
    apply_all(fresh, [SEGMENTS])
    assert fresh.admin("select to_regnamespace('enrichment_private') as made") == [{"made": None}]
    apply_all(fresh, [DIRECT_ACCESS, JOBS, USAGE, LIFE_CYCLE])
    assert catalog(fresh) == catalog(db)


def test_after_the_old_rollback_the_migrations_apply_again(fresh: Database, db: Database) -> None:
    apply_all(fresh)
    tenant = fresh.add_tenant()
    fresh.create_key(tenant)
    job = fresh.create_job(tenant)
    report = "select public.report_enrichment_progress(%s, 'w1', 3, 0)"
    fresh.rows(tenant.member, report, job)

    fresh.apply(OLD_ROLLBACK)
    apply_all(fresh)

    assert catalog(fresh) == catalog(db)
    assert fresh.verify(fresh.create_key(tenant)["key"])["valid"] is True
    job = fresh.create_job(tenant)
    assert fresh.rows(tenant.member, report, job)


# What an earlier version of the migration made in place of the totals of units.
WORKERS = """
    create table enrichment_private.worker_progress (
      job_id uuid not null,
      worker text not null,
      processed_records integer not null,
      failed_records integer not null,
      updated_at timestamptz not null default now(),
      constraint worker_progress_pkey primary key (job_id, worker),
      constraint worker_progress_job_id_fkey
        foreign key (job_id) references public.enrichment_tracking (id) on delete cascade
    );
    alter table enrichment_private.worker_progress enable row level security;
"""


@pytest.mark.parametrize("has_units", [False, True], ids=["workers", "workers and units"])
def test_the_totals_of_workers_become_those_of_units(
    fresh: Database, db: Database, has_units: bool
) -> None:
    apply_all(fresh)
    tenant = fresh.add_tenant()
    job, other = fresh.create_job(tenant), fresh.create_job(tenant)
    report = "select * from public.report_enrichment_progress(%s, %s, %s, %s)"
    if has_units:
        fresh.rows(tenant.member, report, job, "w1", 20, 0)
        fresh.rows(tenant.member, report, other, "w1", 5, 0)
    else:
        fresh.apply("drop table enrichment_private.unit_progress, enrichment_private.partial_sums;")
    fresh.apply(WORKERS)
    fresh.admin(
        "insert into enrichment_private.worker_progress"
        " values (%s, 'w1', 10, 1), (%s, 'w2', 30, 2)",
        job,
        job,
    )

    for _ in range(2):
        assert warnings_of(fresh, JOBS.read_text()) == []

    assert catalog(fresh) == catalog(db)
    first = 20 if has_units else 10
    for totals, expected in (((0, 0), first), ((25, 3), 25)):
        (row,) = fresh.rows(tenant.member, report, job, "w1", *totals)
        assert row["processed_records"] == expected + 30
    for each, expected in ((job, 55), (other, 5 if has_units else 0)):
        fresh.admin("update public.enrichment_tracking set status = 'failed' where id = %s", each)
        (row,) = fresh.admin("select * from public.enrichment_tracking where id = %s", each)
        assert row["processed_records"] == expected


def test_without_the_base_schema_all_missing_objects_are_reported(server: PostgresServer) -> None:
    db = make_database(server, f"bare_{next(numbers)}", migrated=False)
    db.admin("drop extension pgcrypto")
    db.admin("drop publication supabase_realtime")
    before = dump(db)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        db.apply(FOUNDATION.read_text())
    message = refusal.value.diag.message_primary or ""
    assert message.splitlines() == [
        "nothing was changed, because prerequisites are not met:",
        (
            "- public.accounts, public.accounts_memberships,"
            " public.has_role_on_account(uuid, character varying),"
            " public.roles, public.trigger_set_timestamps(): apply V3's base schema first"
        ),
        (
            "- extensions.crypt(text, text), extensions.gen_random_bytes(integer):"
            " run: create extension pgcrypto with schema extensions,"
            " or if it is in another schema: alter extension pgcrypto set schema extensions"
        ),
        "- publication supabase_realtime: run: create publication supabase_realtime",
    ]
    assert dump(db) == before


def test_without_the_privileges_all_missing_privileges_are_reported(
    bare_server: PostgresServer,
) -> None:
    db = make_database(bare_server, "unprivileged", migrated=False)
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAND_IN])
    before = dump(db)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        db.apply(FOUNDATION.read_text(), role="authenticator")
    message = refusal.value.diag.message_primary or ""
    assert message.splitlines()[1:] == [
        (
            "- the privilege to add tables to publication supabase_realtime,"
            " the privilege to create objects in schema public and to grant its usage,"
            " the privilege to create role api_key, the privilege to create schemas,"
            " the privilege to read auth.users,"
            " the privilege to reference public.accounts, public.roles and auth.users,"
            " the privilege to use the schemas auth and extensions:"
            " run the migration as a role that has it, such as postgres; the current role is"
            " authenticator"
        )
    ]
    assert dump(db) == before


def test_a_database_that_is_not_supabase_is_reported(server: PostgresServer) -> None:
    url = migrate.create_database(server.admin_url, f"other_{next(numbers)}")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="a Supabase database"):
        Database(url, url).apply(FOUNDATION.read_text(), role="postgres")


def test_a_failed_migration_changes_nothing(fresh: Database) -> None:
    apply_all(fresh, [FOUNDATION, API_KEYS])
    fresh.admin("create view public.segments as select 1 as id")
    fresh.admin("alter view public.segments owner to postgres")
    before = dump(fresh)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not an ordinary table"):
        fresh.apply(SEGMENTS.read_text())
    assert dump(fresh) == before


@pytest.mark.parametrize("migration", [API_KEYS, USAGE, JOBS, SEGMENTS], ids=lambda file: file.stem)
def test_a_rollback_raises_an_error_unless_confirmed(fresh: Database, migration: Path) -> None:
    apply_all(fresh, dict.fromkeys([FOUNDATION, API_KEYS, migration]))
    before = catalog(fresh)
    for text in ("", "set audiencelab.confirm_rollback = 'yes';"):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
            fresh.apply(text + rollback_of(migration))
        message = refusal.value.diag.message_primary or ""
        assert "nothing was changed" in message
        assert "including those from before the migration" in message
        assert CONFIRMATIONS[migration].rstrip(";") in message
    assert catalog(fresh) == before


def test_a_rollback_reports_the_migration_that_depends_on_it(fresh: Database) -> None:
    apply_all(fresh, [FOUNDATION, API_KEYS])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=API_KEYS.name):
        fresh.apply(confirmed_rollback_of(FOUNDATION))
    for dependent in (LIFE_CYCLE, USAGE, JOBS, SEGMENTS):
        apply_all(fresh, [dependent])
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=dependent.name):
            fresh.apply(confirmed_rollback_of(API_KEYS))
        fresh.apply(confirmed_rollback_of(dependent))


def test_each_rollback_restores_the_schema_before_its_migration(
    bare_server: PostgresServer,
) -> None:
    db = make_database(bare_server, "rollback", migrated=False)
    apply_all(db, [STAND_IN])
    before = {}
    for migration in MIGRATIONS:
        before[migration] = dump(db)
        apply_all(db, [migration])
        assert dump(db) != before[migration]
    for migration in reversed(MIGRATIONS):
        for _ in range(2):
            db.apply(confirmed_rollback_of(migration))
            assert dump(db) == before[migration], migration.name
        if migration is USAGE:
            assert db.verify(db.create_key(db.add_tenant())["key"])["valid"] is True
    apply_all(db)


def test_the_rollbacks_work_if_the_objects_existed_before(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "rollback_of_live", migrated=False)
    apply_all(db, [STAND_IN])
    provide_uuid_ossp(db)
    before = dump(db)
    for state in RECORDED:
        apply_state(db, state)
    apply_all(db)
    for migration in reversed(MIGRATIONS):
        db.apply(confirmed_rollback_of(migration))
    assert dump(db) == before


def test_the_rollback_keeps_a_role_that_other_objects_depend_on(
    bare_server: PostgresServer,
) -> None:
    db = make_database(bare_server, "used_role", migrated=False)
    apply_all(db, [STAND_IN, FOUNDATION])
    other = make_database(bare_server, "other_user")
    db.apply("create table public.reports (id uuid); grant select on public.reports to api_key;")
    warnings = warnings_of(db, rollback_of(FOUNDATION))
    (warning,) = warnings
    assert warning == (
        "role api_key is kept, because other objects depend on it:"
        " objects in database other_user, table public.reports"
    )
    (role,) = db.admin("select to_regrole('api_key') is not null as kept")
    assert role["kept"] is True
    apply_all(db)
    assert other.verify(other.create_key(other.add_tenant())["key"])["valid"] is True


def test_the_stand_in_does_not_change_a_real_base_schema(server: PostgresServer) -> None:
    db = make_database(server, f"real_{next(numbers)}", migrated=False)
    db.apply("create table public.accounts (id uuid primary key, theirs text)")
    before = dump(db)
    db.apply(STAND_IN.read_text())
    db.apply(rollback_of(STAND_IN))
    assert dump(db) == before


def test_the_rollback_of_the_stand_in_requires_a_confirmation(fresh: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was changed"):
        fresh.apply(rollback_of(STAND_IN))
    confirmed = "set audiencelab.confirm_rollback = 'delete the stand-in accounts';"
    fresh.apply(confirmed + rollback_of(STAND_IN))
    assert fresh.admin("select to_regclass('public.accounts') as accounts") == [{"accounts": None}]


@pytest.mark.parametrize(
    ("harm", "remedies"),
    [
        (
            "create role api_key login bypassrls",
            {
                "role api_key without the attribute bypassrls": "alter role api_key nobypassrls",
                "role api_key without the attribute login": "alter role api_key nologin",
            },
        ),
        (
            "create role api_key superuser",
            {"role api_key without the attribute superuser": "alter role api_key nosuperuser"},
        ),
        (
            "create role api_key createrole",
            {"role api_key without the attribute createrole": "alter role api_key nocreaterole"},
        ),
        (
            "create role api_key; grant service_role to api_key",
            {
                "role api_key without membership in service_role": (
                    "revoke service_role from api_key"
                )
            },
        ),
        (
            "create role api_key; grant api_key to anon",
            {"role api_key without the member anon": "revoke api_key from anon"},
        ),
    ],
)
def test_unsafe_attributes_and_memberships_of_the_role_are_reported_with_the_remedy(
    bare_server: PostgresServer, harm: str, remedies: dict[str, str]
) -> None:
    db = make_database(bare_server, "harmful", migrated=False)
    apply_all(db, [STAND_IN])
    db.admin(harm)
    db.admin("grant api_key to postgres with admin option")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        apply_all(db)
    message = refusal.value.diag.message_primary or ""
    assert [line.partition(": as ")[0] for line in message.splitlines()[1:]] == [
        f"- {missing}" for missing in remedies
    ]
    for line, remedy in zip(message.splitlines()[1:], remedies.values(), strict=True):
        assert line.endswith(f", run: {remedy}")
        db.admin(remedy)
    apply_all(db)


def test_a_role_that_the_caller_cannot_alter_is_reported_with_the_remedy(
    bare_server: PostgresServer,
) -> None:
    db = make_database(bare_server, "foreign_role", migrated=False)
    apply_all(db, [STAND_IN])
    db.admin("create role api_key")
    (version,) = db.admin("select current_setting('server_version_num')::integer as number")
    if version["number"] >= 160000:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
            apply_all(db)
        message = refusal.value.diag.message_primary or ""
        db.admin(message.rpartition("run: ")[2])
    apply_all(db)


@pytest.mark.parametrize("granted_by", ["postgres", "supabase_admin"])
def test_inheritance_and_membership_of_the_role_in_anon_are_revoked(
    bare_server: PostgresServer, granted_by: str
) -> None:
    db = make_database(bare_server, "inheriting", migrated=False)
    apply_all(db, [STAND_IN])
    db.apply("create role api_key nobypassrls")
    (version,) = db.admin("select current_setting('server_version_num')::integer as number")
    if granted_by == "postgres":
        db.apply("grant anon to api_key")
    else:
        db.admin("grant anon to api_key")
    if granted_by == "supabase_admin" and version["number"] >= 160000:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
            apply_all(db)
        message = refusal.value.diag.message_primary or ""
        assert "as supabase_admin, run: revoke anon from api_key" in message
        db.admin("revoke anon from api_key")
        db.apply("grant anon to api_key")
    warnings = warnings_of(db, FOUNDATION.read_text())
    assert warnings == [
        "role api_key is altered from inherit to noinherit",
        "the membership of api_key in anon is revoked",
    ]
    (role,) = db.admin("select rolinherit from pg_roles where rolname = 'api_key'")
    assert role["rolinherit"] is False
    assert db.admin("select from pg_auth_members where member = 'api_key'::regrole") == []


def test_a_project_without_v3_is_not_changed(server: PostgresServer) -> None:
    db = make_database(server, f"todo_{next(numbers)}", migrated=False)
    db.apply("create table public.todos (id int)")
    before = dump(db)
    db.apply(STAND_IN.read_text())
    assert dump(db) == before
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="base schema first"):
        db.apply(FOUNDATION.read_text())
    assert dump(db) == before


def test_a_confirmation_applies_to_one_rollback(fresh: Database) -> None:
    apply_all(fresh)
    url = migrate.as_role(fresh.admin_url, "postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(confirmed_rollback_of(SEGMENTS).encode())
        connection.execute(SEGMENTS.read_text().encode())
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was"):
            connection.execute(rollback_of(SEGMENTS).encode())
