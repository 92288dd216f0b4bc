"""Rows of a table: one by its id, pages of those that meet conditions, and new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from audiencelab_sdk._arguments import checked_moment, checked_uuid
from audiencelab_sdk._http._listing import Listing, Row, by_columns, checked_page_size
from audiencelab_sdk._http._operation import (
    Operation,
    PostgrestClient,
    Request,
    RequestBuilder,
    Response,
)
from audiencelab_sdk._http._reading import Rows, read
from audiencelab_sdk.errors import InvalidArgumentError, NotFoundError, UnexpectedResponseError

if TYPE_CHECKING:
    from postgrest.base_request_builder import BaseSelectRequestBuilder

R = TypeVar("R", bound=Row)

Condition = tuple[str, str, str | UUID]
"""A column, PostgREST's operator, and what the column is compared with."""

_ONE_OBJECT = "application/vnd.pgrst.object+json"


@dataclass(frozen=True)
class Table(Generic[R]):
    """A table of the API.

    Attributes:
        rows: Its name, and how its rows are read.
        absent: What is said of an id that it does not have.
        visible: The condition that rows have to meet to be there at all.
    """

    # Pyright: postgrest-py's type of a request's JSON is recursive, and not all of it is seen.

    rows: Rows[R]
    absent: str
    visible: Sequence[Condition] = ()

    def get(self, row_id: UUID, *, delay: float = 0.0, retried: bool = True) -> Operation[R]:
        """The row with this id, after a delay in seconds; NotFoundError when there is none."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.rows.name).select("*")
            for column, operator, value in (("id", "eq", row_id), *self.visible):
                request = request.filter(column, operator, str(value))
            return request.single()

        request = Request(build, repeatable=True, delay=delay, retried=retried)
        return (yield from self._one(row_id, request))

    def update(self, row_id: UUID, changes: Mapping[str, Any]) -> Operation[R]:
        """The row with this id, changed; NotFoundError when there is none."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.rows.name).update(dict(changes))  # pyright: ignore[reportUnknownMemberType] # see Table
            for column, operator, value in (("id", "eq", row_id), *self.visible):
                request = request.filter(column, operator, str(value))
            request.request.headers["Accept"] = _ONE_OBJECT
            return request

        return (yield from self._one(row_id, Request(build, repeatable=True)))

    def update_if(
        self,
        row_id: UUID,
        changes: Mapping[str, Any],
        conditions: Sequence[Condition],
        *,
        delay: float = 0.0,
    ) -> Operation[R | None]:
        """The row with this id, changed after a delay in seconds.

        None when it does not meet the conditions.
        """

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.rows.name).update(dict(changes))  # pyright: ignore[reportUnknownMemberType] # see Table
            for column, operator, value in (("id", "eq", row_id), *conditions):
                request = request.filter(column, operator, str(value))
            return request

        response = yield Request(build, repeatable=True, delay=delay)
        rows = self.rows.read(response)
        return self._checked(row_id, rows[0]) if rows else None

    def listing(
        self,
        conditions: Sequence[Condition],
        page_size: int,
        cursor: str | None,
        *,
        moving: Mapping[Condition, object] | None = None,
    ) -> Listing[R]:
        """Return the rows that meet the conditions, from a cursor on.

        `moving` has further conditions that depend on the present time, and what each means: a
        cursor remains valid while that is the same.
        """
        moving = moving or {}

        def select(api: PostgrestClient) -> "BaseSelectRequestBuilder[Any]":
            request = api.from_(self.rows.name).select("*")
            for column, operator, value in (*conditions, *moving, *self.visible):
                request = request.filter(column, operator, str(value))
            return request

        expected = {column: value for column, operator, value in conditions if operator == "eq"}
        identity = repr(
            [self.rows.name, *(tuple(map(str, each)) for each in conditions), *moving.values()]
        )
        page_size = checked_page_size(page_size)
        listing = Listing(self.rows, by_columns(select), page_size, identity, expected)
        return listing.starting_at(cursor)

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> Operation[list[R]]:
        """New rows, all or none, in this order.

        Each has its id already, so the request may be retried after a lost response: rows that the
        first attempt wrote are left unchanged, and read.
        """
        body = [dict(row) for row in rows]
        response = yield Request(
            lambda api: api.from_(self.rows.name).upsert(  # pyright: ignore[reportUnknownMemberType] # see Table
                body, ignore_duplicates=True, on_conflict="id"
            ),
            repeatable=True,
        )
        written = self._by_id(response)
        if missing := [row["id"] for row in rows if row["id"] not in written]:
            response = yield Request(
                lambda api: api.from_(self.rows.name).select("*").in_("id", missing),
                repeatable=True,
            )
            written |= self._by_id(response)
        if any(row["id"] not in written for row in rows):
            raise UnexpectedResponseError(f"{self.rows.name} did not return the rows written to it")
        return [written[row["id"]] for row in rows]

    def _one(self, row_id: UUID, request: Request) -> Operation[R]:
        try:
            response = yield request
        except NotFoundError as error:
            if error.code == "PGRST116":
                error.message = self.absent
            raise
        return self._checked(row_id, read(self.rows.name, self.rows.one, response))

    def _checked(self, row_id: UUID, row: R) -> R:
        if row.id != row_id:
            raise UnexpectedResponseError(
                f"{self.rows.name} returned another row than the requested one: does a proxy on "
                "the way drop the query of a URL?"
            )
        return row

    def _by_id(self, response: Response) -> dict[str, R]:
        return {str(row.id): row for row in self.rows.read(response)}


def equal(column: str, value: str | UUID) -> Condition:
    """The condition that a column has this value."""
    return (column, "eq", value)


def created(after: datetime | None, before: datetime | None) -> list[Condition]:
    """The conditions that a row was made between two moments, both excluded."""
    conditions: list[Condition] = []
    if after is not None:
        moment = checked_moment("created_after", after)
        conditions.append(("created_at", "gt", moment.isoformat()))
    if before is not None:
        moment = checked_moment("created_before", before)
        conditions.append(("created_at", "lt", moment.isoformat()))
    return conditions


def creator(created_by: UUID | str | None, acting: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the columns for the user passed, or else for whom the client acts as."""
    if created_by is not None:
        return {"created_by": str(checked_uuid("created_by", created_by))}
    if acting is None:
        raise InvalidArgumentError(
            "created_by is missing, and this client acts as no user or API key: pass a user's id, "
            "or call it on client.as_user(...)"
        )
    return acting
