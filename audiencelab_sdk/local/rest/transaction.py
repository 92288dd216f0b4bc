"""What a request's transaction begins with, and the row that its statement returns."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from audiencelab_sdk.local.rest.config import Pairs
from audiencelab_sdk.local.rest.terms import trusted


@dataclass(frozen=True)
class RequestSettings:
    """The parts of a request that SQL can read, as settings of its transaction."""

    schema: str
    role: str
    claims: str = field(repr=False)
    method: str
    path: str
    headers: str = field(repr=False)
    cookies: str = field(repr=False)
    timezone: str | None


class Row(NamedTuple):
    """The one row that every statement returns."""

    total: int | None
    rows: int
    inserted: int | None
    body: str
    response_headers: str | None
    response_status: str | None


async def apply_settings(
    connection: psycopg.AsyncConnection,
    request: RequestSettings,
    extra_search_path: Sequence[str],
    role_settings: Pairs,
) -> None:
    """Switch to the request's role and set its settings until the end of the transaction.

    Args:
        connection: The connection.
        request: The settings of the request.
        extra_search_path: Schemas to add to the search path after the request's one.
        role_settings: The settings of the request's role.
    """
    values = [
        _search_path(request.schema, *extra_search_path),
        request.role,
        request.claims,
        request.method,
        request.path,
        request.headers,
        request.cookies,
        *(text for setting in role_settings for text in setting),
    ]
    if request.timezone is not None:
        values.append(request.timezone)
    statement = _settings(len(role_settings), with_timezone=request.timezone is not None)
    await connection.execute(statement, values)


@functools.cache
def _search_path(*schemas: str) -> str:
    return SQL(", ").join(map(Identifier, schemas)).as_string()


@functools.cache
def _settings(of_role: int, *, with_timezone: bool) -> SQL:
    """Return the statement for a number of settings of the role.

    They come before the switch to the role, because the login role may be allowed to set more.
    """
    end = _COUNT + 2 * of_role + 1
    pairs = [f"set_config(${number}, ${number + 1}, true)" for number in range(_COUNT + 1, end, 2)]
    timezone = f", set_config('timezone', ${end}, true)" if with_timezone else ""
    of_the_role = "".join(f"{pair}, " for pair in pairs)
    return trusted(
        f"select set_config('search_path', $1, true), {of_the_role}{_SETTINGS}{timezone}"
    )


_COUNT = 7
_SETTINGS = """
  set_config('role', $2, true),
  set_config('request.jwt.claims', $3, true),
  set_config('request.method', $4, true),
  set_config('request.path', $5, true),
  set_config('request.headers', $6, true),
  set_config('request.cookies', $7, true)
"""
