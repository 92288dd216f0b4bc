"""From a URL and a body to a query value. Knows PostgREST's grammar, and no SQL."""

import json
from typing import Any, NoReturn, cast

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import JsonBody


def parse_body(body: bytes) -> JsonBody:
    """Check a JSON body and find the keys of its object; an empty body is an empty object.

    Raises:
        ApiError: The body is not JSON (PGRST102).
    """
    if not body.strip():
        return JsonBody("{}", frozenset())
    try:
        text = body.decode()
        # Numbers stay text: PostgreSQL reads them, and a very long one costs nothing here.
        document: Any = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "PGRST102", "Empty or invalid json") from error
    return JsonBody(text, _keys(document))


def _keys(document: Any) -> frozenset[str]:
    return (
        frozenset(cast("dict[str, Any]", document)) if isinstance(document, dict) else frozenset()
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
