"""Render the select list, conditions and order of one relation."""

import re
from collections.abc import Mapping, Sequence

from psycopg.sql import SQL, Composable, Composed, Identifier

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import (
    Condition,
    Field,
    Filter,
    Group,
    OrderTerm,
    SelectItem,
)
from audiencelab_sdk.local.rest.schema import Catalog, Column

_OPERATORS = {
    "eq": SQL("="),
    "neq": SQL("<>"),
    "gt": SQL(">"),
    "gte": SQL(">="),
    "lt": SQL("<"),
    "lte": SQL("<="),
    "like": SQL("like"),
    "ilike": SQL("ilike"),
    "match": SQL("~"),
    "imatch": SQL("~*"),
    "isdistinct": SQL("is distinct from"),
    "cs": SQL("@>"),
    "cd": SQL("<@"),
    "ov": SQL("&&"),
    "sl": SQL("<<"),
    "sr": SQL(">>"),
    "nxl": SQL("&>"),
    "nxr": SQL("&<"),
    "adj": SQL("-|-"),
}
_TEXT_SEARCHES = {
    "fts": SQL("to_tsquery"),
    "plfts": SQL("plainto_tsquery"),
    "phfts": SQL("phraseto_tsquery"),
    "wfts": SQL("websearch_to_tsquery"),
}
_IS = {
    "null": SQL("null"),
    "not_null": SQL("not null"),
    "true": SQL("true"),
    "false": SQL("false"),
    "unknown": SQL("unknown"),
}
_DIRECTIONS = {None: SQL(""), "asc": SQL(" asc"), "desc": SQL(" desc")}
_NULLS = {None: SQL(""), "first": SQL(" nulls first"), "last": SQL(" nulls last")}
_QUANTIFIERS = {"any": SQL("any"), "all": SQL("all")}


class Parameters:
    """Collects the values of a statement."""

    def __init__(self) -> None:
        self._values: list[str] = []

    def bind(self, value: str, type_name: str | None = None) -> Composable:
        """Add a value and return its parameter. Without a type, PostgreSQL infers one.

        Raises:
            ApiError: The value contains a NUL character (22021).
        """
        _refuse_nul(value)
        self._values.append(value)
        place = f"${len(self._values)}"
        return trusted(f"{place}::{type_name}" if type_name else place)

    @property
    def values(self) -> tuple[str, ...]:
        """The values in the order of the parameters."""
        return tuple(self._values)


class Terms:
    """Renders terms about the columns of one relation.

    Columns are always qualified, so that their names are unambiguous. PostgreSQL reports unknown
    columns, as with PostgREST.

    Args:
        relation: The relation's name in the statement.
        columns: The relation's columns.
        catalog: The schema cache.
        parameters: The parameters of the statement.
    """

    def __init__(
        self,
        relation: Composable,
        columns: Mapping[str, Column],
        catalog: Catalog,
        parameters: Parameters,
    ) -> None:
        self._relation = relation
        self._columns = columns
        self._catalog = catalog
        self._parameters = parameters

    def select_list(self, items: Sequence[SelectItem]) -> Composed:
        """Return the select list."""
        return SQL(", ").join(self._select_item(item) for item in items)

    def where(self, conditions: Sequence[Condition]) -> Composable:
        """Return a WHERE clause, empty without conditions."""
        if not conditions:
            return SQL("")
        return SQL(" where ") + SQL(" and ").join(map(self._condition, conditions))

    def order_by(self, terms: Sequence[OrderTerm]) -> Composable:
        """Return an ORDER BY clause, empty without terms."""
        if not terms:
            return SQL("")
        return SQL(" order by ") + SQL(", ").join(map(self._order_term, terms))

    def _select_item(self, item: SelectItem) -> Composed:
        if item.field.column == "*":
            return SQL("{}.*").format(self._relation)
        expression = self._field(item.field)
        if item.cast is not None:
            target = trusted(self._catalog.type(item.cast))
            expression = SQL("cast({} as {})").format(expression, target)
        if item.alias is None and item.cast is None and not item.field.path:
            return expression
        return SQL("{} as {}").format(expression, identifier(item.alias or _name(item.field)))

    def _field(self, field: Field) -> Composed:
        expression = SQL("{}.{}").format(self._relation, identifier(field.column))
        if not field.path:
            return expression
        column = self._columns.get(field.column)
        if column is not None and column.type not in {"json", "jsonb"}:
            expression = SQL("to_jsonb({})").format(expression)
        for step in field.path:
            arrow = SQL("->>") if step.as_text else SQL("->")
            key = self._parameters.bind(step.key, "integer" if step.is_index else "text")
            expression = SQL("({} {} {})").format(expression, arrow, key)
        return expression

    def _order_term(self, term: OrderTerm) -> Composed:
        return self._field(term.field) + _DIRECTIONS[term.direction] + _NULLS[term.nulls]

    def _condition(self, condition: Condition) -> Composable:
        if isinstance(condition, Filter):
            rendered = self._filter(condition)
        else:
            rendered = self._group(condition)
        return SQL("not ({})").format(rendered) if condition.negated else rendered

    def _group(self, group: Group) -> Composed:
        junction = SQL(" and ") if group.junction == "and" else SQL(" or ")
        return SQL("({})").format(junction.join(map(self._condition, group.members)))

    def _filter(self, item: Filter) -> Composed:
        field = self._field(item.field)
        if isinstance(item.value, tuple):
            return SQL("{} = any ({})").format(
                field, self._parameters.bind(array_literal(item.value))
            )
        if item.operator == "is":
            return SQL("{} is {}").format(field, _IS[item.value])
        if item.operator in _TEXT_SEARCHES:
            return self._text_search(item, field, item.value)
        value = item.value
        if item.operator in {"like", "ilike"}:
            value = value.replace("*", "%")  # a percent sign would have to be encoded in a URL
        operand = self._parameters.bind(value)
        if item.modifier is not None:
            operand = SQL("{} ({})").format(_QUANTIFIERS[item.modifier], operand)
        return SQL("{} {} {}").format(field, _OPERATORS[item.operator], operand)

    def _text_search(self, item: Filter, field: Composable, value: str) -> Composed:
        language: Composable = SQL("")
        if item.modifier:
            language = self._parameters.bind(item.modifier, "regconfig") + SQL(", ")
        column = self._columns.get(item.field.column)
        if column is None or column.type != "tsvector" or item.field.path:
            field = SQL("to_tsvector({}{})").format(language, field)
        return SQL("{} @@ {}({}{})").format(
            field, _TEXT_SEARCHES[item.operator], language, self._parameters.bind(value, "text")
        )


def trusted(text: str) -> SQL:
    """Return SQL from a safe string: a parameter, or a type or default from the schema cache."""
    return SQL(text)  # pyright: ignore[reportArgumentType] - see above


def identifier(name: str) -> Identifier:
    """Return a name from the client, quoted.

    Raises:
        ApiError: The name contains a NUL character (22021).
    """
    _refuse_nul(name)
    return Identifier(name)


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ApiError(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00')


def _name(field: Field) -> str:
    """Return a field's name in the response: its last key, or its column."""
    keys = [step.key for step in field.path if not step.is_index]
    return keys[-1] if keys else field.column


def array_literal(items: Sequence[str]) -> str:
    """Return an array literal."""
    escaped = (re.sub(r'(["\\])', r"\\\1", item) for item in items)
    return "{" + ",".join(f'"{item}"' for item in escaped) + "}"
