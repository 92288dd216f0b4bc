"""Convert arguments about a segment to the values of its columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from audiencelab_sdk._arguments import (
    checked_json,
    checked_sequence,
    checked_size,
    checked_text,
    checked_texts,
)
from audiencelab_sdk._http._table import Condition
from audiencelab_sdk._limits import (
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    LONGEST_SOURCE_ID,
    MOST_JSON_LEVELS,
)
from audiencelab_sdk.errors import InvalidArgumentError
from audiencelab_sdk.models._stored import StoredObject
from audiencelab_sdk.models.segments import FilterField


def columns(given: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """Return the values to store. Errors name an argument with the prefix `owner`."""
    return {column: _STORED[column](owner + column, value) for column, value in given.items()}


def has_tags(tags: Sequence[str]) -> Condition:
    """Return the condition that a segment has all of these tags."""
    # A PostgreSQL array literal.
    quoted = (re.sub(r'["\\]', r"\\\g<0>", tag) for tag in tags)
    return ("tags", "cs", "{" + ",".join(f'"{tag}"' for tag in quoted) + "}")


def name_contains(text: str) -> Condition:
    """Return the condition that a segment's name contains a text, ignoring case."""
    # A regular expression, because PostgREST replaces each * in a pattern of ilike by %, so that no
    # pattern matches a literal *.
    return ("name", "imatch", re.sub(r"[.^$*+?()\[\]{}|\\]", r"\\\g<0>", text))


def _description(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return cast("str | None", value)
    return checked_text(name, value, longest=LONGEST_DESCRIPTION)


def _objects(name: str, value: Any) -> list[Any]:
    """Return filters or custom columns as JSON."""
    items: list[Any] = []
    for index, item in enumerate(checked_sequence(name, value)):
        if isinstance(item, FilterField):
            raise InvalidArgumentError(
                f"{name}[{index}] is an incomplete filter: compare the field with a value, as in "
                'SegmentFilter.where("country") == "US"'
            )
        # The array that contains the items is one level.
        stored = item.model_dump() if isinstance(item, StoredObject) else item
        items.append(checked_json(f"{name}[{index}]", stored, levels=MOST_JSON_LEVELS - 1))
    checked_size(name, items)
    return items


_STORED: dict[str, Callable[[str, Any], Any]] = {
    "name": partial(checked_text, longest=LONGEST_NAME),
    "description": _description,
    "source_type": checked_text,
    "source_id": partial(checked_text, longest=LONGEST_SOURCE_ID),
    "filters": _objects,
    "enrichment_fields": checked_texts,
    "custom_columns": _objects,
    "tags": checked_texts,
}
