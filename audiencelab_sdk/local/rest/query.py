"""The parts of a parsed request: created by `parse` and `headers`, rendered by `render`.

Nothing here depends on HTTP or SQL. Names are the client's, before any look-up.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal


@dataclass(frozen=True)
class JsonStep:
    """One step into a JSON value: `->key`, `->>key` or, for an array, `->0`."""

    key: str
    is_index: bool
    as_text: bool


@dataclass(frozen=True)
class Field:
    """A column, or a path into a JSON column."""

    column: str
    path: tuple[JsonStep, ...] = ()


@dataclass(frozen=True)
class SelectItem:
    """One item of `select`. The column `*` means all columns."""

    field: Field
    alias: str | None = None
    cast: str | None = None


@dataclass(frozen=True)
class Filter:
    """A condition on one field, such as `qty=not.gt.3`.

    Attributes:
        field: The field.
        operator: The operator's name in the URL, such as `gt`.
        value: The value to compare with, or a tuple of values for `in`.
        negated: Whether the operator follows `not.`.
        modifier: The text in parentheses after the operator: `any` or `all` for a comparison, the
            language for a text search.
    """

    field: Field
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False
    modifier: str | None = None


@dataclass(frozen=True)
class Group:
    """Conditions joined by `and` or `or`."""

    junction: Literal["and", "or"]
    members: tuple["Condition", ...]
    negated: bool = False


Condition = Filter | Group


@dataclass(frozen=True)
class OrderTerm:
    """One key of `order`. None means PostgreSQL's default."""

    field: Field
    direction: Literal["asc", "desc"] | None = None
    nulls: Literal["first", "last"] | None = None


@dataclass(frozen=True)
class Window:
    """A range of rows: at most `limit`, or all if it is None, after the first `offset`."""

    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Query:
    """The parsed query of a URL."""

    select: tuple[SelectItem, ...] = (SelectItem(Field("*")),)
    where: tuple[Condition, ...] = ()
    order: tuple[OrderTerm, ...] = ()
    window: Window = Window()
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] | None = None
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def columns_read(self) -> tuple[str, ...]:
        """The columns of `select` and of the filters, without those of `order`."""
        selected = [item.field.column for item in self.select]
        return tuple(dict.fromkeys([*selected, *_filtered(self.where)]))


class Shape(Enum):
    """The shape of the response body."""

    ARRAY = "array"
    OBJECT = "object"
    CSV = "csv"


@dataclass(frozen=True)
class JsonBody:
    """A JSON request body: its text, which PostgreSQL parses, and the keys of its objects."""

    text: str = field(repr=False)
    keys: tuple[str, ...]
    is_array: bool = False
    is_ragged: bool = False
    is_empty: bool = False


@dataclass(frozen=True)
class Call:
    """A function call. The arguments are a JSON body, or values by name from the URL.

    A name may occur several times in a URL, to give a variadic argument several values.
    """

    function: str
    arguments: JsonBody | Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> frozenset[str]:
        """The names of the given arguments."""
        if isinstance(self.arguments, JsonBody):
            return frozenset(self.arguments.keys)
        return frozenset(self.arguments)


def _filtered(conditions: Iterable[Condition]) -> Iterator[str]:
    for condition in conditions:
        if isinstance(condition, Filter):
            yield condition.field.column
        else:
            yield from _filtered(condition.members)
