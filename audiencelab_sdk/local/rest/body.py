"""Parse request bodies. PostgreSQL converts the values; only the keys are needed here."""

import csv
import io
import json
from typing import Any, NoReturn, cast
from urllib.parse import parse_qsl

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import JsonBody

_JSON_TYPES = {
    "",
    "application/json",
    "application/vnd.pgrst.object+json",
    "application/vnd.pgrst.array+json",
}


def parse_body(body: bytes, content_type: str, *, if_empty: str = "") -> JsonBody:
    """Check a body and return it as JSON with the keys of its object or objects.

    Args:
        body: JSON, CSV with a header line, or a form.
        content_type: The Content-Type header. Empty means JSON.
        if_empty: The JSON that an empty body means.

    Raises:
        ApiError: The type is not supported, or the body is not valid for its type (PGRST102).
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/csv":
        return _csv(body)
    if media_type == "application/x-www-form-urlencoded":
        return _form(body)
    if media_type not in _JSON_TYPES:
        raise ApiError(400, "PGRST102", f"Content-Type not acceptable: {media_type}")
    try:
        text = body.decode()
        if not text.strip():
            text = if_empty
        # Converting a very long number is slow, and PostgreSQL parses the text itself.
        document: Any = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "PGRST102", "Empty or invalid json") from error
    if isinstance(document, list):
        return _array(text, document)  # pyright: ignore[reportUnknownArgumentType] - JSON
    return JsonBody(text, _keys(document))


def _csv(body: bytes) -> JsonBody:
    """Convert CSV to an array of objects with strings, and the text NULL to null."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise ApiError(400, "PGRST102", "Empty or invalid CSV") from error
    names, *rows = [line for line in lines if line] or [[]]
    if not names:
        raise ApiError(400, "PGRST102", "Empty or invalid CSV")
    if any(len(row) != len(names) for row in rows):
        raise ApiError(400, "PGRST102", "All lines must have same number of fields")
    items = [
        {name: None if value == "NULL" else value for name, value in zip(names, row, strict=True)}
        for row in rows
    ]
    return _array(json.dumps(items), items)


def _form(body: bytes) -> JsonBody:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise ApiError(400, "PGRST102", "Empty or invalid form") from error
    values = dict(pairs)
    return JsonBody(json.dumps(values), _keys(values))


def _array(text: str, items: list[Any]) -> JsonBody:
    first = _keys(items[0]) if items else ()
    return JsonBody(
        text,
        first,
        is_array=True,
        is_ragged=any(
            not isinstance(item, dict) or set(_keys(item)) != set(first) for item in items
        ),
        is_empty=not items,
    )


def _keys(document: Any) -> tuple[str, ...]:
    return tuple(cast("dict[str, Any]", document)) if isinstance(document, dict) else ()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
