"""The schema cache: the objects of the exposed schemas, and look-ups by name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from audiencelab_sdk.local.rest.errors import ApiError, NotInCatalogError


class Returns(Enum):
    """The type of one row of a function's result."""

    VOID = "void"
    SCALAR = "scalar"
    COMPOSITE = "composite"


@dataclass(frozen=True)
class Column:
    """A column. `type` and `default` are spelled by PostgreSQL and safe in SQL."""

    name: str
    type: str
    default: str | None = None


@dataclass(frozen=True)
class Table:
    """A table or view. Only rows of ordinary tables have system columns."""

    schema: str
    name: str
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...]
    is_ordinary: bool

    def require_columns(self, names: Sequence[str]) -> list[Column]:
        """Return the columns with these names.

        Raises:
            NotInCatalogError: A column does not exist (PGRST204).
        """
        for name in names:
            if name not in self.columns:
                raise NotInCatalogError(
                    400,
                    "PGRST204",
                    f"Could not find the '{name}' column of '{self.name}' in the schema cache",
                )
        return [self.columns[name] for name in names]


@dataclass(frozen=True)
class Argument:
    """An input argument. `type` is spelled by PostgreSQL and safe in SQL."""

    name: str
    type: str
    required: bool
    variadic: bool


@dataclass(frozen=True)
class Function:
    """A function of an exposed schema.

    Attributes:
        schema: The schema.
        name: The name.
        arguments: The input arguments.
        returns: The type of one row of the result.
        returns_set: Whether the result may have several rows.
        read_only: Whether the function is stable or immutable.
        row_type: The name of the result's type.
        columns: The columns of a composite result.
    """

    schema: str
    name: str
    arguments: tuple[Argument, ...]
    returns: Returns
    returns_set: bool
    read_only: bool
    row_type: str
    columns: Mapping[str, Column]

    @property
    def takes_whole_body(self) -> bool:
        """Whether the only argument is an unnamed json, which takes the whole body."""
        return (
            len(self.arguments) == 1
            and not self.arguments[0].name
            and self.arguments[0].type in {"json", "jsonb"}
        )

    def accepts(self, names: Collection[str]) -> bool:
        """Return whether the function can be called with exactly these named arguments."""
        known = {argument.name for argument in self.arguments}
        required = {argument.name for argument in self.arguments if argument.required}
        return required <= set(names) <= known and "" not in known


class Catalog:
    """The objects of the exposed schemas.

    Args:
        tables: All tables and views.
        functions: All functions, overloads included.
        types: The types that casts may use, and PostgreSQL's spelling of each.
    """

    def __init__(
        self,
        tables: Sequence[Table] = (),
        functions: Sequence[Function] = (),
        types: Mapping[str, str] | None = None,
    ) -> None:
        self._tables = {(table.schema, table.name): table for table in tables}
        self._functions: dict[tuple[str, str], list[Function]] = {}
        for function in functions:
            self._functions.setdefault((function.schema, function.name), []).append(function)
        self._types = dict(types or {})

    def table(self, schema: str, name: str) -> Table:
        """Return a table or view.

        Raises:
            NotInCatalogError: It does not exist (PGRST205).
        """
        found = self._tables.get((schema, name))
        if found is None:
            message = f"Could not find the table '{schema}.{name}' in the schema cache"
            raise NotInCatalogError(404, "PGRST205", message)
        return found

    def type(self, name: str) -> str:
        """Return PostgreSQL's spelling of a type, which is safe in SQL.

        Raises:
            NotInCatalogError: The type does not exist (42704, as in PostgreSQL).
        """
        found = self._types.get(name.strip().lower())
        if found is None:
            raise NotInCatalogError(400, "42704", f'type "{name}" does not exist')
        return found

    def function(
        self, schema: str, name: str, arguments: Collection[str], *, has_body: bool
    ) -> Function:
        """Return the overload that a call with these argument names selects.

        Args:
            schema: The exposed schema.
            name: The function's name.
            arguments: The names of the given arguments.
            has_body: Whether the request has a JSON body, which a function with a single unnamed
                json argument takes whole.

        Raises:
            NotInCatalogError: No overload matches (PGRST202).
            ApiError: Several overloads match (PGRST203).
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
