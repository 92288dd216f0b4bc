"""Build HTTP responses from the row that a statement returns."""

import json
from urllib.parse import quote, urlencode

from starlette.responses import Response

from audiencelab_sdk.local.rest.database import Row
from audiencelab_sdk.local.rest.errors import ApiError, valid_headers, valid_status
from audiencelab_sdk.local.rest.headers import JSON, MediaType, Preferences
from audiencelab_sdk.local.rest.query import Shape, Window
from audiencelab_sdk.local.rest.schema import Function, Returns, Table


def error_response(error: ApiError) -> Response:
    """Return the response that reports an error."""
    return Response(
        error.body, status_code=error.status, headers=error.headers, media_type=JSON.header
    )


def require_single(media: MediaType, row: Row) -> None:
    """Require exactly one row if the client wants a single object.

    Raises:
        ApiError: There are no or several rows (PGRST116).
    """
    if media.shape is Shape.OBJECT and row.rows != 1:
        raise ApiError(
            406,
            "PGRST116",
            "Cannot coerce the result to a single JSON object",
            details=f"The result contains {row.rows} rows",
        )


def require_few(preferences: Preferences, row: Row) -> None:
    """Require at most as many changed rows as the client allows.

    Raises:
        ApiError: The statement changed more rows (PGRST124).
    """
    limit = preferences.max_affected
    if limit is not None and row.rows > limit:
        raise ApiError(
            400,
            "PGRST124",
            "Query result exceeds max-affected preference constraint",
            details=f"The query affects {row.rows} rows",
        )


def read_response(row: Row, media: MediaType, window: Window, preferences: Preferences) -> Response:
    """Return the response to a GET of a table."""
    headers = _range_headers(row, window) | preferences.applied(["count"])
    status = _range_status(row, window, headers)
    return _response(row, status, headers, media)


def call_response(
    row: Row, function: Function, media: MediaType, window: Window, preferences: Preferences
) -> Response:
    """Return the response to a function call."""
    headers = _range_headers(row, window) | preferences.applied(["count", "max-affected"])
    if function.returns is Returns.VOID:
        return _response(row, 204, headers)
    return _response(row, _range_status(row, window, headers), headers, media)


def insert_response(
    row: Row, table: Table, media: MediaType, preferences: Preferences, *, upsert: bool
) -> Response:
    """Return the response to a POST to a table: 200 if every row was updated, otherwise 201."""
    names = ["missing", "return", "count"] + (["resolution"] if upsert else [])
    headers = {"Content-Range": _content_range(0, 0, _counted(row, preferences))}
    headers |= preferences.applied(names)
    status = 200 if row.inserted == 0 and row.rows else 201
    if preferences["return"] == "representation":
        return _response(row, status, headers, media)
    if preferences["return"] == "headers-only" and row.rows == 1:
        headers |= _location(row, table)
    return _response(row, status, headers)


def update_response(row: Row, media: MediaType, preferences: Preferences) -> Response:
    """Return the response to a PATCH."""
    headers = {"Content-Range": _content_range(0, row.rows, _counted(row, preferences))}
    headers |= preferences.applied(["missing", "return", "count", "max-affected"])
    return _written(row, headers, media, preferences)


def delete_response(row: Row, media: MediaType, preferences: Preferences) -> Response:
    """Return the response to a DELETE."""
    headers = {"Content-Range": _content_range(0, 0, _counted(row, preferences))}
    headers |= preferences.applied(["return", "count", "max-affected"])
    return _written(row, headers, media, preferences)


def put_response(row: Row, media: MediaType, preferences: Preferences) -> Response:
    """Return the response to a PUT."""
    headers = preferences.applied(["return"])
    if row.inserted:
        if preferences["return"] == "representation":
            return _response(row, 201, headers, media)
        return _response(row, 201, headers)
    return _written(row, headers, media, preferences)


def _written(
    row: Row, headers: dict[str, str], media: MediaType, preferences: Preferences
) -> Response:
    if preferences["return"] == "representation":
        return _response(row, 200, headers, media)
    return _response(row, 204, headers)


def _response(
    row: Row, status: int, headers: dict[str, str], media: MediaType | None = None
) -> Response:
    """Return the response, with a body if there is a media type.

    SQL may override the status and headers.
    """
    return Response(
        row.body if media else None,
        status_code=_own_status(row.response_status) or status,
        headers=headers | _own_headers(row.response_headers),
        media_type=media.header if media else None,
    )


def _range_headers(row: Row, window: Window) -> dict[str, str]:
    return {"Content-Range": _content_range(window.offset, row.rows, row.total)}


def _range_status(row: Row, window: Window, headers: dict[str, str]) -> int:
    if row.total is None:
        return 200
    if window.offset > row.total:
        raise ApiError(
            416,
            "PGRST103",
            "Requested range not satisfiable",
            details=f"An offset of {window.offset} was requested, "
            f"but there are only {row.total} rows.",
            headers=headers,
        )
    return 206 if row.rows < row.total else 200


def _content_range(first: int, rows: int, total: int | None) -> str:
    shown = f"{first}-{first + rows - 1}" if rows and total != 0 else "*"
    return f"{shown}/{'*' if total is None else total}"


def _counted(row: Row, preferences: Preferences) -> int | None:
    return row.rows if preferences["count"] in {"exact", "estimated"} else None


def _location(row: Row, table: Table) -> dict[str, str]:
    keys = json.loads(row.body)[0]
    query = {
        name: "is.null" if value is None else f"eq.{_text(value)}" for name, value in keys.items()
    }
    return (
        {"Location": f"/{quote(table.name)}?{urlencode(query, quote_via=quote)}"} if query else {}
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _own_headers(setting: str | None) -> dict[str, str]:
    """Return the headers in the setting `response.headers`, an array of one-key objects."""
    if setting is None:
        return {}
    try:
        return valid_headers({key: item[key] for item in json.loads(setting) for key in item})
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(
            500,
            "PGRST111",
            "response.headers guc must be a JSON array composed of objects with a single key "
            "and a string value",
        ) from error


def _own_status(setting: str | None) -> int | None:
    """Return the status in the setting `response.status`."""
    if setting is None:
        return None
    status = valid_status(setting)
    if status is None:
        raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
    return status
