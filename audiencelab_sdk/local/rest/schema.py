"""The catalog: the functions of the exposed schemas, read from PostgreSQL itself."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from audiencelab_sdk.local.rest.errors import ApiError, NotInCatalogError


class Returns(Enum):
    """What one row of a function's result is."""

    VOID = "void"
    SCALAR = "scalar"
    COMPOSITE = "composite"


@dataclass(frozen=True)
class Argument:
    """An input argument; `type` is PostgreSQL's own spelling and safe in SQL."""

    name: str
    type: str
    required: bool
    variadic: bool


@dataclass(frozen=True)
class Function:
    """A function that can be called through the API."""

    schema: str
    name: str
    arguments: tuple[Argument, ...]
    returns: Returns
    returns_set: bool
    read_only: bool

    @property
    def takes_whole_body(self) -> bool:
        """Whether its only argument is an unnamed json, which gets the body as it is."""
        return (
            len(self.arguments) == 1
            and not self.arguments[0].name
            and self.arguments[0].type in {"json", "jsonb"}
        )

    def accepts(self, names: Collection[str]) -> bool:
        """Whether it can be called with exactly these named arguments."""
        known = {argument.name for argument in self.arguments}
        required = {argument.name for argument in self.arguments if argument.required}
        return required <= set(names) <= known and "" not in known


class Catalog:
    """What the exposed schemas hold.

    Args:
        functions: All functions of the exposed schemas, overloads included.
    """

    def __init__(self, functions: Sequence[Function]) -> None:
        self._functions: dict[tuple[str, str], list[Function]] = {}
        for function in functions:
            self._functions.setdefault((function.schema, function.name), []).append(function)

    def function(
        self, schema: str, name: str, arguments: Collection[str], *, has_body: bool
    ) -> Function:
        """The overload that a call with these argument names means.

        Args:
            schema: The exposed schema.
            name: The function's name.
            arguments: The names of the arguments that the request gives.
            has_body: Whether the request has a JSON body, which a function with a single unnamed
                json argument can take whole.

        Raises:
            NotInCatalogError: No overload fits (PGRST202).
            ApiError: More than one does (PGRST203).
        """
        overloads = self._functions.get((schema, name), [])
        fitting = [function for function in overloads if function.accepts(arguments)]
        if not fitting and has_body:
            fitting = [function for function in overloads if function.takes_whole_body]
        if not fitting:
            raise _no_function(schema, name, arguments, overloads)
        if len(fitting) > 1:
            candidates = ", ".join(_signature(function) for function in fitting)
            raise ApiError(
                300,
                "PGRST203",
                f"Could not choose the best candidate function between: {candidates}",
                hint="Try renaming the parameters or the function itself in the database so "
                "function overloading can be resolved",
            )
        return fitting[0]


def _no_function(
    schema: str, name: str, arguments: Collection[str], overloads: Sequence[Function]
) -> NotInCatalogError:
    qualified = f"{schema}.{name}"
    given = ", ".join(sorted(arguments))
    called = f"{qualified}({given})" if given else f"{qualified} without parameters"
    plural = "s" if len(arguments) > 1 else ""
    searched = f"with parameter{plural} {given}" if given else "without parameters"
    return NotInCatalogError(
        404,
        "PGRST202",
        f"Could not find the function {called} in the schema cache",
        details=f"Searched for the function {qualified} {searched} or with a single unnamed "
        "json/jsonb parameter, but no matches were found in the schema cache.",
        hint=f"Perhaps you meant to call the function {_names(overloads[0])}"
        if overloads and given
        else None,
    )


def _names(function: Function) -> str:
    names = ", ".join(argument.name for argument in function.arguments)
    return f"{function.schema}.{function.name}({names})"


def _signature(function: Function) -> str:
    arguments = ", ".join(f"{item.name} => {item.type}" for item in function.arguments)
    return f"{function.schema}.{function.name}({arguments})"


async def load_catalog(connection: psycopg.AsyncConnection, schemas: Sequence[str]) -> Catalog:
    """Read the catalog of these schemas (from `pg_proc`)."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(_FUNCTIONS, [list(schemas)])
    return Catalog([_function(row) async for row in cursor])


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
    )


# proargnames and proargmodes list the output arguments, too; proargtypes does not.
_FUNCTIONS: LiteralString = """
select
  namespace.nspname as schema,
  function.proname as name,
  coalesce(inputs.names, '{}') as names,
  coalesce(inputs.modes, '{}') as modes,
  array(
    select format_type(type_id, null)
    from unnest(function.proargtypes) with ordinality as input (type_id, position)
    order by position
  ) as types,
  function.pronargdefaults as defaults,
  function.proretset as returns_set,
  function.provolatile <> 'v' as read_only,
  case
    when function.prorettype = 'void'::regtype then 'void'
    when function.prorettype = 'record'::regtype
      or function.proargmodes && '{o,b,t}'::"char"[]
      or coalesce(base.typtype, result.typtype) = 'c' then 'composite'
    else 'scalar'
  end as returns
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
where namespace.nspname = any ($1)
  and function.prokind = 'f'
  and function.prorettype <> 'trigger'::regtype
order by 1, 2, function.oid
"""
