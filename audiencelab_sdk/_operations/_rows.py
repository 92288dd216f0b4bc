"""Rows of a table: one by its id, pages of those that meet conditions, and new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from audiencelab_sdk._arguments import checked_moment, checked_uuid
from audiencelab_sdk._operations._answers import read
from audiencelab_sdk._operations._paging import Cursor, Slice, checked_page_size
from audiencelab_sdk._steps import Call, PostgrestClient, RequestBuilder, Steps
from audiencelab_sdk.errors import InvalidArgumentError, NotFoundError, UnexpectedResponseError
from audiencelab_sdk.models._base import Model

M = TypeVar("M", bound=Model)

Condition = tuple[str, str, str]
"""A column, PostgREST's operator, and what the column is compared with."""

_ONE_OBJECT = "application/vnd.pgrst.object+json"


@dataclass(frozen=True)
class Table(Generic[M]):
    """A table of the API.

    Attributes:
        name: Its name.
        row: The model of its rows.
        rows: The same, of many.
        absent: What is said of an id that it does not have.
        visible: The condition that rows have to meet to be there at all.
    """

    name: str
    row: type[M]
    rows: TypeAdapter[list[M]]
    absent: str
    visible: Sequence[Condition] = ()

    def get(self, row_id: UUID, *, delay: float = 0.0) -> Steps[M]:
        """The row with this id, after a delay in seconds; NotFoundError when there is none."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.name).select("*")
            for condition in (("id", "eq", str(row_id)), *self.visible):
                request = request.filter(*condition)
            return request.single()

        return (yield from self._one(Call(build, repeatable=True, delay=delay)))

    def update(self, row_id: UUID, changes: Mapping[str, Any]) -> Steps[M]:
        """The row with this id, changed; NotFoundError when there is none."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.name).update(dict(changes))
            for condition in (("id", "eq", str(row_id)), *self.visible):
                request = request.filter(*condition)
            request.request.headers["Accept"] = _ONE_OBJECT
            return request

        return (yield from self._one(Call(build, repeatable=True)))

    def update_if(
        self, row_id: UUID, changes: Mapping[str, Any], conditions: Sequence[Condition]
    ) -> Steps[M | None]:
        """The row with this id, changed; None when it does not meet the conditions."""

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.name).update(dict(changes))
            for condition in (("id", "eq", str(row_id)), *conditions):
                request = request.filter(*condition)
            return request

        answer = yield Call(build, repeatable=True)
        rows = self._rows(answer.data)
        return rows[0] if rows else None

    def page(
        self, conditions: Sequence[Condition], page_size: int, after: Cursor | None = None
    ) -> Steps[Slice[M]]:
        """The rows that meet the conditions, newest first, as many as a page has."""
        limit = checked_page_size(page_size)

        def build(api: PostgrestClient) -> RequestBuilder:
            request = api.from_(self.name).select("*")
            for condition in (*conditions, *self.visible):
                request = request.filter(*condition)
            request = request.order("created_at", desc=True).order("id", desc=True).limit(limit)
            return after.narrow(request) if after else request

        answer = yield Call(build, repeatable=True)
        items = self._rows(answer.data)
        cursor = Cursor.after(answer.data, after)
        return Slice(items, lambda: self.page(conditions, page_size, cursor))

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> Steps[list[M]]:
        """New rows, all or none, in this order.

        Each has its id already. So a request whose answer was lost may be sent again: what it
        wrote the first time is left alone, and read.
        """
        body = [dict(row) for row in rows]
        answer = yield Call(
            lambda api: api.from_(self.name).upsert(body, ignore_duplicates=True, on_conflict="id"),
            repeatable=True,
        )
        written = self._by_id(answer.data)
        if missing := [row["id"] for row in rows if row["id"] not in written]:
            answer = yield Call(
                lambda api: api.from_(self.name).select("*").in_("id", missing), repeatable=True
            )
            written |= self._by_id(answer.data)
        if any(row["id"] not in written for row in rows):
            raise UnexpectedResponseError(f"{self.name} did not answer with the rows written to it")
        return [written[row["id"]] for row in rows]

    def _one(self, call: Call) -> Steps[M]:
        try:
            answer = yield call
        except NotFoundError as error:
            if error.code == "PGRST116":
                error.message = self.absent
            raise
        return read(self.name, self.row.model_validate, answer.data)

    def _by_id(self, data: Any) -> dict[str, M]:
        rows = self._rows(data)
        return {raw["id"]: row for raw, row in zip(data, rows, strict=True)}

    def _rows(self, data: Any) -> list[M]:
        return read(self.name, self.rows.validate_python, data)


def equal(column: str, value: str | UUID) -> Condition:
    """The condition that a column has this value."""
    return (column, "eq", str(value))


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


def creator(created_by: UUID | str | None, user_id: UUID | None) -> UUID:
    """Who makes a row: the one who was passed, else the user that the client acts as."""
    if created_by is not None:
        return checked_uuid("created_by", created_by)
    if user_id is None:
        raise InvalidArgumentError(
            "created_by is missing, and this client acts as no user: pass a user's id, "
            "or call it on client.as_user(...)"
        )
    return user_id
