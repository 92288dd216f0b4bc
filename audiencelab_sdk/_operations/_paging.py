"""Pages by keyset: each begins after the last row of the one before it, newest first."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

from audiencelab_sdk._arguments import checked_int
from audiencelab_sdk._operations._answers import Rows
from audiencelab_sdk._steps import Call, PostgrestClient, RequestBuilder, Steps
from audiencelab_sdk.errors import UnexpectedResponseError
from audiencelab_sdk.models._stored import stored_moment

if TYPE_CHECKING:
    from postgrest.base_request_builder import BaseSelectRequestBuilder


class Row(Protocol):
    """What a row has to have to be a place in a list."""

    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Listing(Generic[R]):
    """A list, to be fetched a page at a time.

    Attributes:
        rows: How its rows are read.
        select: Makes the request for all of them.
        page_size: How many are asked for at once.
    """

    rows: Rows[R]
    select: Callable[[PostgrestClient], "BaseSelectRequestBuilder[Any]"]
    page_size: int

    def page(self, after: R | None = None) -> Steps[list[R]]:
        """The newest rows, or those that come after one."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = self.select(api).limit(self.page_size)
            request = request.order("created_at", desc=True).order("id", desc=True)
            if after is None:
                return request
            # The first of the conditions is implied by the second, and there because PostgreSQL
            # can begin to read an index at a range, but not at an `or`.
            moment = stored_moment(after.created_at)
            request = request.lte("created_at", moment)
            return request.or_(f"created_at.lt.{moment},id.lt.{after.id}")

        answer = yield Call(build, repeatable=True)
        rows = self.rows.read(answer)
        if rows and after is not None and _place(rows[0]) >= _place(after):
            raise UnexpectedResponseError(
                f"{self.rows.name} answered with rows of the page before: is there a proxy that "
                "drops the query of a URL?"
            )
        return rows


def _place(row: Row) -> tuple[datetime, UUID]:
    return (row.created_at, row.id)


def checked_page_size(value: Any) -> int:
    """`value`, a number of rows that the API is willing to answer with."""
    return checked_int("page_size", value, 1, 1000)
