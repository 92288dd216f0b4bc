"""Parse the query of a URL with PostgREST's grammar. Independent of SQL."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, TypeVar

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import (
    Condition,
    Field,
    Filter,
    Group,
    JsonStep,
    OrderTerm,
    Query,
    SelectItem,
)
from audiencelab_sdk.local.rest.scanner import Scanner

_Item = TypeVar("_Item")

COMPARISONS = {"eq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch"}
PLAIN_OPERATORS = {"neq", "isdistinct", "cs", "cd", "ov", "sl", "sr", "nxl", "nxr", "adj"}
TEXT_SEARCHES = {"fts", "plfts", "phfts", "wfts"}
IS_VALUES = {"null", "not_null", "true", "false", "unknown"}

_OPERATOR = re.compile(r"([a-z]+)(?:\(([^()]*)\))?\.")
_NOT = re.compile(r"not\.")
_JUNCTION = re.compile(r"(not\.)?(and|or)(?=\()")
_ARROW = re.compile(r"->>?")
_INDEX = re.compile(r"-?\d+(?=->|[:.,)]|$)")
_KEY = re.compile(r"(?:[^(\-:.,)>]|-(?!>))+")
_NAME = re.compile(r"[\w $]+(?:-(?!>)[\w $]*)*")
_ALIAS = re.compile(r"([\w $-]+):(?!:)")
_CAST = re.compile(r"[\w $\[\]]+")
_EMBEDDING = re.compile(r"(?:\.\.\.)?[\w $-]+(?:![\w $-]+)*\(")
_PARENTHESIS = re.compile(r"[^()]*([()])")
_AGGREGATE = re.compile(r"(?:[^(),]+\.)?(?:count|sum|avg|max|min)\(\)")


def parse_query(pairs: Iterable[tuple[str, str]], *, with_arguments: bool = False) -> Query:
    """Parse the query of a URL.

    Args:
        pairs: Names and values, percent-decoded.
        with_arguments: Whether values that are not filters are arguments of a function, as in a
            GET of `/rpc/<function>`. Otherwise they are errors.

    Raises:
        ApiError: The query is not valid (PGRST100) or uses an unsupported feature.
    """
    query = Query()
    where: list[Condition] = []
    arguments: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        match name:
            case "select":
                query = replace(query, select=_select(value))
            case "order":
                query = replace(query, order=_comma_separated("order", value, _order_term))
            case "limit":
                query = replace(query, window=replace(query.window, limit=_limit(value)))
            case "offset":
                query = replace(query, window=replace(query.window, offset=_offset(value)))
            case "columns":
                query = replace(query, columns=_comma_separated("columns", value, _name))
            case "on_conflict":
                target = _comma_separated("on_conflict parameter", value, _name)
                query = replace(query, on_conflict=target)
            case "and" | "or" | "not.and" | "not.or":
                where.append(_whole_group(name, value))
            case _ if with_arguments and not _is_filter(value):
                arguments[name] = (*arguments.get(name, ()), value)
            case _:
                where.append(_filter(name, value))
    return replace(query, where=tuple(where), arguments=arguments)


def _is_filter(value: str) -> bool:
    found = _OPERATOR.match(value.removeprefix("not."))
    known = COMPARISONS | PLAIN_OPERATORS | TEXT_SEARCHES | {"in", "is"}
    return found is not None and found[1] in known


def _limit(value: str) -> int | None:
    if value.startswith("-") and value[1:].isdecimal():
        message = "Requested range not satisfiable"
        details = "Limit should be greater than or equal to zero."
        raise ApiError(416, "PGRST103", message, details=details)
    return _number(value)


def _offset(value: str) -> int:
    return _number(value) or 0


def _number(value: str) -> int | None:
    # PostgREST ignores values that are not numbers. PostgreSQL counts rows in 64 bits.
    return min(int(value), 2**63 - 1) if value.isdecimal() and len(value) < 40 else None


def _comma_separated(what: str, value: str, read: Callable[[Scanner], _Item]) -> tuple[_Item, ...]:
    scanner = Scanner(what, value)
    items = [read(scanner)]
    while scanner.skip(","):
        items.append(read(scanner))
    scanner.finish()
    return tuple(items)


def _select(value: str) -> tuple[SelectItem, ...]:
    if not value.strip():
        return Query().select  # an empty select means the default
    return _comma_separated("select parameter", value, _select_item)


def _select_item(scanner: Scanner) -> SelectItem:
    alias = scanner.take(_ALIAS)
    if scanner.looking_at(_AGGREGATE):
        raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
    if scanner.take(_EMBEDDING):
        open_parentheses = 1
        while open_parentheses:
            found = scanner.require(_PARENTHESIS, '")"')
            open_parentheses += 1 if found[1] == "(" else -1
        raise ApiError(
            400,
            "PGRST200",
            "Resource embedding is not supported here",
            details=f"select={scanner.text}",
            hint="Read the other table with a separate request.",
        )
    if scanner.skip("*"):
        return SelectItem(Field("*"))
    field = _field(scanner)
    cast_to = None
    if scanner.skip("::"):
        cast_to = scanner.require(_CAST, "a type")[0]
    return SelectItem(field, alias[1] if alias else None, cast_to)


def _order_term(scanner: Scanner) -> OrderTerm:
    field = _field(scanner)
    direction: Literal["asc", "desc"] | None = None
    nulls: Literal["first", "last"] | None = None
    if scanner.skip(".asc"):
        direction = "asc"
    elif scanner.skip(".desc"):
        direction = "desc"
    if scanner.skip(".nullsfirst"):
        nulls = "first"
    elif scanner.skip(".nullslast"):
        nulls = "last"
    return OrderTerm(field, direction, nulls)


def _filter(name: str, value: str) -> Filter:
    scanner = Scanner("filter", name)
    field = _field(scanner)
    if scanner.skip("."):
        raise ApiError(
            400,
            "PGRST108",
            f"'{field.column}' is not an embedded resource in this request",
            hint=f"Verify that '{field.column}' is included in the 'select' query parameter.",
        )
    scanner.finish()
    return _comparison(field, Scanner("filter", value), in_group=False)


def _whole_group(name: str, value: str) -> Group:
    scanner = Scanner("logic tree", name + value)
    group = _group(scanner)
    scanner.finish()
    return group


def _group(scanner: Scanner) -> Group:
    head = scanner.require(_JUNCTION, "and( or or(")
    scanner.expect("(")
    with scanner.nested():
        members = [_group_member(scanner)]
        while scanner.skip(","):
            members.append(_group_member(scanner))
    scanner.expect(")")
    junction: Literal["and", "or"] = "and" if head[2] == "and" else "or"
    return Group(junction, tuple(members), negated=bool(head[1]))


def _group_member(scanner: Scanner) -> Condition:
    if scanner.looking_at(_JUNCTION):
        return _group(scanner)
    field = _field(scanner)
    scanner.expect(".")
    return _comparison(field, scanner, in_group=True)


def _comparison(field: Field, scanner: Scanner, *, in_group: bool) -> Filter:
    negated = scanner.take(_NOT) is not None
    start = scanner.position
    found = scanner.require(_OPERATOR, '"not" or operator (eq, gt, ...)')
    operator, modifier = found[1], found[2]
    value: str | tuple[str, ...]
    if operator == "in" and modifier is None:
        value = scanner.list_items()
        if not in_group:
            scanner.finish()
        return Filter(field, operator, value, negated)
    value = scanner.group_value() if in_group else scanner.rest()
    if operator == "is" and modifier is None:
        value = value.lower()
        if value not in IS_VALUES:
            scanner.fail("null, not_null, true, false or unknown")
        return Filter(field, operator, value, negated)
    known = (
        (operator in COMPARISONS and modifier in {None, "any", "all"})
        or (operator in PLAIN_OPERATORS and modifier is None)
        or operator in TEXT_SEARCHES
    )
    if not known:
        scanner.position = start
        scanner.fail('"not" or operator (eq, gt, ...)')
    return Filter(field, operator, value, negated, modifier)


def _field(scanner: Scanner) -> Field:
    column = _name(scanner)
    path: list[JsonStep] = []
    while arrow := scanner.take(_ARROW):
        as_text = arrow[0] == "->>"
        if index := scanner.take(_INDEX):
            path.append(JsonStep(index[0], is_index=True, as_text=as_text))
        else:
            key = scanner.quoted()
            if key is None:
                key = scanner.require(_KEY, "a JSON key")[0]
            path.append(JsonStep(key, is_index=False, as_text=as_text))
    return Field(column, tuple(path))


def _name(scanner: Scanner) -> str:
    quoted = scanner.quoted()
    return scanner.require(_NAME, "field name")[0].strip() if quoted is None else quoted
