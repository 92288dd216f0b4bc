"""Errors as PostgREST reports them, and the HTTP status of each SQLSTATE."""

import json
import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout


class ApiError(Exception):
    """An error that the response reports.

    Args:
        status: The HTTP status.
        code: PostgREST's code (`PGRST…`) or PostgreSQL's SQLSTATE.
        message: The error message.
        details: More about the cause, or None.
        hint: How to fix it, or None.
        headers: Headers of the response, except Content-Type.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Any = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.headers: dict[str, str] = dict(headers or {})

    @property
    def is_of_database(self) -> bool:
        """Whether PostgREST would get this error from PostgreSQL."""
        return not self.code.startswith("PGRST")

    @property
    def body(self) -> bytes:
        """The response body, a JSON object."""
        document = {
            "code": self.code,
            "details": self.details,
            "hint": self.hint,
            "message": self.message,
        }
        return json.dumps(document).encode()


class NotInCatalogError(ApiError):
    """The schema cache lacks a table, column or function, which may have been created since."""


# The first key that is a prefix of the SQLSTATE applies, so longer keys come first.
_STATUS_BY_SQLSTATE = {
    "P0001": 400,
    "57P01": 503,
    "53400": 500,
    "42P17": 500,
    "42P01": 404,
    "42883": 404,
    "25006": 405,
    "23505": 409,
    "23503": 409,
    "21000": 500,
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "53": 503,
    "54": 500,
    "55": 500,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "XX": 500,
}

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def from_database(error: psycopg.Error, *, anonymous: bool) -> ApiError:
    """Return the error to report for an exception of psycopg.

    Args:
        error: The exception.
        anonymous: Whether the request ran as the anonymous role. A missing privilege is then
            reported as 401, because a token might help, and otherwise as 403.
    """
    if isinstance(error, PoolTimeout):
        return ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.")
    code = error.sqlstate
    if code is None:
        return ApiError(503, "PGRST001", "Database client error. Retrying the connection.")
    message = error.diag.message_primary or ""
    if code == "PGRST":
        return _raised_response(message, error.diag.message_detail)
    status = _status(code, message, anonymous=anonymous)
    return ApiError(
        status,
        code,
        message,
        details=error.diag.message_detail,
        hint=error.diag.message_hint,
        headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )


def _status(code: str, message: str, *, anonymous: bool) -> int:
    if code == "42501":
        return 401 if anonymous else 403
    if code == "22023" and message.startswith("role ") and message.endswith(" does not exist"):
        return 401
    if code == "21000" and message.endswith("requires a WHERE clause"):
        return 400
    if code.startswith("PT"):
        return valid_status(code[2:]) or 500
    for prefix, status in _STATUS_BY_SQLSTATE.items():
        if code.startswith(prefix):
            return status
    return 400


def valid_status(text: str) -> int | None:
    """Return an HTTP status that SQL has set, or None if it is invalid."""
    return int(text) if re.fullmatch(r"[2-9][0-9]{2}", text) else None


def valid_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """Return headers that SQL has set.

    Raises:
        ValueError: A value is not a string, or a name or value is not valid in HTTP.
    """
    checked: dict[str, str] = {}
    for name, value in headers.items():
        text = isinstance(value, str)
        if not (text and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"not a header: {name!r}")
        checked[name] = value
    return checked


def _raised_response(message: str, detail: str | None) -> ApiError:
    """Return the response that a function defines with `raise sqlstate 'PGRST'`."""
    try:
        body = json.loads(message)
        response = json.loads(detail or "")
        return ApiError(
            valid_status(str(response["status"])) or 500,
            str(body["code"]),
            str(body["message"]),
            details=body.get("details"),
            hint=body.get("hint"),
            headers=valid_headers(response["headers"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(
            500,
            "PGRST121",
            "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error",
            hint="MESSAGE must be an object with code, message, details and hint; "
            "DETAIL one with status and headers.",
        )
