"""From every state of a target database the migrations end in one and the same schema."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._catalog import catalog
from tests.database._sql import Database, Tenant
from tests.database.conftest import make_database

STATES = Path(__file__).parent / "states"
STAND_IN, *MIGRATIONS = migrate.migration_files()
numbers = count()

FIRST_SCRIPT = STATES / "first_script.sql"
LIVE_KEYS = STATES / "live_keys.sql"
OTHER_SCRIPT = STATES / "other_script.sql"
PLAIN_PROJECT = (
    "grant usage on schema public to public, anon;"
    "alter default privileges for role postgres grant execute on functions to public;"
)

PATHS: dict[str, list[Path | str]] = {
    "the base schema only": [],
    "a plain project": [PLAIN_PROJECT],
    "the first script": [FIRST_SCRIPT],
    "the first script on a plain project": [PLAIN_PROJECT, FIRST_SCRIPT],
    "live keys": [LIVE_KEYS],
    "live keys on a plain project": [PLAIN_PROJECT, LIVE_KEYS],
    "migrated before": [*MIGRATIONS],
    "the first migration only": [MIGRATIONS[0]],
    "segments of another script": [OTHER_SCRIPT],
    "another script and live keys": [PLAIN_PROJECT, OTHER_SCRIPT, LIVE_KEYS],
    "the first script and live keys": [FIRST_SCRIPT, LIVE_KEYS],
    "the first script, live keys, migrated before": [FIRST_SCRIPT, LIVE_KEYS, *MIGRATIONS],
}

OLD_KEY = "sk_R7mGqXv2LbN9dTzKcYw4HsJfPeUa81"


def exists(db: Database, table: str) -> bool:
    (row,) = db.admin("select to_regclass(%s) is not null as exists", table)
    return bool(row["exists"])


def add_rows(db: Database, tenant: Tenant) -> dict[str, list[dict[str, Any]]]:
    """A row in each of the tables that are there, and how they read."""
    if exists(db, "public.segments"):
        db.admin(
            "insert into public.segments (account_id, name, source_type, source_id, filters, tags,"
            " created_by) values (%s, 'old', 'audience', '1', '[{\"field\": \"a\"}]', '{x}', %s)",
            tenant.account_id,
            tenant.user_id,
        )
    if exists(db, "public.enrichment_tracking"):
        db.admin(
            "insert into public.enrichment_tracking (account_id, audience_id, enrichment_type,"
            " metadata, created_by) values (%s, gen_random_uuid(), 'email', '{\"a\": 1}', %s)",
            tenant.account_id,
            tenant.user_id,
        )
    if exists(db, "api_keys_private.api_keys"):
        (key,) = db.admin(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by) values (%s, 'old', left(%s, 7),"
            " extensions.crypt(%s, extensions.gen_salt('bf', 4)), %s) returning id",
            tenant.account_id,
            OLD_KEY,
            OLD_KEY,
            tenant.user_id,
        )
        db.admin(
            "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method)"
            " values (%s, '/', 'GET')",
            key["id"],
        )
    return rows(db)


def rows(db: Database) -> dict[str, list[dict[str, Any]]]:
    tables = (
        *("public.segments", "public.enrichment_tracking"),
        *("api_keys_private.api_keys", "api_keys_private.api_key_logs"),
    )
    return {table: db.admin(f"select * from {table}") for table in tables if exists(db, table)}


@pytest.mark.parametrize("path", PATHS)
def test_every_state_ends_in_the_same_schema(
    server: PostgresServer, db: Database, path: str
) -> None:
    target = make_database(server, f"state_{next(numbers)}", migrated=False)
    for step in (STAND_IN, *PATHS[path]):
        target.apply(step.read_text() if isinstance(step, Path) else step)
    tenant = target.add_tenant()
    before = add_rows(target, tenant)

    for migration in MIGRATIONS:
        target.apply(migration.read_text())

    assert catalog(target) == catalog(db)
    after = rows(target)
    for table, kept in before.items():
        assert after[table] == kept, table
    if before.get("api_keys_private.api_keys"):
        check_that_the_old_key_works(target, tenant)
    check_that_everything_works(target, tenant)


def check_that_the_old_key_works(db: Database, tenant: Tenant) -> None:
    for _ in range(2):
        assert db.verify(OLD_KEY)["account_id"] == tenant.account_id
    (key,) = db.admin("select key_hash from api_keys_private.api_keys where name = 'old'")
    assert len(key["key_hash"]) == 64


def check_that_everything_works(db: Database, tenant: Tenant) -> None:
    assert db.verify(db.create_key(tenant)["key"])["valid"] is True
    assert isinstance(db.create_segment(tenant), UUID)
    assert isinstance(db.create_job(tenant), UUID)
    other = db.add_tenant().member
    for table in ("segments", "enrichment_tracking"):
        assert db.value(other, f"select count(*) from public.{table}") == 0
