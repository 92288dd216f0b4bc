"""The typed error for an HTTP response that is not a success."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from audiencelab_sdk._http._advice import advice
from audiencelab_sdk._http._settings import API_KEY_HEADER
from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import (
    APIStatusError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SchemaError,
    ServerError,
)

_CLASSES: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
# An application may forward the status of an error to its own caller.
_STATUSES: dict[type[APIStatusError], int] = {
    NotFoundError: 404,
    PermissionDeniedError: 403,
    SchemaError: 500,
}
# PostgREST's: the function, column or table is not in its schema cache, or the schema not exposed.
# PostgreSQL's: undefined table, function and column.
_SCHEMA_CODES = {"PGRST106", "PGRST202", "PGRST204", "PGRST205", "42P01", "42883", "42703"}
_NO_SUCH_ROW = "PGRST116"
_INSUFFICIENT_PRIVILEGE = "42501"
# PostgREST's or PostgreSQL's: a gateway in front of them has others.
_CODE = re.compile("PGRST\\w+|[0-9A-Z]{5}")
# All other headers of a request may be secret.
_PUBLIC_HEADERS = {
    *("accept", "accept-encoding", "accept-profile", "content-length", "content-profile"),
    *("content-type", "host", "prefer", "range", "range-unit", "user-agent", "x-client-info"),
    "x-retry-count",
}
_TITLE = re.compile(r"<title[^>]*>([^<]+)</title>", re.IGNORECASE)
# The project's keys come first, because the characters of one may contain what looks like an API
# key.
_KEY = re.compile(r"(sb_(?:publishable|secret)_)[A-Za-z0-9_-]{8,}|(sk_)[A-Za-z0-9]{8,}")
_LONGEST_TEXT = 200
_LONGEST_HEAD = 10_000
_SHORTEST_SECRET = 4


def status_error(response: httpx.Response, request_id: str | None) -> APIStatusError:
    """Return the error for `response`, whose body has been read."""
    status = response.status_code
    # Not by the charset that the server states: Python has codecs that fail, and JSON is UTF-8.
    text = redacted(response.request, response.content.decode(errors="replace"))
    body = _json_object(text)
    code = _text(body, "code")
    message = _message(response, body, text)
    hint = _text(body, "hint")
    as_api_key = API_KEY_HEADER in response.request.headers
    error_class = _error_class(status, code, as_api_key=as_api_key)
    # PostgREST's hint for what it does not know is the most similar name that it knows.
    if hint is None or error_class is SchemaError:
        hint = (
            ". ".join(filter(None, (hint, advice(status, code, message, as_api_key=as_api_key))))
            or None
        )
    error = error_class(
        _STATUSES.get(error_class, status),
        code,
        message,
        _text(body, "details"),
        hint,
        request_id,
        status,
    )
    error.retry_after = _seconds(response.headers.get("Retry-After", ""))
    return error


def redacted(request: httpx.Request, text: str) -> str:
    """Return a text of the server without the secrets of the request, which it may echo."""
    for name, value in request.headers.items():
        secret = value.removeprefix("Bearer ")
        if len(secret) >= _SHORTEST_SECRET and name not in _PUBLIC_HEADERS:
            text = text.replace(secret, "***")
    return _KEY.sub(r"\1\2***", text)


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _text(body: Mapping[str, Any], *names: str) -> str | None:
    value = next((body[name] for name in names if body.get(name)), None)
    return None if value is None else shown(value if isinstance(value, str) else json.dumps(value))


def _error_class(status: int, code: str | None, *, as_api_key: bool) -> type[APIStatusError]:
    if code == _NO_SUCH_ROW:
        return NotFoundError
    # Such a request has no token, for which PostgREST responds with 401 instead of 403.
    if code == _INSUFFICIENT_PRIVILEGE and as_api_key:
        return PermissionDeniedError
    if code in _SCHEMA_CODES or (status in {404, 405} and not _CODE.fullmatch(code or "")):
        return SchemaError
    if 400 <= status < 500:
        return _CLASSES.get(status, InvalidRequestError)
    return ServerError if status >= 500 else APIStatusError


def _message(response: httpx.Response, body: Mapping[str, Any], text: str) -> str:
    if response.is_redirect:
        return "the server redirects to another address: the URL is probably wrong"
    # PostgREST says "message"; the gateway before it and Supabase Auth have names of their own.
    if message := _text(body, "message", "msg", "error_description", "error"):
        return message
    if title := _TITLE.search(text[:_LONGEST_HEAD]):
        text = title[1]
    text = " ".join(shown(text).split())
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    reason = shown(redacted(response.request, response.reason_phrase))
    return text or reason or "the server gave no reason"


def _seconds(retry_after: str) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # the zone -0000, which HTTP reads as UTC
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
