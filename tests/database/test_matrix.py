"""Everybody tries everything, through SQL and through the REST API, and gets what is written here.

A table, function or policy of ours without a line here fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests.database._attempts import ACTORS, SECRET, World, refused, through_rest, through_sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.database._sql import Database

# One column an actor, in that order:
#   1  it works: the row is seen or changed, the answer is true, or some value
#   0  it is allowed, but there is nothing to see or change, or the answer is false or null
#   x  permission denied (42501)
#   4  it does not exist for them (PT404)
EXPECTED = {
    "select public.segments": "x 1 1 0 0 1 0 0 0 1",
    "insert public.segments": "x 1 1 x x x x x x 1",
    "update public.segments": "x 1 1 0 0 x x x x 1",
    "soft delete public.segments": "x 1 1 0 0 x x x x 1",
    "select deleted public.segments": "x 0 0 0 0 0 0 0 0 1",
    "update deleted public.segments": "x 0 0 0 0 x x x x 1",
    "delete public.segments": "x 1 1 0 0 x x x x 1",
    "select public.enrichment_tracking": "x 1 1 0 0 1 0 0 0 1",
    "insert public.enrichment_tracking": "x 1 1 x x x x x x 1",
    "update public.enrichment_tracking": "x 1 1 0 0 1 0 0 0 1",
    "delete public.enrichment_tracking": "x x x x x x x x x 1",
    "call create_api_key": "x 1 1 x x x x x x x",
    "call list_api_keys": "x 1 1 x x x x x x x",
    "call revoke_api_key": "x 1 1 x x x x x x x",
    "call revoke_api_keys_of": "x 1 1 x x x x x x 1",
    "call verify_api_key": "x x x x x 1 1 x x 1",
    "call log_api_key_usage": "x x x x x x x x x 1",
    "call log_api_key_usage_batch": "x x x x x x x x x 1",
    "call has_scope": "x x x x x 1 0 0 0 x",
    "call get_api_key_account_id": "x x x x x 1 1 0 0 x",
    "call create_studio_segment": "x 1 1 x x x x x x x",
    "call delete_studio_segment": "x 1 1 4 4 x x x x x",
    "call restore_studio_segment": "x 1 1 4 4 x x x x x",
    "call report_enrichment_progress": "x 1 1 4 4 1 4 4 4 1",
    "call reset_enrichment_progress": "x x x x x x x x x 1",
}

# Closed to everybody but service_role in SQL, and to everybody in the REST API.
PRIVATE_TABLES = {
    "api_keys_private.api_keys": "x x x x x x x x x 0",
    "api_keys_private.api_key_logs": "x x x x x x x x x 0",
    "api_keys_private.failed_comparisons": "x x x x x x x x x 0",
    "api_keys_private.settings": "x x x x x x x x x 0",
    "api_keys_private.live_api_keys": "x x x x x x x x x 0",
    "api_keys_private.bcrypt_api_keys": "x x x x x x x x x 0",
    "enrichment_private.worker_progress": "x x x x x x x x x 0",
}

# Of these, a role that may read them may not insert or delete.
READ_ONLY = {
    *("api_keys_private.settings", "api_keys_private.failed_comparisons"),
    *("api_keys_private.live_api_keys", "api_keys_private.bcrypt_api_keys"),
}

# The operations above that hold each policy to its word.
POLICIES = {
    ("segments", "segments_select"): "select public.segments",
    ("segments", "segments_insert"): "insert public.segments",
    ("segments", "segments_update"): "update public.segments",
    ("segments", "segments_delete"): "delete public.segments",
    ("segments", "segments_select_api_key"): "select public.segments",
    ("enrichment_tracking", "enrichment_tracking_select"): "select public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_insert"): "insert public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_update"): "update public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_select_api_key"): (
        "select public.enrichment_tracking"
    ),
    ("enrichment_tracking", "enrichment_tracking_update_api_key"): (
        "update public.enrichment_tracking"
    ),
}


@pytest.fixture(scope="module")
def world(db: Database) -> Iterator[World]:
    with psycopg.connect(db.admin_url, autocommit=True) as admin:
        yield World(db, admin)


@pytest.fixture(scope="module")
def api(db: Database) -> Iterator[httpx.Client]:
    settings = Settings(db_url=migrate.as_role(db.admin_url, "authenticator"), jwt_secret=SECRET)
    server = BackgroundServer(create_app(settings))
    with httpx.Client(base_url=f"http://127.0.0.1:{server.start()}") as client:
        yield client
    server.stop()


@pytest.mark.parametrize("transport", ["sql", "rest"])
@pytest.mark.parametrize("operation", EXPECTED)
def test_everybody_gets_what_is_written(
    db: Database, api: httpx.Client, world: World, operation: str, transport: str
) -> None:
    outcomes = {}
    for name, actor in world.actors.items():
        target = world.target()
        if " deleted " in operation or "restore" in operation:
            world.delete_softly(target)
        if transport == "sql":
            outcomes[name] = through_sql(db, actor, operation, target)
        else:
            outcomes[name] = through_rest(api, actor, operation, target)
    assert outcomes == dict(zip(ACTORS, EXPECTED[operation].split(), strict=True))


@pytest.mark.parametrize("table", PRIVATE_TABLES)
def test_private_tables_are_closed(
    db: Database, api: httpx.Client, world: World, table: str
) -> None:
    for name, expected in zip(ACTORS, PRIVATE_TABLES[table].split(), strict=True):
        statements = [
            f"select from {table} where false",
            f"insert into {table} select * from {table} where false",
            f"delete from {table} where false",
        ]
        for statement in statements[: 1 if table in READ_ONLY else 3]:
            try:
                outcome = str(db.affected(world.actors[name], statement))
            except psycopg.Error as error:
                outcome = refused(error.sqlstate)
            assert outcome == expected, (name, statement)
        headers = {"Accept-Profile": table.partition(".")[0]}
        assert api.get(f"/{table.partition('.')[2]}").status_code == 404
        assert api.get(f"/{table.partition('.')[2]}", headers=headers).status_code == 406


def test_private_functions_cannot_be_called(db: Database, api: httpx.Client, world: World) -> None:
    functions = db.admin(
        "select pronamespace::regnamespace as schema, proname as name, pronargs from pg_proc"
        " where pronamespace::regnamespace::text in"
        " ('audiencelab_private', 'api_keys_private', 'enrichment_private')"
    )
    assert len(functions) > 10
    for function in functions:
        nulls = ", ".join(["null"] * function["pronargs"])
        call = f"{function['schema']}.{function['name']}({nulls})"
        for actor in world.actors.values():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.rows(actor, f"select {call}")
        assert api.post(f"/rpc/{function['name']}", json={}).status_code == 404


def test_every_table_function_and_policy_is_in_the_matrix(db: Database) -> None:
    base_schema = {
        *("accounts", "accounts_memberships", "roles"),
        *("has_role_on_account", "trigger_set_timestamps"),
    }
    tables = db.admin(
        "select relnamespace::regnamespace || '.' || relname as name from pg_class"
        " where relkind in ('r', 'v', 'm', 'p') and relname <> all (%s)"
        " and relnamespace::regnamespace::text in"
        " ('public', 'audiencelab_private', 'api_keys_private', 'enrichment_private')",
        list(base_schema),
    )
    operated = {operation.rpartition(" ")[2] for operation in EXPECTED}
    assert {row["name"] for row in tables} == {
        name for name in operated if name.startswith("public.")
    } | set(PRIVATE_TABLES)
    functions = db.admin(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and proname <> all (%s)",
        list(base_schema),
    )
    assert {row["proname"] for row in functions} == {
        operation.removeprefix("call ") for operation in EXPECTED if operation.startswith("call ")
    }
    policies = db.admin(
        "select tablename, policyname from pg_policies where tablename <> all (%s)",
        list(base_schema),
    )
    assert {(row["tablename"], row["policyname"]) for row in policies} == set(POLICIES)
    assert set(POLICIES.values()) <= set(EXPECTED)
