"""Checks of what callers pass in.

No message quotes the value: what was passed by mistake may be a key.
"""

import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, SupportsIndex, TypeVar, cast
from uuid import UUID

from pydantic import JsonValue

from audiencelab_sdk._limits import (
    LARGEST_NUMBER,
    LONGEST_ITEM,
    MOST_ITEMS,
    MOST_JSON_BYTES,
    MOST_JSON_LEVELS,
)
from audiencelab_sdk._text import is_storable, storable
from audiencelab_sdk.errors import InvalidArgumentError
from audiencelab_sdk.models._stored import plain

T = TypeVar("T")


def checked_uuid(name: str, value: Any) -> UUID:
    """`value`, a UUID or the text of one, as a UUID."""
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a UUID or its text, not {_kind(value)}")
    try:
        return UUID(value)
    except ValueError:
        message = f"{name} must be a UUID, such as 7f3b5a52-8a4f-4d0e-9d0c-2f1f6f0c9a11"
    raise InvalidArgumentError(message)


def checked_text(name: str, value: Any, *, longest: int | None = None) -> str:
    """`value`, a text that is not blank and that PostgreSQL can store."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a str, not {_kind(value)}")
    if not value.strip():
        raise InvalidArgumentError(f"{name} is empty or blank")
    if longest is not None and len(value) > longest:
        raise InvalidArgumentError(
            f"{name} has {len(value):,} characters; at most {longest:,} are allowed"
        )
    if not is_storable(value):
        raise InvalidArgumentError(
            f"{name} contains NUL or half of a surrogate pair, which no text may: "
            "decode it with errors='replace'"
        )
    return value


def made_storable(name: str, value: Any, *, longest: int) -> str:
    """`value`, any text that is not empty, cut, and with what PostgreSQL cannot store replaced."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a str, not {_kind(value)}")
    if not value:
        raise InvalidArgumentError(f"{name} is empty")
    return storable(value[:longest])


def checked_int(name: str, value: Any, lowest: int, highest: int) -> int:
    """`value`, a whole number within the limits."""
    # Like an index, so that numpy's integers count.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InvalidArgumentError(f"{name} must be an int, not {_kind(value)}")
    number: int = operator.index(value)
    if not lowest <= number <= highest:
        raise InvalidArgumentError(f"{name} must be from {lowest} to {highest}, not {number}")
    return number


def checked_seconds(name: str, value: Any) -> float:
    """`value`, a length of time."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(f"{name} must be a number of seconds, not {_kind(value)}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidArgumentError(f"{name} must be more than 0 seconds and finite, not {value}")
    return float(value)


def checked_timedelta(name: str, value: Any, lowest: timedelta, highest: timedelta) -> timedelta:
    """`value`, a length of time within the limits."""
    if not isinstance(value, timedelta):
        raise InvalidArgumentError(f"{name} must be a timedelta, not {_kind(value)}")
    if not lowest <= value <= highest:
        raise InvalidArgumentError(f"{name} must be from {lowest} to {highest}, not {value}")
    return value


def checked_texts(name: str, value: Any) -> list[str]:
    """`value`, a sequence of texts within the database's limits, as a list."""
    items = checked_sequence(name, value)
    if len(items) > MOST_ITEMS:
        raise InvalidArgumentError(
            f"{name} has {len(items):,} items; at most {MOST_ITEMS:,} are allowed"
        )
    return [
        checked_text(f"{name}[{index}]", item, longest=LONGEST_ITEM)
        for index, item in enumerate(items)
    ]


def checked_sequence(name: str, value: Any) -> list[Any]:
    """`value`, a sequence other than a text, as a list."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidArgumentError(f"{name} must be a sequence, such as a list, not {_kind(value)}")
    return list(cast("Any", value))


def checked_object(name: str, value: Any, *, most_bytes: int = MOST_JSON_BYTES) -> JsonValue:
    """`value`, a JSON object of at most this size, as lists and dicts."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} must be a mapping, such as a dict, not {_kind(value)}")
    stored = checked_json(name, cast("Any", value))
    checked_size(name, stored, most_bytes)
    return stored


def checked_size(name: str, value: JsonValue, most: int = MOST_JSON_BYTES) -> None:
    """Make sure that the database takes this much JSON."""
    size = len(json.dumps(value, ensure_ascii=False).encode())
    if size > most:
        raise InvalidArgumentError(
            f"{name} has {size:,} bytes as JSON; at most {most:,} are allowed"
        )


def checked_json(name: str, value: Any, *, levels: int = MOST_JSON_LEVELS) -> JsonValue:
    """`value`, something that JSON has and that PostgreSQL can store, as lists and dicts."""
    try:
        value = plain(value)
        sound = _is_json(value, levels)
    except RecursionError:
        sound = False
    if not sound:
        raise InvalidArgumentError(
            f"{name} must be JSON (mapping with str keys, sequence, str, int, finite float, bool, "
            "None) without NUL or half of a surrogate pair in its texts, at most "
            f"{levels} levels deep and with numbers in the range of a double"
        )
    return cast("JsonValue", value)


def checked_moment(name: str, value: Any) -> datetime:
    """`value`, a moment that says its time zone."""
    if not isinstance(value, datetime):
        raise InvalidArgumentError(f"{name} must be a datetime, not {_kind(value)}")
    if value.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} has no time zone: give one, such as "
            "datetime.now(timezone.utc) + timedelta(days=90)"
        )
    return value


def checked_future(name: str, value: Any) -> datetime:
    """`value`, a moment in the future that says its time zone."""
    moment = checked_moment(name, value)
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise InvalidArgumentError(f"{name} must be in the years 1 to 9999 of UTC") from None
    if moment <= datetime.now(UTC):
        raise InvalidArgumentError(f"{name} must be in the future")
    return moment


def checked_items(name: str, value: Any, kind: type[T]) -> list[T]:
    """`value`, an iterable of instances of `kind`, as a list."""
    return list(each_item(name, value, kind))


def each_item(name: str, value: Any, kind: type[T]) -> Iterator[T]:
    """Yield the items of `value`, an iterable of instances of `kind`."""
    if isinstance(value, kind) or not isinstance(value, Iterable):
        raise InvalidArgumentError(
            f"{name} must be a sequence of {kind.__name__}, not {_kind(value)}"
        )
    for index, item in enumerate(cast("Any", value)):
        if not isinstance(item, kind):
            raise InvalidArgumentError(
                f"{name} must be a sequence of {kind.__name__}; item {index} is {_kind(item)}"
            )
        yield item


def _kind(value: Any) -> str:
    return type(value).__name__


def _is_json(value: Any, levels: int) -> bool:
    if isinstance(value, str):
        return is_storable(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return levels > 0 and all(_is_json(item, levels - 1) for item in cast("Any", value))
    if isinstance(value, dict):
        entries: dict[Any, Any] = dict(cast("Any", value))
        return (
            levels > 0
            and all(isinstance(key, str) and is_storable(key) for key in entries)
            and all(_is_json(item, levels - 1) for item in entries.values())
        )
    if isinstance(value, int):
        return abs(value) <= LARGEST_NUMBER
    return value is None
