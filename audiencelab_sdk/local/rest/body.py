"""From a request's body to its keys; the values inside are PostgreSQL's to read."""

import json
from typing import Any, NoReturn, cast

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import JsonBody

_JSON_TYPES = {
    "",
    "application/json",
    "application/vnd.pgrst.object+json",
    "application/vnd.pgrst.array+json",
}


def parse_body(body: bytes, content_type: str, *, if_empty: str = "") -> JsonBody:
    """Check a JSON body and find the keys of its object, or of the objects in its array.

    Args:
        body: The body.
        content_type: The header of that name; JSON when it is empty.
        if_empty: What an empty body stands for.

    Raises:
        ApiError: The body is not JSON, or of another type (PGRST102).
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _JSON_TYPES:
        raise ApiError(400, "PGRST102", f"Content-Type not acceptable: {media_type}")
    try:
        text = body.decode()
        if not text.strip():
            text = if_empty
        # Numbers stay text: PostgreSQL reads them, and a very long one costs nothing here.
        document: Any = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "PGRST102", "Empty or invalid json") from error
    if isinstance(document, list):
        return _array(text, document)  # pyright: ignore[reportUnknownArgumentType] - JSON
    return JsonBody(text, _keys(document))


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
