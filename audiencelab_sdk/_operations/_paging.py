"""Pages by keyset: each begins after the last row of the one before it, newest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

from audiencelab_sdk._arguments import checked_int
from audiencelab_sdk._steps import Steps
from audiencelab_sdk.errors import UnexpectedResponseError

if TYPE_CHECKING:
    from postgrest.base_request_builder import BaseFilterRequestBuilder

T = TypeVar("T")
Filterable = TypeVar("Filterable", bound="BaseFilterRequestBuilder[Any]")


@dataclass(frozen=True)
class Slice(Generic[T]):
    """The items of one page, and the steps to those of the next."""

    items: list[T]
    following: Callable[[], Steps["Slice[T]"]]


class Row(Protocol):
    """What a row has to have to be a place in a list."""

    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


@dataclass(frozen=True)
class Cursor:
    """The last row of a page. Its time is exact: PostgreSQL and Python both count microseconds."""

    created_at: datetime
    id: UUID

    def narrow(self, request: Filterable) -> Filterable:
        """`request` with the conditions for the rows after this one.

        The first of them is implied by the second, and there because PostgreSQL can begin to read
        an index at a range, but not at an ``or``.
        """
        moment = self.created_at.isoformat()
        return request.lte("created_at", moment).or_(f"created_at.lt.{moment},id.lt.{self.id}")

    @classmethod
    def after(cls, rows: Sequence[Row], previous: "Cursor | None") -> "Cursor | None":
        """The cursor after `rows`, or None when there are none.

        Raises:
            UnexpectedResponseError: They end where the page before ended: the server ignores the
                condition, and the walk would never end.
        """
        if not rows:
            return None
        cursor = cls(rows[-1].created_at, rows[-1].id)
        if cursor == previous:
            raise UnexpectedResponseError("the server answered with the same page again")
        return cursor


def checked_page_size(value: Any) -> int:
    """`value`, a number of rows that the API is willing to answer with."""
    return checked_int("page_size", value, 1, 1000)
