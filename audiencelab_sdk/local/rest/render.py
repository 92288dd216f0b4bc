"""Render statements that read tables or call functions. Independent of HTTP.

Every value becomes a parameter. Tables, functions, types and defaults are spelled as in the schema
cache; every other name is quoted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg.sql import SQL, Composable, Composed, Identifier

from audiencelab_sdk.local.rest.query import (
    Call,
    Field,
    JsonBody,
    Query,
    SelectItem,
    Shape,
    Window,
)
from audiencelab_sdk.local.rest.schema import (
    Argument,
    Catalog,
    Column,
    Function,
    Returns,
    Table,
)
from audiencelab_sdk.local.rest.terms import Parameters, Terms, array_literal, trusted

NOTHING = SQL("")


@dataclass(frozen=True)
class Statement:
    """SQL with the parameters `$1`, `$2`, … and their values.

    It returns one row: the total number of rows (null unless counted), the number of rows in this
    response, how many of them were inserted (null unless some may have been updated), the response
    body, and the settings `response.headers` and `response.status`.
    """

    text: Composed
    values: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Output:
    """The format of the response body, and whether to count rows outside the window as well."""

    shape: Shape = Shape.ARRAY
    strip_nulls: bool = False
    counted: bool = False


class Renderer:
    """Renders one statement.

    Args:
        catalog: The schema cache.
        query: The parsed query of the URL.
        output: The format of the response body.
    """

    def __init__(self, catalog: Catalog, query: Query, output: Output) -> None:
        self.query = query
        self.output = output
        self.parameters: Parameters = Parameters()
        self._catalog = catalog

    def read(self, table: Table) -> Statement:
        """Read rows of a table or view."""
        relation = Identifier(table.schema, table.name)
        terms = self.terms(relation, table.columns)
        where = terms.where(self.query.where)
        source = SQL("select {} from {}{}{}{}").format(
            terms.select_list(self.query.select),
            relation,
            where,
            terms.order_by(self.query.order),
            self._window(self.query.window),
        )
        total = SQL("(select count(*) from {}{})").format(relation, where)
        return self.statement(source, SQL("select * from pgrst_source"), total=total)

    def plan(self, table: Table) -> Statement:
        """Plan a read of all rows of a table or view that match the URL's filters."""
        relation = Identifier(table.schema, table.name)
        where = self.terms(relation, table.columns).where(self.query.where)
        text = SQL("explain (format json) select 1 from {}{}").format(relation, where)
        return Statement(text, self.parameters.values)

    def call(self, call: Call, function: Function) -> Statement:
        """Call a function. The URL's query applies to the rows that it returns.

        As with PostgREST, errors about columns name the relation pgrst_call or the type of the
        rows, and rows can be sorted only by columns that are selected or filtered.
        """
        composite = function.returns is Returns.COMPOSITE
        relation = Identifier(function.row_type if composite else function.name)
        terms = self.terms(relation, function.columns)
        read = self.query.columns_read
        returned: Composable = SQL("pgrst_call.*")
        if composite and "*" not in read:
            columns = [SelectItem(Field(name)) for name in read]
            returned = self.terms(SQL("pgrst_call"), function.columns).select_list(columns)
        source = SQL("select {} from {}").format(returned, self._call(call, function))
        where = terms.where(self.query.where)
        rows = SQL("select {} from pgrst_source as {}{}{}{}").format(
            terms.select_list(self.query.select) if composite else SQL("pgrst_scalar"),
            relation,
            where,
            terms.order_by(self.query.order),
            self._window(self.query.window) if function.returns_set else NOTHING,
        )
        total = SQL("(select count(*) from pgrst_source as {}{})").format(relation, where)
        if function.returns is Returns.VOID:
            body: Composable = SQL("''")
        else:
            item = SQL("_postgrest_t") if composite else SQL("_postgrest_t.pgrst_scalar")
            body = self.body(item, single=not function.returns_set)
        # A filter may hide the only row, but it counts.
        count = None if function.returns_set else SQL("1")
        return self.statement(source, rows, total=total, body=body, count=count)

    def terms(self, relation: Composable, columns: Mapping[str, Column]) -> Terms:
        """Return a renderer for terms about one relation of this statement."""
        return Terms(relation, columns, self._catalog, self.parameters)

    def body(self, item: SQL, *, single: bool = False) -> Composable:
        """Return the expression that aggregates all rows to the response body.

        Args:
            item: The expression for one row.
            single: Whether there is one row, which is returned without an array.
        """
        if self.output.shape is Shape.CSV:
            return _CSV
        rows: Composable = SQL("json_agg({})").format(item)
        if self.output.strip_nulls:
            rows = SQL("json_strip_nulls({})").format(rows)
        if single or self.output.shape is Shape.OBJECT:
            return SQL("coalesce({} -> 0, 'null')::text").format(rows)
        return SQL("coalesce({}, '[]')::text").format(rows)

    def statement(
        self,
        source: Composable,
        rows: Composable,
        *,
        total: Composable | None = None,
        inserted: Composable | None = None,
        body: Composable | None = None,
        count: Composable | None = None,
    ) -> Statement:
        """Return the statement that runs `source` as pgrst_source and returns `rows`."""
        text = SQL(
            "with pgrst_source as ({source}), pgrst_rows as ({rows}) "
            "select {total}::bigint, {count}, {inserted}::bigint, {body}, "
            "nullif(current_setting('response.headers', true), ''), "
            "nullif(current_setting('response.status', true), '') "
            "from pgrst_rows as _postgrest_t"
        ).format(
            source=source,
            total=total if total is not None and self.output.counted else SQL("null"),
            count=count or SQL("count(*)"),
            inserted=inserted or SQL("null"),
            body=body or self.body(SQL("_postgrest_t")),
            rows=rows,
        )
        return Statement(text, self.parameters.values)

    def _window(self, window: Window) -> Composable:
        limit: Composable = NOTHING
        offset: Composable = NOTHING
        if window.limit is not None:
            bound = self.parameters.bind(str(window.limit), "bigint")
            limit = SQL(" limit {}").format(bound)
        if window.offset:
            bound = self.parameters.bind(str(window.offset), "bigint")
            offset = SQL(" offset {}").format(bound)
        return limit + offset

    def _call(self, call: Call, function: Function) -> Composed:
        """Return FROM items, the last of which is named `pgrst_call`."""
        given = [item for item in function.arguments if item.name in call.names]
        if not isinstance(call.arguments, JsonBody):
            by_name = call.arguments
            values = [
                array_literal(by_name[item.name]) if item.variadic else by_name[item.name][-1]
                for item in given
            ]
            arguments = [
                _named(item, self.parameters.bind(value, item.type))
                for item, value in zip(given, values, strict=True)
            ]
            return _invocation(function, SQL(", ").join(arguments))
        if function.takes_whole_body:
            payload = self.parameters.bind(call.arguments.text, function.arguments[0].type)
            return _invocation(function, payload)
        if not given:
            return _invocation(function, NOTHING)
        # PostgreSQL unpacks the arguments, so that it converts them and reports errors itself.
        arguments = [
            _named(item, SQL("pgrst_body.{}").format(Identifier(item.name))) for item in given
        ]
        payload = self.parameters.bind(call.arguments.text, "json")
        body = unpacked(payload, given, is_array=call.arguments.is_array)
        if call.arguments.is_array:
            body = SQL("(select * from {} limit 1) as pgrst_body").format(body)
        return SQL("{}, lateral {}").format(body, _invocation(function, SQL(", ").join(arguments)))


def unpacked(
    payload: Composable, columns: list[Argument] | list[Column], *, is_array: bool = False
) -> Composed:
    """Return the FROM item `pgrst_body`, which unpacks a JSON payload."""
    return SQL("{}({}) as pgrst_body ({})").format(
        SQL("json_to_recordset") if is_array else SQL("json_to_record"),
        payload,
        SQL(", ").join(
            SQL("{} {}").format(Identifier(item.name), trusted(item.type)) for item in columns
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


# The header line is from the first row. A line is the row's composite literal without parentheses.
_CSV = SQL(
    """
    coalesce(
      (
        select string_agg(pgrst_keys.pgrst_key, ',')
        from (select * from pgrst_rows limit 1) as pgrst_first,
          json_object_keys(row_to_json(pgrst_first)) as pgrst_keys (pgrst_key)
      ),
      ''
    ) || chr(10) || coalesce(
      string_agg(substring(_postgrest_t::text, 2, length(_postgrest_t::text) - 2), chr(10)), ''
    )
    """
)
