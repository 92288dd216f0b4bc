"""Build HTTP responses from the row that a statement returns."""

import json
from urllib.parse import quote, urlencode

from starlette.responses import Response

from audiencelab_sdk.local.rest.errors import ApiError, valid_headers, valid_status
from audiencelab_sdk.local.rest.headers import JSON, MediaType, Preferences
from audiencelab_sdk.local.rest.query import Shape, Window
from audiencelab_sdk.local.rest.schema import Function, Returns, Table
from audiencelab_sdk.local.rest.transaction import Row

_WITHOUT_BODY = {204, 304}


def error_response(error: ApiError) -> Response:
    """Return the response that reports an error."""
    headers = error.headers | {"Proxy-Status": f"PostgREST; error={error.code}"}
    return _error_response(error, headers)


def _error_response(error: ApiError, headers: dict[str, str]) -> Response:
    # A status without a body, which SQL may choose, still has the type of an error's body.
    body = None if error.status in _WITHOUT_BODY else error.body
    return Response(body, error.status, headers, JSON.header)


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


def read_response(
    row: Row, media: MediaType, window: Window, preferences: Preferences, location: str
) -> Response:
    """Return the response to a GET of a table.

    Args:
        row: What the statement returned.
        media: The media type of the body.
        window: The range of rows that the client wants.
        preferences: The client's preferences.
        location: The canonical URL, without the host.
    """
    headers = {"Content-Location": location}
    headers |= _range_headers(row, window) | preferences.applied(["count"])
    return _ranged_response(row, window, headers, media)


def call_response(
    row: Row, function: Function, media: MediaType, window: Window, preferences: Preferences
) -> Response:
    """Return the response to a function call."""
    headers = _range_headers(row, window) | preferences.applied(["count", "max-affected"])
    if function.returns is Returns.VOID:
        return _response(row, 204, headers)
    return _ranged_response(row, window, headers, media)


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
    own = _own_headers(row.response_headers)
    names = {name.lower() for name, _ in own}
    if media:
        headers = headers | {"Content-Type": media.header}
    status = _own_status(row.response_status) or status
    response = Response(
        row.body if media and status not in _WITHOUT_BODY else None,
        status,
        headers={name: text for name, text in headers.items() if name.lower() not in names},
    )
    for name, text in own:
        response.headers.append(name, text)
    return response


def _range_headers(row: Row, window: Window) -> dict[str, str]:
    return {"Content-Range": _content_range(window.offset, row.rows, row.total)}


def _ranged_response(
    row: Row, window: Window, headers: dict[str, str], media: MediaType
) -> Response:
    if row.total is None:
        return _response(row, 200, headers, media)
    if window.offset > row.total:
        error = ApiError(
            416,
            "PGRST103",
            "Requested range not satisfiable",
            details=f"An offset of {window.offset} was requested, "
            f"but there are only {row.total} rows.",
        )
        return _error_response(error, headers)
    return _response(row, 206 if row.rows < row.total else 200, headers, media)


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


def _own_headers(setting: str | None) -> list[tuple[str, str]]:
    """Return the headers in the setting `response.headers`, an array of one-key objects."""
    if setting is None:
        return []
    try:
        headers: list[tuple[str, str]] = []
        for item in json.loads(setting):
            [header] = valid_headers(item).items()
            headers.append(header)
    except (ValueError, TypeError, AttributeError) as error:
        raise ApiError(
            500,
            "PGRST111",
            "response.headers guc must be a JSON array composed of objects with a single key "
            "and a string value",
        ) from error
    # The server itself sets the length.
    return [header for header in headers if header[0].lower() != "content-length"]


def _own_status(setting: str | None) -> int | None:
    """Return the status in the setting `response.status`."""
    if setting is None:
        return None
    status = valid_status(setting)
    if status is None:
        raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
    return status
