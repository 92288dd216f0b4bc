"""Pages by keyset: each begins after the last row of the one before it, newest first."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import repeat
from operator import attrgetter, eq
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast
from uuid import UUID
from zlib import crc32

from audiencelab_sdk._arguments import checked_int
from audiencelab_sdk._http._json_text import member
from audiencelab_sdk._http._operation import Operation, PostgrestClient, Request, RequestBuilder
from audiencelab_sdk._http._reading import Rows, unexpected_shape
from audiencelab_sdk.errors import InvalidCursorError, UnexpectedResponseError
from audiencelab_sdk.models import UnreadableRow

if TYPE_CHECKING:
    from postgrest.base_request_builder import BaseSelectRequestBuilder


class Row(Protocol):
    """What a row has to have to be a place in a list, besides a time."""

    @property
    def id(self) -> UUID: ...


R = TypeVar("R", bound=Row)

PageBuilder: TypeAlias = Callable[[PostgrestClient, int, "Place | None"], RequestBuilder]

# Of a cursor that a caller forged, the time must not add conditions to a query.
_TIME = r"\d{4,6}-\d\d-\d\d[T ][\d:.]{8,15}(?:Z|[+-][\d:]{2,8})(?: BC)?|-?infinity"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_CURSOR = re.compile(rf"([0-9a-f]{{8}})({_TIME})\|({_UUID})")


@dataclass(frozen=True)
class Place:
    """A place in a list: that of the row with this id.

    Attributes:
        created_at: When the row was created, as text that PostgreSQL reads to the microsecond. Of
            a row that Python cannot read, PostgreSQL's own.
        id: Its id.
        time: `created_at`, if it is known that Python can read it.
    """

    created_at: str
    id: UUID
    time: datetime | None = None


@dataclass(frozen=True)
class Fetched(Generic[R]):
    """The rows of one response.

    Attributes:
        items: Those that can be read.
        unreadable: The others.
        last: The place of the last row; None when there is none, which is the end of the list.
    """

    items: list[R]
    unreadable: list[UnreadableRow]
    last: Place | None


@dataclass(frozen=True)
class Listing(Generic[R]):
    """A list, to be fetched a page at a time.

    Attributes:
        rows: How its rows are read.
        build: Builds the request for a page of a size, after a place; None means the newest rows.
        page_size: How many rows are requested at once.
        identity: Text that differs for lists with other arguments. A cursor contains its checksum.
        equal: The requested values, by column.
        time: The column with the time that rows are ordered by.
        start: The place after which the first page begins.
    """

    rows: Rows[R]
    build: "PageBuilder"
    page_size: int
    identity: str
    equal: Mapping[str, str | UUID] = field(default_factory=dict[str, "str | UUID"])
    time: str = "created_at"
    start: Place | None = None

    def starting_at(self, cursor: Any) -> "Listing[R]":
        """Return the list from a cursor on; the whole list if it is None.

        Raises:
            InvalidCursorError: The cursor is damaged, or is one of another list.
        """
        return self if cursor is None else replace(self, start=self._place(cursor))

    def cursor(self, place: Place) -> str:
        """Return the text from which `starting_at` continues after a place."""
        text = f"{place.created_at}|{place.id}"
        return urlsafe_b64encode(f"{self._checksum(text)}{text}".encode()).decode().rstrip("=")

    def _place(self, cursor: Any) -> Place:
        if not isinstance(cursor, str):
            raise InvalidCursorError(f"cursor must be a str, not {type(cursor).__name__}")
        try:
            text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        except ValueError:
            text = ""
        match = _CURSOR.fullmatch(text)
        if match is None or match[1] != self._checksum(f"{match[2]}|{match[3]}"):
            raise InvalidCursorError(
                "cursor is damaged or belongs to another list: pass the cursor of a page unchanged "
                "to the same method with the same arguments"
            )
        return Place(match[2], UUID(match[3]))

    def _checksum(self, place: str) -> str:
        return f"{crc32(f'{self.identity}{place}'.encode()):08x}"

    def page(self, after: Place | None = None) -> Operation[Fetched[R]]:
        """Return the newest rows, or those after a place."""
        after = after or self.start
        request = Request(lambda api: self.build(api, self.page_size, after), repeatable=True)
        response = yield request
        rows = self.rows.read_each(response)
        unreadable = [row for row in rows if type(row) is UnreadableRow]
        # Usually there are none, and the rows need not be looked at one by one.
        items = cast(
            "list[R]",
            [row for row in rows if type(row) is not UnreadableRow] if unreadable else rows,
        )
        self._check(rows, items, after)
        last = self._place_of(rows[-1]) if rows else None
        return Fetched(items, unreadable, last)

    def _check(
        self,
        rows: Sequence[R | UnreadableRow],
        items: Sequence[R],
        after: Place | None,
    ) -> None:
        """Make sure that these are the rows that were asked for."""
        # UUIDs are compared by their numbers, which takes a fraction of the time.
        for column, value in self.equal.items():
            is_id = isinstance(value, UUID)
            found = map(attrgetter(f"{column}.int" if is_id else column), items)
            wanted = value.int if isinstance(value, UUID) else value
            if not all(map(eq, found, repeat(wanted))):
                raise self._proxy(f"rows whose {column} is not what was asked for")
        if after and after.id in map(attrgetter("id"), rows):
            raise self._proxy("rows of the page before")
        if after and after.time and items and self._key(items[0]) > (after.time, after.id):
            raise self._proxy("rows before the page")
        # Of the order only the ends are compared, which costs nothing.
        if items and self._key(items[0]) < self._key(items[-1]):
            raise self._proxy("rows in another order than asked for")

    def _key(self, row: R) -> tuple[datetime, UUID]:
        return (getattr(row, self.time), row.id)

    def _place_of(self, row: R | UnreadableRow) -> Place:
        if not isinstance(row, UnreadableRow):
            time: datetime = getattr(row, self.time)
            return Place(time.isoformat(), row.id, time)
        try:
            moment = json.loads(member(row.raw, self.time) or "")
        except (ValueError, RecursionError):
            moment = None
        if not isinstance(moment, str):
            raise unexpected_shape(self.rows.name, [self.time])
        return Place(moment, row.id)

    def _proxy(self, what: str) -> UnexpectedResponseError:
        return UnexpectedResponseError(
            f"{self.rows.name} returned {what}: does a proxy on the way drop the query of a URL?"
        )


def by_columns(
    select: Callable[[PostgrestClient], "BaseSelectRequestBuilder[Any]"],
) -> PageBuilder:
    """Return what builds pages of a request for all rows, by conditions on two columns."""

    def build(api: PostgrestClient, page_size: int, after: Place | None) -> RequestBuilder:
        request = select(api).limit(page_size)
        request = request.order("created_at", desc=True).order("id", desc=True)
        if after is None:
            return request
        # The first of the conditions is implied by the second, and there because PostgreSQL can
        # begin to read an index at a range, but not at an `or`.
        request = request.lte("created_at", after.created_at)
        # Years before Christ end in " BC".
        moment = f'"{after.created_at}"' if " " in after.created_at else after.created_at
        return request.or_(f"created_at.lt.{moment},id.lt.{after.id}")

    return build


def by_parameters(function: str, arguments: Mapping[str, Any]) -> PageBuilder:
    """Return what builds pages of a function that takes a limit and a place."""

    def build(api: PostgrestClient, page_size: int, after: Place | None) -> RequestBuilder:
        page: dict[str, Any] = {
            "p_limit": page_size,
            "p_before": after and after.created_at,
            "p_before_id": after and str(after.id),
        }
        return api.rpc(function, {**arguments, **page})

    return build


def checked_page_size(value: Any) -> int:
    """Return `value`, a number of rows that the API returns in one response."""
    return checked_int("page_size", value, 1, 1000)
