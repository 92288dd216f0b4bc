"""Load the schema cache from PostgreSQL's catalogs."""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from audiencelab_sdk.local.rest.schema import (
    Argument,
    Catalog,
    Column,
    Function,
    Returns,
    Table,
)

# Names that PostgreSQL's grammar accepts but its catalogs do not list.
_TYPE_SYNONYMS = {
    "int": "integer",
    "dec": "numeric",
    "decimal": "numeric",
    "float": "double precision",
}


async def load_catalog(
    connection: psycopg.AsyncConnection, schemas: Sequence[str], search_path: Sequence[str]
) -> Catalog:
    """Return the schema cache (from `pg_class`, `pg_proc` and `pg_type`).

    Args:
        connection: A connection in a new transaction.
        schemas: The exposed schemas.
        search_path: The schemas of the types that casts may use.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        # Types and defaults are then schema-qualified, so they do not depend on the search path.
        await cursor.execute("set local search_path = ''")
        await cursor.execute(_TABLES, [list(schemas)])
        tables = [_table(row) async for row in cursor]
        await cursor.execute(_FUNCTIONS, [list(schemas)])
        functions = [_function(row) async for row in cursor]
        await cursor.execute(_TYPES, [[*search_path, "pg_catalog"]])
        types = dict(_TYPE_SYNONYMS)
        async for row in cursor:
            types[row["name"]] = types[row["spelling"]] = row["spelling"]
    return Catalog(tables, functions, types)


def _table(row: dict[str, Any]) -> Table:
    return Table(
        schema=row["schema"],
        name=row["name"],
        columns=_columns(row["column_names"], row["column_types"], row["column_defaults"]),
        primary_key=tuple(row["primary_key"]),
        is_ordinary=row["is_ordinary"],
    )


def _function(row: dict[str, Any]) -> Function:
    names, types, modes = row["names"], row["types"], row["modes"]
    first_default = len(types) - row["defaults"]
    return Function(
        schema=row["schema"],
        name=row["name"],
        arguments=tuple(
            Argument(
                name=name,
                type=type_name,
                required=position < first_default,
                variadic=mode == "v",
            )
            for position, (name, type_name, mode) in enumerate(
                zip(names, types, modes, strict=True)
            )
        ),
        returns=Returns(row["returns"]),
        returns_set=row["returns_set"],
        read_only=row["read_only"],
        row_type=row["row_type"],
        columns=_columns(
            row["column_names"], row["column_types"], [None] * len(row["column_names"])
        ),
    )


def _columns(
    names: Sequence[str], types: Sequence[str], defaults: Sequence[str | None]
) -> dict[str, Column]:
    rows = zip(names, types, defaults, strict=True)
    return {name: Column(name, type_name, default) for name, type_name, default in rows}


_TABLES: LiteralString = """
select
  namespace.nspname as schema,
  relation.relname as name,
  relation.relkind = 'r' as is_ordinary,
  columns.names as column_names,
  columns.types as column_types,
  columns.defaults as column_defaults,
  array(
    select attribute.attname::text
    from pg_index as index
    cross join lateral unnest(index.indkey) with ordinality as key (attnum, position)
    join pg_attribute as attribute
      on attribute.attrelid = relation.oid and attribute.attnum = key.attnum
    where index.indrelid = relation.oid and index.indisprimary
    order by key.position
  ) as primary_key
from pg_class as relation
join pg_namespace as namespace on namespace.oid = relation.relnamespace
cross join lateral (
  select
    coalesce(array_agg(attribute.attname::text order by attribute.attnum), '{}') as names,
    coalesce(
      array_agg(format_type(attribute.atttypid, attribute.atttypmod) order by attribute.attnum),
      '{}'
    ) as types,
    coalesce(
      array_agg(
        case when attribute.attgenerated = '' then pg_get_expr(stored.adbin, stored.adrelid) end
        order by attribute.attnum
      ),
      '{}'
    ) as defaults
  from pg_attribute as attribute
  left join pg_attrdef as stored
    on stored.adrelid = attribute.attrelid and stored.adnum = attribute.attnum
  where attribute.attrelid = relation.oid and attribute.attnum > 0 and not attribute.attisdropped
) as columns
where namespace.nspname = any ($1) and relation.relkind in ('r', 'p', 'v', 'm', 'f')
"""

# proargnames and proargmodes include output arguments; proargtypes does not. format_type with -1
# spells a type without a modifier as "bpchar", because "character" would mean character(1).
_FUNCTIONS: LiteralString = """
select
  namespace.nspname as schema,
  function.proname as name,
  coalesce(inputs.names, '{}') as names,
  coalesce(inputs.modes, '{}') as modes,
  array(
    select format_type(type_id, -1)
    from unnest(function.proargtypes) with ordinality as input (type_id, position)
    order by position
  ) as types,
  function.pronargdefaults as defaults,
  function.proretset as returns_set,
  function.provolatile <> 'v' as read_only,
  result.typname as row_type,
  case
    when function.prorettype = 'void'::regtype then 'void'
    when function.prorettype = 'record'::regtype
      or function.proargmodes && '{o,b,t}'::"char"[]
      or coalesce(base.typtype, result.typtype) = 'c' then 'composite'
    else 'scalar'
  end as returns,
  coalesce(attributes.names, outputs.names, '{}') as column_names,
  coalesce(attributes.types, outputs.types, '{}') as column_types
from pg_proc as function
join pg_namespace as namespace on namespace.oid = function.pronamespace
join pg_type as result on result.oid = function.prorettype
left join pg_type as base on base.oid = nullif(result.typbasetype, 0)
cross join lateral (
  select
    array_agg(coalesce(function.proargnames[position], '') order by position) as names,
    array_agg(mode order by position) as modes
  from (
    select position, coalesce(function.proargmodes[position], 'i') as mode
    from generate_series(
      1, coalesce(cardinality(function.proallargtypes), function.pronargs)
    ) as position
  ) as argument
  where mode in ('i', 'b', 'v')
) as inputs
cross join lateral (
  select
    array_agg(coalesce(function.proargnames[position], '') order by position) as names,
    array_agg(format_type(function.proallargtypes[position], -1) order by position) as types
  from generate_series(1, cardinality(function.proallargtypes)) as position
  where function.proargmodes[position] in ('o', 'b', 't')
) as outputs
cross join lateral (
  select
    array_agg(attribute.attname::text order by attribute.attnum) as names,
    array_agg(format_type(attribute.atttypid, attribute.atttypmod) order by attribute.attnum)
      as types
  from pg_attribute as attribute
  where attribute.attrelid = coalesce(nullif(result.typrelid, 0), base.typrelid)
    and attribute.attnum > 0
    and not attribute.attisdropped
) as attributes
where namespace.nspname = any ($1)
  and function.prokind = 'f'
  and function.prorettype <> 'trigger'::regtype
order by 1, 2, function.oid
"""

# Later rows override earlier ones. pg_catalog is last, because a search path implies it first.
_TYPES: LiteralString = """
select type.typname as name, format_type(type.oid, -1) as spelling
from pg_type as type
join pg_namespace as namespace on namespace.oid = type.typnamespace
where namespace.nspname = any ($1) and type.typtype in ('b', 'd', 'e', 'r', 'm')
order by array_position($1, namespace.nspname::text)
"""
