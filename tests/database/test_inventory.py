"""The inventory and the catalogs agree on every function."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.database._inventory import BASE_SCHEMA, FUNCTIONS, ROLES, SCHEMAS
from tests.database._sql import Database

CATALOG = """
    select
      format('%%s.%%s(%%s)', nspname, proname, oidvectortypes(proargtypes)),
      array(
        select role from unnest(%s::text[]) as role
        where has_function_privilege(role, function.oid, 'execute')
        union
        select case grantee when 0 then 'public' else pg_get_userbyid(grantee) end
        from aclexplode(coalesce(proacl, acldefault('f', proowner)))
        where grantee <> proowner
      ),
      prosecdef
    from pg_proc as function
    join pg_namespace as namespace on namespace.oid = pronamespace
    where nspname = any (%s) and proname <> all (%s)
"""


def differences(connection: psycopg.Connection[Any]) -> set[str]:
    """The signatures that only one side has, or that the two sides describe differently."""
    rows = connection.execute(
        CATALOG.encode(), [list(ROLES), list(SCHEMAS), list(BASE_SCHEMA)]
    ).fetchall()
    found = {(signature, frozenset(roles), definer) for signature, roles, definer in rows}
    listed = {(it.signature, it.executors, it.definer is not None) for it in FUNCTIONS}
    return {signature for signature, *_ in found ^ listed}


def test_the_inventory_lists_every_function_as_it_is(db: Database) -> None:
    with psycopg.connect(db.admin_url) as connection:
        assert differences(connection) == set()


@pytest.mark.parametrize(
    ("change", "signature"),
    [
        (
            "drop function public.has_scope(text, text, text) cascade",
            "public.has_scope(text, text, text)",
        ),
        (
            "create function public.more() returns integer language sql return 1",
            "public.more()",
        ),
        (
            "create function public.has_scope(text) returns boolean language sql return true",
            "public.has_scope(text)",
        ),
        (
            "grant execute on function public.has_scope to anon",
            "public.has_scope(text, text, text)",
        ),
        (
            "grant execute on function api_keys_private.base62 to public",
            "api_keys_private.base62(integer)",
        ),
        (
            "revoke execute on function public.verify_api_key from service_role",
            "public.verify_api_key(text)",
        ),
        (
            "alter function public.has_scope security invoker",
            "public.has_scope(text, text, text)",
        ),
    ],
)
def test_a_missing_extra_or_changed_function_is_a_difference(
    db: Database, change: str, signature: str
) -> None:
    with psycopg.connect(db.admin_url) as connection:
        connection.execute(change.encode())
        found = differences(connection)
        connection.rollback()

    assert found == {signature}
