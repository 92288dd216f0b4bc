"""The recorded states of target databases, rebuilt from their catalogs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from audiencelab_sdk.local import _migrate as migrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.database._sql import Database

STATES = Path(__file__).parent / "states"
RECORDED = sorted(file.stem for file in STATES.glob("*.json"))

_ALREADY_THERE = (
    errors.DuplicateFunction,
    errors.DuplicateObject,
    errors.DuplicateSchema,
    errors.DuplicateTable,
    # CREATE OR REPLACE FUNCTION cannot change the result type.
    errors.InvalidFunctionDefinition,
)
_PRIVILEGES = {
    "schema": {"U": "usage", "C": "create"},
    "function": {"X": "execute"},
    "table": {
        "a": "insert",
        "r": "select",
        "w": "update",
        "d": "delete",
        "D": "truncate",
        "x": "references",
        "t": "trigger",
        "m": "maintain",
    },
}
_COMMANDS = {"a": "insert", "r": "select", "w": "update", "d": "delete", "*": "all"}
_GRANTEES = "public, anon, authenticated, service_role"
_READ = """
with base (name) as (
  values ('accounts'), ('accounts_memberships'), ('roles'), ('has_role_on_account'),
    ('trigger_set_timestamps')
),
tables as (
  select oid, oid::regclass::text as name, relacl::text as grants, relrowsecurity
  from pg_class
  where relkind = 'r'
    and relnamespace in ('public'::regnamespace, to_regnamespace('api_keys_private'))
    and relname not in (select name from base)
),
role as (
  select *
  from pg_roles
  where rolname = 'api_key'
)
select json_build_object(
  'role api_key', (
    select json_build_object(
      'login', rolcanlogin, 'inherit', rolinherit, 'bypassrls', rolbypassrls,
      'members', (
        select json_agg(pg_get_userbyid(member) order by pg_get_userbyid(member))
        from pg_auth_members
        where roleid = role.oid
      ),
      'member_of', (
        select json_agg(pg_get_userbyid(roleid) order by pg_get_userbyid(roleid))
        from pg_auth_members
        where member = role.oid
      )
    )
    from role
  ),
  'columns', (
    select json_agg(
      json_build_object(
        'table', name, 'name', attname, 'type', format_type(atttypid, atttypmod),
        'not_null', attnotnull, 'default', pg_get_expr(adbin, adrelid)
      )
      order by name, attnum
    )
    from tables
    join pg_attribute on attrelid = oid and attnum > 0 and not attisdropped
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
  ),
  'constraints', (
    select json_agg(
      json_build_object(
        'table', tables.name, 'name', conname,
        'definition', pg_get_constraintdef(pg_constraint.oid)
      )
      order by tables.name, conname
    )
    from tables
    join pg_constraint on conrelid = tables.oid and contype <> 'n'
  ),
  'indexes', (
    select json_agg(
      json_build_object('table', name, 'definition', pg_get_indexdef(indexrelid))
      order by name, indexrelid::regclass::text
    )
    from tables
    join pg_index on indrelid = oid
    where not exists (
      select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x')
    )
  ),
  'policies', (
    select json_agg(
      json_build_object(
        'table', name, 'name', polname, 'command', polcmd, 'roles', polroles::regrole[]::text,
        'using', pg_get_expr(polqual, polrelid), 'with_check', pg_get_expr(polwithcheck, polrelid)
      )
      order by name, polname
    )
    from tables
    join pg_policy on polrelid = tables.oid
  ),
  'triggers', (
    select json_agg(
      json_build_object('table', name, 'definition', pg_get_triggerdef(pg_trigger.oid))
      order by name, tgname
    )
    from tables
    join pg_trigger on tgrelid = tables.oid and not tgisinternal
  ),
  'tables', (
    select json_agg(
      json_build_object('table', name, 'grants', grants, 'row_security', relrowsecurity)
      order by name
    )
    from tables
  ),
  'schema', (
    select json_build_object('name', nspname, 'grants', nspacl::text)
    from pg_namespace
    where nspname = 'api_keys_private'
  ),
  'functions', (
    select json_agg(
      json_build_object(
        'name', proname, 'arguments', pg_get_function_arguments(pg_proc.oid),
        'result', pg_get_function_result(pg_proc.oid), 'language', lanname,
        'volatility', provolatile, 'security_definer', prosecdef, 'settings', proconfig,
        'grants', proacl::text
      )
      order by proname
    )
    from pg_proc
    join pg_language on pg_language.oid = prolang
    where pronamespace in ('public'::regnamespace, to_regnamespace('api_keys_private'))
      and proname not in (select name from base)
  ),
  'types', (
    select json_agg(
      json_build_object(
        'name', typname,
        'attributes', (
          select json_agg(attname || ' ' || format_type(atttypid, atttypmod) order by attnum)
          from pg_attribute
          where attrelid = typrelid and attnum > 0
        )
      )
      order by typname
    )
    from pg_type
    join pg_class on pg_class.oid = typrelid and relkind = 'c'
    where typnamespace = 'public'::regnamespace
  ),
  'published', (
    select json_agg(relid::regclass::text order by relid::regclass::text)
    from pg_get_publication_tables('supabase_realtime')
  )
)
"""
_BODY = "begin raise exception 'the body was not recorded'; end"


def recording(state: str) -> dict[str, Any]:
    """The recorded catalogs of a database in a state."""
    recorded: dict[str, Any] = json.loads((STATES / f"{state}.json").read_text())
    return recorded


def apply_state(db: Database, state: str) -> None:
    """Bring a database, whatever it contains, to a recorded state, as the original script did."""
    provide_uuid_ossp(db)
    (server,) = db.admin("select current_setting('server_version_num')::integer as version")
    apply_script(db, script(state, server["version"]))


def apply_script(db: Database, statements: Iterable[str]) -> None:
    """Run a script as psql does without a transaction: continue if an object exists."""
    url = migrate.as_role(db.admin_url, "postgres")
    options = "-c search_path=public,extensions -c client_min_messages=warning"
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        for statement in statements:
            try:
                connection.execute(statement.encode())
            except _ALREADY_THERE:
                continue


def provide_uuid_ossp(db: Database) -> None:
    """Create uuid_generate_v4() in schema extensions, where every Supabase project has it."""
    try:
        db.admin('create extension if not exists "uuid-ossp" with schema extensions')
    # The embedded PostgreSQL does not include this extension.
    except errors.FeatureNotSupported:
        db.admin(
            "create or replace function extensions.uuid_generate_v4() returns uuid"
            " language sql volatile as 'select pg_catalog.gen_random_uuid()'"
        )
        db.admin("grant execute on function extensions.uuid_generate_v4() to public")


def read_state(db: Database) -> dict[str, Any]:
    """The catalogs of a database, in the format of a recording."""
    options = "-c search_path=public,extensions"
    with psycopg.connect(db.admin_url, options=options) as connection:
        row = connection.execute(_READ.encode()).fetchone()
    assert row
    read: dict[str, Any] = row[0]
    return read


def script(state: str, version: int) -> list[str]:
    """The statements that create a recorded state, for a server of this version.

    A statement that creates a table or a function also revokes its default privileges. The
    privileges of an existing table are thus extended and not replaced.
    """
    recorded = recording(state)
    return [
        *_role(recorded["role api_key"]),
        *_schema(recorded["schema"]),
        *(_type(made) for made in recorded["types"] or ()),
        *_tables(recorded, version),
        *(index["definition"] for index in recorded["indexes"] or ()),
        *(trigger["definition"] for trigger in recorded["triggers"] or ()),
        *(_policy(policy) for policy in recorded["policies"] or ()),
        *(statement for made in recorded["functions"] or () for statement in _function(made)),
        *(
            f"alter publication supabase_realtime add table {table}"
            for table in recorded["published"] or ()
        ),
    ]


def _role(role: dict[str, Any] | None) -> Iterator[str]:
    if role is None:
        return
    attributes = [
        attribute if role[name] else f"no{attribute}"
        for name, attribute in (
            ("login", "login"),
            ("inherit", "inherit"),
            ("bypassrls", "bypassrls"),
        )
    ]
    yield f"create role api_key {' '.join(attributes)}"
    for group in role["member_of"] or ():
        yield f"grant {group} to api_key"
    for member in role["members"] or ():
        # From PostgreSQL 16 on, the creator of a role is a member of it.
        if member != "postgres":
            yield f"grant api_key to {member}"


def _schema(schema: dict[str, Any] | None) -> Iterator[str]:
    if schema is not None:
        yield f"create schema {schema['name']}"
        yield from _grants("schema", schema["name"], schema["grants"])


def _type(made: dict[str, Any]) -> str:
    attributes = (attribute.partition(" ") for attribute in made["attributes"])
    columns = ", ".join(f'"{name}" {type_}' for name, _, type_ in attributes)
    return f"create type public.{made['name']} as ({columns})"


def _tables(recorded: dict[str, Any], version: int) -> Iterator[str]:
    names = [table["table"] for table in recorded["tables"]]
    references = {
        constraint["table"]
        for constraint in recorded["constraints"]
        for name in names
        if f"REFERENCES {name}(" in constraint["definition"]
    }
    for table in sorted(recorded["tables"], key=lambda table: table["table"] in references):
        name = table["table"]
        parts = [_column(column) for column in recorded["columns"] if column["table"] == name]
        parts += [
            f'constraint "{constraint["name"]}" {constraint["definition"]}'
            for constraint in recorded["constraints"]
            if constraint["table"] == name
        ]
        create = f"create table {name} ({', '.join(parts)})"
        yield f"{create}; revoke all on {name} from {_GRANTEES}"
        grants = table["grants"]
        # PostgreSQL 17 added the privilege MAINTAIN.
        yield from _grants(
            "table", name, grants if version >= 170000 else re.sub("m(?=/)", "", grants)
        )
        if table["row_security"]:
            yield f"alter table {name} enable row level security"


def _column(column: dict[str, Any]) -> str:
    text = f'"{column["name"]}" {column["type"]}'
    if column["default"] is not None:
        text += f" default {column['default']}"
    return f"{text} not null" if column["not_null"] else text


def _policy(policy: dict[str, Any]) -> str:
    text = (
        f'create policy "{policy["name"]}" on {policy["table"]}'
        f" for {_COMMANDS[policy['command']]} to {policy['roles'].strip('{}')}"
    )
    if policy["using"] is not None:
        text += f" using ({policy['using']})"
    if policy["with_check"] is not None:
        text += f" with check ({policy['with_check']})"
    return text


def _function(function: dict[str, Any]) -> Iterator[str]:
    signature = f"public.{function['name']}({function['arguments']})"
    volatility = {"v": "volatile", "s": "stable", "i": "immutable"}[function["volatility"]]
    definition = (
        f"function {signature} returns {function['result']} language {function['language']}"
        f" {volatility} security {'definer' if function['security_definer'] else 'invoker'}"
        f" {' '.join(_setting(setting) for setting in function['settings'] or ())}"
        f" as $body${_BODY}$body$"
    )
    name = f"function public.{function['name']}({_without_defaults(function['arguments'])})"
    yield f"create {definition}; revoke all on {name} from {_GRANTEES}"
    yield f"create or replace {definition}"
    yield from _grants("function", name.removeprefix("function "), function["grants"])


def _without_defaults(arguments: str) -> str:
    return re.sub(r" DEFAULT .*?(?=, p_|$)", "", arguments)


def _setting(setting: str) -> str:
    name, _, value = setting.partition("=")
    values = (element.strip().strip('"') for element in value.split(","))
    return f"set {name} = " + ", ".join(f"'{element}'" for element in values)


def _grants(kind: str, name: str, privileges: str) -> Iterator[str]:
    for entry in privileges.strip("{}").split(","):
        grantee, _, given = entry.partition("=")
        letters, _, _ = given.partition("/")
        names = ", ".join(_PRIVILEGES[kind][letter] for letter in letters)
        yield f"grant {names} on {kind} {name} to {grantee or 'public'}"
