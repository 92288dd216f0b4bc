"""The typed error for an HTTP response that is not a success."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import (
    APIStatusError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)

_CLASSES: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
_REQUEST_IDS = ("sb-request-id", "x-request-id", "cf-ray")
# What is refused before it gets to PostgREST or PostgreSQL comes without a code and with no hint.
_ADVICE_WITHOUT_CODE = {
    401: (
        "The gateway does not accept the project's key: is it a key of this project, and does no "
        "proxy on the way remove the header apikey?"
    ),
    404: "There is no Supabase API here: does the URL lead to the project's?",
}
_TITLE = re.compile(r"<title[^>]*>([^<]+)</title>", re.IGNORECASE)
_API_KEY = re.compile(r"sk_[A-Za-z0-9]{8,}")
_LONGEST_TEXT = 200


def status_error(response: httpx.Response) -> APIStatusError:
    """Return the error for `response`, whose body has been read."""
    status = response.status_code
    text = _without_secrets(response)
    body = _json_object(text)
    code = _text(body, "code")
    error = _error_class(status, code)(
        status,
        code,
        _message(response, body, text),
        _text(body, "details"),
        _text(body, "hint") or (None if code else _ADVICE_WITHOUT_CODE.get(status)),
        request_id(response.headers),
    )
    error.retry_after = _seconds(response.headers.get("Retry-After", ""))
    return error


def request_id(headers: httpx.Headers) -> str | None:
    """Return the id that Supabase, or a proxy, has given to the request."""
    return next((shown(headers[name]) for name in _REQUEST_IDS if name in headers), None)


def _without_secrets(response: httpx.Response) -> str:
    """Return the text of the response without the secrets of the request that it may echo."""
    text = response.text
    for name in ("apikey", "Authorization"):
        if secret := response.request.headers.get(name, "").removeprefix("Bearer "):
            text = text.replace(secret, "***")
    return _API_KEY.sub("sk_***", text)


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _text(body: Mapping[str, Any], *names: str) -> str | None:
    value = next((body[name] for name in names if body.get(name)), None)
    return None if value is None else shown(value if isinstance(value, str) else json.dumps(value))


def _error_class(status: int, code: str | None) -> type[APIStatusError]:
    if status == 406 and code == "PGRST116":
        return NotFoundError
    if 400 <= status < 500:
        return _CLASSES.get(status, InvalidRequestError)
    return ServerError if status >= 500 else APIStatusError


def _message(response: httpx.Response, body: Mapping[str, Any], text: str) -> str:
    if response.is_redirect:
        return "the server redirects to another address: the URL is probably wrong"
    # PostgREST says "message"; the gateway before it and Supabase Auth have names of their own.
    if message := _text(body, "message", "msg", "error_description", "error"):
        return message
    if title := _TITLE.search(text):
        text = title[1]
    text = " ".join(shown(text).split())
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}…"
    return text or shown(response.reason_phrase) or "the server gave no reason"


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
