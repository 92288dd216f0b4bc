"""Each actor tries each operation, in SQL and through the REST API: see `_matrix.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests.database._attempts import SECRET, World, refused, through_rest, through_sql
from tests.database._inventory import BASE_SCHEMA, PRIVATE_FUNCTIONS, SCHEMAS, TABLES
from tests.database._matrix import ACTORS, OUTCOMES, POLICIES, PRIVATE_OUTCOMES, outcomes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.database._sql import Database


@pytest.fixture(scope="module")
def world(db: Database) -> Iterator[World]:
    with psycopg.connect(db.admin_url, autocommit=True) as admin:
        yield World(db, admin)


@pytest.fixture(scope="module")
def api(db: Database) -> Iterator[httpx.Client]:
    db.apply("select api_keys_direct.enable()")
    settings = Settings(db_url=migrate.as_role(db.admin_url, "authenticator"), jwt_secret=SECRET)
    server = BackgroundServer(create_app(settings))
    with httpx.Client(base_url=f"http://127.0.0.1:{server.start()}") as client:
        yield client
    server.stop()
    db.apply("select api_keys_direct.disable()")


@pytest.mark.parametrize("transport", ["sql", "rest"])
@pytest.mark.parametrize("operation", OUTCOMES)
def test_each_actor_gets_the_outcome_of_the_matrix(
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
    assert outcomes == outcomes_of(operation)


@pytest.mark.parametrize("operation", OUTCOMES)
def test_a_key_in_the_header_gets_what_its_token_gets_unless_it_is_not_live(
    api: httpx.Client, world: World, operation: str
) -> None:
    outcomes = {}
    for name, actor in world.actors.items():
        if actor.subject and actor.subject in world.key_texts:
            target = world.target()
            if " deleted " in operation or "restore" in operation:
                world.delete_softly(target)
            key_text = world.key_texts[actor.subject]
            outcomes[name] = through_rest(api, actor, operation, target, key_text)
    expected = outcomes_of(operation)
    assert outcomes == {
        **{name: expected[name] for name in ("key with the scope", "key with another scope")},
        **dict.fromkeys(("revoked key", "expired key"), "invalid key"),
    }


@pytest.mark.parametrize("table", PRIVATE_OUTCOMES)
def test_private_tables_are_closed(
    db: Database, api: httpx.Client, world: World, table: str
) -> None:
    statements = {
        "SELECT": f"select from {table} where false",
        "INSERT": f"insert into {table} select * from {table} where false",
        "DELETE": f"delete from {table} where false",
    }
    for name, expected in zip(ACTORS, PRIVATE_OUTCOMES[table].split(), strict=True):
        for privilege in statements.keys() & TABLES[table]["service_role"]:
            try:
                outcome = str(db.affected(world.actors[name], statements[privilege]))
            except psycopg.Error as error:
                outcome = refused(error.sqlstate)
            assert outcome == expected, (name, privilege)
    schema, _, relation = table.partition(".")
    assert api.get(f"/{relation}").status_code == 404
    assert api.get(f"/{relation}", headers={"Accept-Profile": schema}).status_code == 406


def test_private_functions_cannot_be_called(db: Database, api: httpx.Client, world: World) -> None:
    for function in PRIVATE_FUNCTIONS:
        arguments = function.signature.partition("(")[2].removesuffix(")")
        nulls = ", ".join("null" for argument in arguments.split(", ") if argument)
        for actor in world.actors.values():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.rows(actor, f"select {function.name}({nulls})")
        assert api.post(f"/rpc/{function.name.partition('.')[2]}", json={}).status_code == 404


def test_the_matrix_covers_every_table_and_policy(db: Database) -> None:
    tables = db.admin(
        "select relnamespace::regnamespace || '.' || relname as name from pg_class"
        " where relkind in ('r', 'v', 'm', 'p') and relname <> all (%s)"
        " and relnamespace::regnamespace::text = any (%s)",
        list(BASE_SCHEMA),
        list(SCHEMAS),
    )
    operated = {operation.rpartition(" ")[2] for operation in OUTCOMES}
    assert {row["name"] for row in tables} == set(TABLES)
    assert {name for name in operated if name.startswith("public.")} | set(PRIVATE_OUTCOMES) == set(
        TABLES
    )
    policies = db.admin(
        "select tablename, policyname from pg_policies where tablename <> all (%s)",
        list(BASE_SCHEMA),
    )
    assert {(row["tablename"], row["policyname"]) for row in policies} == set(POLICIES)
    assert set(POLICIES.values()) <= set(OUTCOMES)
