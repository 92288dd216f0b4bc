"""Objects of an attacker with the names of objects that the functions use.

PostgreSQL searches pg_temp first for types and tables, unless the search path of a function
contains pg_temp. Every user may create objects there.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from tests.database._attempts import World, through_sql
from tests.database._inventory import FUNCTIONS, SCHEMAS
from tests.database._matrix import OUTCOMES, outcomes_of
from tests.database._sql import Actor, Database

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = """
    create function pg_temp.evil() returns boolean language plpgsql as
      $$ begin raise exception 'evil runs as %', current_user; end $$;
    create function pg_temp.evil(anyelement) returns boolean language sql as 'select pg_temp.evil()'
"""
OUR_FUNCTIONS = f"from pg_proc where pronamespace::regnamespace::text in {SCHEMAS}"


class ShadowedDatabase(Database):
    """A database in which each actor first creates objects in pg_temp."""

    def __init__(self, db: Database, shadows: str) -> None:
        super().__init__(db.admin_url, migrate.as_role(db.admin_url, "authenticator"))
        self._shadows = shadows

    @contextmanager
    def acting(self, actor: Actor) -> Iterator[psycopg.Connection[Any]]:
        with super().acting(actor) as connection:
            connection.execute(self._shadows.encode())
            yield connection


def used_names(db: Database) -> tuple[list[str], list[str]]:
    """The types, and the tables and views, whose names occur in a function."""
    texts = " ".join(row["prosrc"] for row in db.admin(f"select prosrc {OUR_FUNCTIONS}"))
    words = list(set(re.findall(r"\w+", texts)))
    types = db.admin(
        "select typname from pg_type where typtype = 'b' and typcategory <> 'A'"
        " and typname = any (%s) and typnamespace = 'pg_catalog'::regnamespace",
        [*words, "int4", "int8", "bool", "varchar", "timestamptz", "float8"],
    )
    tables = db.admin(
        "select distinct relname from pg_class"
        " where relkind in ('r', 'v') and relname = any (%s)"
        " and relnamespace::regnamespace::text !~ '^pg_(temp|toast)'",
        words,
    )
    return [row["typname"] for row in types], [row["relname"] for row in tables]


@pytest.fixture(scope="session")
def shadowed(db: Database) -> ShadowedDatabase:
    types, tables = used_names(db)
    assert {"uuid", "text", "jsonb", "timestamptz", "varchar", "name"} <= set(types)
    assert {"accounts_memberships", "segments", "api_keys", "pg_class"} <= set(tables)
    domains = [
        f'create domain pg_temp."{name}" as pg_catalog."{name}" check (pg_temp.evil(value))'
        for name in types
    ]
    views = [f'create temp view "{name}" as select pg_temp.evil()' for name in tables]
    return ShadowedDatabase(db, ";".join([EVIL, *domains, *views]))


@pytest.mark.parametrize("operation", OUTCOMES)
def test_to_run_code_as_the_owner_by_types_and_tables_in_pg_temp(
    db: Database, shadowed: ShadowedDatabase, world: World, operation: str
) -> None:
    for name, expected in outcomes_of(operation).items():
        target = world.target()
        if " deleted " in operation or "restore" in operation:
            world.delete_softly(target)
        outcome = through_sql(shadowed, world.actors[name], operation, target)
        assert outcome == expected, name
    # PostgreSQL drops the objects in pg_temp shortly after the end of their session.
    domains = (
        "select from pg_type where typname = 'uuid' and typtype = 'd'"
        " and typnamespace::regnamespace::text !~ '^pg_temp_'"
    )
    assert db.admin(domains) == []


@pytest.mark.parametrize(
    ("search_path", "is_fooled"), [("''", True), ("pg_catalog, pg_temp", False)]
)
def test_a_function_with_an_empty_search_path_uses_types_in_pg_temp(
    shadowed: ShadowedDatabase, tenant: Any, search_path: str, is_fooled: bool
) -> None:
    shadowed.admin(
        "create or replace function public.naive(p text) returns boolean language sql"
        f" security definer set search_path = {search_path} as"
        " $$ select p::uuid is not null and exists (select from pg_class) $$"
    )
    shadowed.admin("grant execute on function public.naive to authenticated")
    call = "select public.naive(%s)", str(tenant.account_id)
    try:
        if is_fooled:
            with pytest.raises(psycopg.errors.RaiseException, match="evil runs as"):
                shadowed.value(tenant.member, *call)
        else:
            assert shadowed.value(tenant.member, *call) is True
    finally:
        shadowed.admin("drop function public.naive")


def test_to_run_code_as_the_owner_by_operators_and_functions_in_public(
    db: Database, world: World
) -> None:
    """Some projects let users create objects in schema public, which the API searches."""
    evil = (
        "create function public.evil_equal(uuid, uuid) returns boolean language plpgsql as"
        " $$ begin raise exception 'evil runs as %%', current_user; end $$;"
        "create operator public.= (leftarg = uuid, rightarg = uuid, function = public.evil_equal);"
        + "".join(
            f"create function public.{signature} language plpgsql as"
            " $$ begin raise exception 'evil runs as %%', current_user; end $$;"
            for signature in (
                "now() returns timestamptz",
                "left(text, integer) returns text",
                "length(text) returns integer",
                "btrim(text) returns text",
                "format(text, text) returns text",
                "has_role_on_account(uuid) returns boolean",
            )
        )
    )
    drop = "".join(
        f"drop function public.{signature} cascade;"
        for signature in (
            *("evil_equal(uuid, uuid)", "now()", "left(text, integer)", "length(text)"),
            *("btrim(text)", "format(text, text)", "has_role_on_account(uuid)"),
        )
    )
    db.admin(evil)
    try:
        for operation in OUTCOMES:
            target = world.target()
            if " deleted " in operation or "restore" in operation:
                world.delete_softly(target)
            outcome = through_sql(db, world.actors["owner"], operation, target)
            assert outcome == outcomes_of(operation)["owner"], operation
    finally:
        db.admin(drop)


def test_every_function_has_a_fixed_search_path(db: Database) -> None:
    functions = db.admin(f"select oid::regprocedure::text as name, proconfig {OUR_FUNCTIONS}")
    assert len(functions) >= len(FUNCTIONS)
    for function in functions:
        assert function["proconfig"] == ["search_path=pg_catalog, pg_temp"], function["name"]
