"""From a query value to SQL. Every value becomes a parameter; knows no HTTP."""

from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import Call, JsonBody
from audiencelab_sdk.local.rest.schema import Argument, Function, Returns


@dataclass(frozen=True)
class Statement:
    """SQL with `$1`, `$2`, … and the texts for them.

    Running it gives one row: the total of rows (null unless counted), the number of rows of this
    answer, the JSON of the answer, and the settings `response.headers` and `response.status`.
    """

    text: Composed
    values: tuple[str, ...]


class Parameters:
    """Collects the values of a statement."""

    def __init__(self) -> None:
        self._values: list[str] = []

    def bind(self, value: str, type_name: str | None = None) -> Composable:
        """Add a value; PostgreSQL infers its type when none is given.

        Raises:
            ApiError: The text cannot be sent to PostgreSQL (22021).
        """
        if "\0" in value:
            message = 'invalid byte sequence for encoding "UTF8": 0x00'
            raise ApiError(400, "22021", message)
        self._values.append(value)
        place = f"${len(self._values)}"
        return _trusted(f"{place}::{type_name}" if type_name else place)

    @property
    def values(self) -> tuple[str, ...]:
        """The values in the order of their numbers."""
        return tuple(self._values)


def render_call(call: Call, function: Function) -> Statement:
    """The statement that calls a function.

    Args:
        call: The call, with its arguments.
        function: The overload that the catalog found for it.
    """
    parameters = Parameters()
    source = SQL("select pgrst_call.* from {}").format(_call(call, function, parameters))
    text = SQL(
        "with pgrst_source as ({source}) "
        "select null::bigint, count(*), {body}, "
        "nullif(current_setting('response.headers', true), ''), "
        "nullif(current_setting('response.status', true), '') "
        "from pgrst_source as _postgrest_t"
    ).format(source=source, body=_body(function))
    return Statement(text, parameters.values)


def _call(call: Call, function: Function, parameters: Parameters) -> Composed:
    """The items of a FROM clause, the last of which is named `pgrst_call`."""
    given = [item for item in function.arguments if item.name in call.names]
    if isinstance(call.arguments, JsonBody):
        if function.takes_whole_body:
            payload = parameters.bind(call.arguments.text, function.arguments[0].type)
            return _invocation(function, payload)
        if not given:
            return _invocation(function, SQL(""))
        # PostgreSQL itself unpacks the arguments, so that conversions and messages are its own.
        columns = SQL(", ").join(
            SQL("{} {}").format(Identifier(item.name), _trusted(item.type)) for item in given
        )
        arguments = SQL(", ").join(
            _named(item, SQL("pgrst_body.{}").format(Identifier(item.name))) for item in given
        )
        return SQL(
            "(select {payload} as json_data) as pgrst_payload, "
            "lateral (select * from json_to_record(pgrst_payload.json_data) as _({columns})) "
            "as pgrst_body, lateral {invocation}"
        ).format(
            payload=parameters.bind(call.arguments.text, "json"),
            columns=columns,
            invocation=_invocation(function, arguments),
        )
    texts = call.arguments
    return _invocation(
        function,
        SQL(", ").join(
            _named(item, parameters.bind(texts[item.name], item.type)) for item in given
        ),
    )


def _invocation(function: Function, arguments: Composable) -> Composed:
    name = Identifier(function.schema, function.name)
    if function.returns is Returns.COMPOSITE:
        return SQL("{}({}) as pgrst_call").format(name, arguments)
    return SQL("(select {}({}) as pgrst_scalar) as pgrst_call").format(name, arguments)


def _named(argument: Argument, value: Composable) -> Composed:
    form = SQL("variadic {} := {}") if argument.variadic else SQL("{} := {}")
    return form.format(Identifier(argument.name), value)


def _body(function: Function) -> Composable:
    if function.returns is Returns.VOID:
        return SQL("''")
    rows = (
        SQL("json_agg(_postgrest_t.pgrst_scalar)")
        if function.returns is Returns.SCALAR
        else SQL("json_agg(_postgrest_t)")
    )
    if function.returns_set:
        return SQL("coalesce({}, '[]')::text").format(rows)
    return SQL("coalesce({} -> 0, 'null')::text").format(rows)


def _trusted(text: str) -> SQL:
    """SQL that is not a literal here: a parameter's place, or a type as the catalog spells it."""
    return SQL(text)  # pyright: ignore[reportArgumentType] - see above
