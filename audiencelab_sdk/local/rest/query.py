"""What a request asks for, as values: made by `parse` and `headers`, turned into SQL by `render`.

Nothing here knows HTTP or SQL; names are as the client wrote them, not yet looked up anywhere.
"""

from collections.abc import Mapping
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
    """A column, or a place inside a JSON column."""

    column: str
    path: tuple[JsonStep, ...] = ()


@dataclass(frozen=True)
class SelectItem:
    """One item of `select`; the column `*` stands for all of them."""

    field: Field
    alias: str | None = None
    cast: str | None = None


@dataclass(frozen=True)
class Filter:
    """A condition on one field, such as `qty=not.gt.3`.

    Attributes:
        field: What is compared.
        operator: The operator's name in the URL, such as `gt`.
        value: The text to compare with; for `in`, the texts.
        negated: Whether `not.` came before the operator.
        modifier: What followed the operator in parentheses: `any` or `all` for a comparison, the
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
    """One key of `order`; None leaves the choice to PostgreSQL."""

    field: Field
    direction: Literal["asc", "desc"] | None = None
    nulls: Literal["first", "last"] | None = None


@dataclass(frozen=True)
class Window:
    """Which rows of a result are wanted: `limit` of them (all for None) after `offset`."""

    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Query:
    """Everything that a URL's query says."""

    select: tuple[SelectItem, ...] = (SelectItem(Field("*")),)
    where: tuple[Condition, ...] = ()
    order: tuple[OrderTerm, ...] = ()
    window: Window = Window()
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] | None = None
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


class Shape(Enum):
    """The form of the answer."""

    ARRAY = "array"
    OBJECT = "object"
    CSV = "csv"


@dataclass(frozen=True)
class JsonBody:
    """A JSON request body: its text, which PostgreSQL unpacks, and the keys of its objects."""

    text: str = field(repr=False)
    keys: tuple[str, ...]
    is_array: bool = False
    is_ragged: bool = False
    is_empty: bool = False


@dataclass(frozen=True)
class Call:
    """A call of a function; the arguments come as one JSON body or as texts by name.

    A name may come several times in a URL: a variadic argument gets all its texts.
    """

    function: str
    arguments: JsonBody | Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> frozenset[str]:
        """The names of the arguments that the request gives."""
        if isinstance(self.arguments, JsonBody):
            return frozenset(self.arguments.keys)
        return frozenset(self.arguments)
