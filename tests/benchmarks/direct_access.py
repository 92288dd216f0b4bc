"""Compares requests by API key with requests by token, and direct access on with off.

    python tests/benchmarks/direct_access.py [--requests 2000] [--tolerance 0]

The embedded REST server serves two databases of one PostgreSQL server, in a process for each: one
with direct access, and one without. Single requests alternate over one connection to each, and
their times are compared in pairs.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import http.client
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import jwt

from audiencelab_sdk.local._keeper_process import free_port
from audiencelab_sdk.local._migrate import as_role
from audiencelab_sdk.local._postgres import PostgresServer
from tests.benchmarks._timing import alternating, exit_status, table, times_as_long_in_pairs
from tests.benchmarks.rest import SECRET, server
from tests.database._sql import EVERYTHING, Database
from tests.database.conftest import make_database

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/segments?select=id,name&limit=10"
SEGMENTS = 20


class Api:
    """A REST server of one database, with a connection that stays open."""

    def __init__(self, stack: ExitStack, db: Database) -> None:
        db_url = as_role(db.admin_url, "authenticator")
        command = ["audiencelab_sdk.local.rest", "--db-url", db_url, "--jwt-secret", SECRET]
        ready = b"GET /rpc/now_open HTTP/1.1\r\nHost: x\r\n\r\n"
        port = stack.enter_context(server(command, free_port(), ready))
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        stack.callback(self._connection.close)

    def get(self, headers: dict[str, str]) -> Callable[[], None]:
        """Return a function that gets the segments and checks that there are ten."""

        def request() -> None:
            self._connection.request("GET", PATH, headers=headers)
            response = self._connection.getresponse()
            body = response.read()
            if response.status != 200 or body.count(b'"id"') != 10:
                raise RuntimeError(f"{response.status} {body.decode()}")

        return request


def bearer(role: str, subject: object) -> dict[str, str]:
    """Return the header of a token that is valid for an hour."""
    claims = {"role": role, "sub": str(subject), "exp": int(time.time()) + 3600}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def main() -> int:
    """Run both comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help="of each kind")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        apis: list[Api] = []
        headers: list[dict[str, dict[str, str]]] = []
        for name in ("off", "on"):
            db = make_database(postgres, name)
            db.apply(
                "create function public.now_open() returns boolean language sql as 'select true';"
                "grant execute on function public.now_open() to anon;"
                "grant usage on schema public to anon"
            )
            tenant = db.add_tenant()
            for _ in range(SEGMENTS):
                db.create_segment(tenant)
            key = db.create_key(tenant, [EVERYTHING])
            if name == "on":
                db.apply("select api_keys_direct.enable()")
            apis.append(Api(stack, db))
            headers.append(
                {
                    "key": {"x-api-key": key["key"]},
                    "token": bearer("api_key", key["id"]),
                    "user": bearer("authenticated", tenant.user_id),
                }
            )
        off, on = apis
        comparisons = [
            times_as_long_in_pairs(
                "GET by key, through the pre-request function",
                "the same GET with the key's token",
                alternating(
                    on.get(headers[1]["key"]),
                    on.get(headers[1]["token"]),
                    rounds=arguments.requests,
                    calls=(1, 1),
                ),
                at_most=1.5,
            ),
            times_as_long_in_pairs(
                "GET of a user, direct access on",
                "the same GET, direct access off",
                alternating(
                    on.get(headers[1]["user"]),
                    off.get(headers[0]["user"]),
                    rounds=arguments.requests,
                    calls=(1, 1),
                ),
                at_most=1.05,
            ),
        ]
    comparisons = [it.with_tolerance(arguments.tolerance) for it in comparisons]
    print(f"Medians of {arguments.requests:,} requests of each kind, measured in turns:")
    print()
    print(table(comparisons))
    return exit_status(comparisons)


if __name__ == "__main__":
    sys.exit(main())
