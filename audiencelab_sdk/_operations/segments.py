"""The steps of the calls about segments."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from audiencelab_sdk._arguments import (
    checked_items,
    checked_json,
    checked_member,
    checked_sequence,
    checked_size,
    checked_text,
    checked_texts,
    checked_uuid,
)
from audiencelab_sdk._limits import (
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    LONGEST_SOURCE_ID,
    MOST_JSON_LEVELS,
)
from audiencelab_sdk._operations._answers import Rows, read, read_nothing
from audiencelab_sdk._operations._paging import Listing
from audiencelab_sdk._operations._rows import Condition, Table, created, creator, equal
from audiencelab_sdk._outcome import Outcome
from audiencelab_sdk._steps import Call, Steps
from audiencelab_sdk.errors import (
    AudienceLabError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
)
from audiencelab_sdk.models import UNSET, NewSegment, Segment, SourceType
from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import StoredObject
from audiencelab_sdk.models.segments import FilterField

_TABLE = Table(
    Rows("segments", TypeAdapter(Segment), TypeAdapter(list[Segment], config=Model.model_config)),
    absent="there is no such segment: it never was, it is deleted, or it is not yours to see",
    visible=[("deleted", "is", "false")],
)
_SEGMENTS_A_CALL = 100

_ID = TypeAdapter(UUID)


def create(account_id: UUID | str, given: Mapping[str, Any]) -> Steps[Segment]:
    arguments = {f"p_{column}": value for column, value in _columns(given).items()}
    arguments["p_account_id"] = str(checked_uuid("account_id", account_id))
    answer = yield Call(lambda api: api.rpc("create_studio_segment", arguments), repeatable=False)
    segment_id = read("create_studio_segment", _ID, answer)
    try:
        return (yield from _TABLE.get(segment_id))
    except AudienceLabError as error:
        error.add_note(f"The segment was created nevertheless: its id is {segment_id}.")
        raise


def create_many(
    account_id: UUID | str,
    segments: Iterable[NewSegment],
    created_by: UUID | str | None,
    user_id: UUID | None,
) -> Steps[list[Outcome[Segment]]]:
    same = {
        "account_id": str(checked_uuid("account_id", account_id)),
        "created_by": str(creator(created_by, user_id)),
    }
    rows = [
        {"id": str(uuid4()), **same, **_columns(dict(segment), f"segments[{index}].")}
        for index, segment in enumerate(checked_items("segments", segments, NewSegment))
    ]
    outcomes: list[Outcome[Segment]] = []
    for first in range(0, len(rows), _SEGMENTS_A_CALL):
        outcomes += yield from _insert(first, rows[first : first + _SEGMENTS_A_CALL])
    return outcomes


def get(segment_id: UUID | str) -> Steps[Segment]:
    return _TABLE.get(checked_uuid("segment_id", segment_id))


def listing(
    *,
    account_id: UUID | str | None,
    source_type: SourceType | str | None,
    tags: Sequence[str],
    name_contains: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    page_size: int,
) -> Listing[Segment]:
    conditions = created(created_after, created_before)
    if account_id is not None:
        conditions.append(equal("account_id", checked_uuid("account_id", account_id)))
    if source_type is not None:
        member = checked_member("source_type", source_type, SourceType)
        conditions.append(equal("source_type", member))
    if wanted := checked_texts("tags", tags):
        conditions.append(("tags", "cs", _array(wanted)))
    if name_contains is not None:
        conditions.append(_contains("name", checked_text("name_contains", name_contains)))
    return _TABLE.listing(conditions, page_size)


def update(segment_id: UUID | str, given: Mapping[str, Any]) -> Steps[Segment]:
    changes = {column: value for column, value in given.items() if value is not UNSET}
    if not changes:
        raise InvalidArgumentError("there is nothing to update: pass what is to change")
    return _TABLE.update(checked_uuid("segment_id", segment_id), _columns(changes))


def delete(segment_id: UUID | str) -> Steps[None]:
    arguments = {"p_segment_id": str(checked_uuid("segment_id", segment_id))}
    answer = yield Call(lambda api: api.rpc("delete_studio_segment", arguments), repeatable=True)
    read_nothing("delete_studio_segment", answer)


def restore(segment_id: UUID | str) -> Steps[Segment]:
    arguments = {"p_segment_id": str(checked_uuid("segment_id", segment_id))}
    answer = yield Call(lambda api: api.rpc("restore_studio_segment", arguments), repeatable=True)
    return read("restore_studio_segment", _TABLE.rows.one, answer)


def _insert(first: int, rows: Sequence[Mapping[str, Any]]) -> Steps[list[Outcome[Segment]]]:
    try:
        segments = yield from _TABLE.insert(rows)
    except AudienceLabError as error:
        if len(rows) == 1 or not _is_about_a_row(error):
            return [Outcome(first + index, error=error) for index in range(len(rows))]
    else:
        return [Outcome(first + index, segment) for index, segment in enumerate(segments)]
    # One bad row has all of them refused: the halves tell which.
    middle = len(rows) // 2
    outcomes = yield from _insert(first, rows[:middle])
    outcomes += yield from _insert(first + middle, rows[middle:])
    return outcomes


def _is_about_a_row(error: AudienceLabError) -> bool:
    """Whether the values of some row are what the database refused, by its SQLSTATE."""
    if not isinstance(error, InvalidRequestError | ConflictError):
        return False
    # The foreign keys, account and user, are the same in all rows.
    return error.code != "23503" and (error.code or "")[:2] in {"22", "23", "P0"}


def _columns(given: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """What the database stores for these arguments; errors name them as those of `owner`."""
    return {column: _STORED[column](owner + column, value) for column, value in given.items()}


def _description(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return cast("str | None", value)
    return checked_text(name, value, longest=LONGEST_DESCRIPTION)


def _source_type(name: str, value: Any) -> str:
    return checked_member(name, value, SourceType).value


def _objects(name: str, value: Any) -> list[Any]:
    """The JSON of filters or custom columns."""
    items: list[Any] = []
    for index, item in enumerate(checked_sequence(name, value)):
        if isinstance(item, FilterField):
            raise InvalidArgumentError(
                f"{name}[{index}] is only the beginning of a filter: compare it, as in "
                'SegmentFilter.where("country") == "US"'
            )
        # The items are in an array, which is a level of its own.
        stored = item.model_dump() if isinstance(item, StoredObject) else item
        items.append(checked_json(f"{name}[{index}]", stored, levels=MOST_JSON_LEVELS - 1))
    checked_size(name, items)
    return items


_STORED: dict[str, Callable[[str, Any], Any]] = {
    "name": partial(checked_text, longest=LONGEST_NAME),
    "description": _description,
    "source_type": _source_type,
    "source_id": partial(checked_text, longest=LONGEST_SOURCE_ID),
    "filters": _objects,
    "enrichment_fields": checked_texts,
    "custom_columns": _objects,
    "tags": checked_texts,
}


def _array(texts: Sequence[str]) -> str:
    """A PostgreSQL array of texts."""
    quoted = (re.sub(r'["\\]', r"\\\g<0>", text) for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _contains(column: str, text: str) -> Condition:
    """The condition that a column contains a text, in upper or lower case.

    By a regular expression: in a pattern for ``ilike`` PostgREST takes every ``*`` for ``%``, so
    that a ``*`` could not be looked for.
    """
    return (column, "imatch", re.sub(r"[.^$*+?()\[\]{}|\\]", r"\\\g<0>", text))
