"""Pages by keyset: each begins after the last row of the one before it, newest first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

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


class Cursor(BaseModel):
    """The last row of a page, its time exactly as the server wrote it: microseconds matter."""

    created_at: str
    id: str

    def narrow(self, request: Filterable) -> Filterable:
        """`request` with the conditions for the rows after this one.

        The first of them is implied by the second, and there because PostgreSQL can begin to read
        an index at a range, but not at an ``or``.
        """
        request = request.lte("created_at", self.created_at)
        return request.or_(f"created_at.lt.{self.created_at},id.lt.{self.id}")

    @classmethod
    def after(cls, rows: Any, previous: "Cursor | None") -> "Cursor | None":
        """The cursor after `rows`, or None when there are none.

        Raises:
            UnexpectedResponseError: They end where the page before ended: the server ignores the
                condition, and the walk would never end.
        """
        cursor = cls.model_validate(rows[-1]) if rows else None
        if cursor and cursor == previous:
            raise UnexpectedResponseError("the server answered with the same page again")
        return cursor


def checked_page_size(value: Any) -> int:
    """`value`, a number of rows that the API is willing to answer with."""
    return checked_int("page_size", value, 1, 1000)
