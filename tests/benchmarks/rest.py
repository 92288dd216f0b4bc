"""Compares the request rate of the REST server with that of a route that runs `select 1`.

`python tests/benchmarks/rest.py` prints the ratio, and exits with status 1 if it is less than a
third. Both servers run at the same time and are measured in turns, so that other load on the
machine affects both.
"""

# ruff: noqa: T201 - a program that prints its results
from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psycopg

from audiencelab_sdk.local._keeper_process import free_port
from audiencelab_sdk.local._migrate import apply_platform, as_role
from audiencelab_sdk.local._postgres import PostgresServer
from tests.benchmarks._timing import MISSED

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
LEAST_SHARE = 1 / 3
CONNECTIONS = 8
SECRET = "a-secret-for-benchmarks-of-at-least-32-bytes"
SCHEMA = """
create table public.item as
  select id, 'item ' || id as name, now() as created_at from generate_series(1, 10000) as id;
alter table public.item add primary key (id);
grant select on public.item to anon;
create function public.double(p_n integer) returns integer
  language sql immutable begin atomic select p_n * 2; end;
grant execute on function public.double(integer) to anon;
analyze;
"""
SELECT_ONE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
REQUESTS = {
    "GET of one row by its key": b"GET /item?id=eq.4711 HTTP/1.1\r\nHost: x\r\n\r\n",
    "POST of a function call": b"POST /rpc/double HTTP/1.1\r\nHost: x\r\n"
    b'Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{"p_n": 210}',
}


async def ask(port: int, request: bytes, times: int) -> None:
    """Send requests one after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head:
            raise RuntimeError(head.decode())
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()


async def rate(port: int, request: bytes, requests: int) -> float:
    """Return the requests per second over several connections at once."""
    begin = time.perf_counter()
    each = max(requests // CONNECTIONS, 1)
    await asyncio.gather(*(ask(port, request, each) for _ in range(CONNECTIONS)))
    return each * CONNECTIONS / (time.perf_counter() - begin)


@contextmanager
def server(command: list[str], port: int, request: bytes, **environment: str) -> Iterator[int]:
    """Run a server in a separate process until the end of the block. It accepts requests."""
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)], env=os.environ | environment
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    asyncio.run(ask(port, request, 1))
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def measure(ours: int, theirs: int, request: bytes, requests: int, rounds: int) -> float:
    """Return the median ratio of the REST server's rate to the rate of the `select 1` route."""
    shares: list[float] = []
    for _ in range(rounds):
        empty = asyncio.run(rate(theirs, SELECT_ONE, requests))
        rest = asyncio.run(rate(ours, request, requests))
        print(f"  {rest:7.0f} /s, select 1: {empty:7.0f} /s")
        shares.append(rest / empty)
    return median(shares)


def main() -> int:
    """Run the comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        apply_platform(postgres.admin_url)
        with psycopg.connect(postgres.admin_url) as connection:
            connection.execute(SCHEMA)
        db_url = as_role(postgres.admin_url, "authenticator")
        rest = ["audiencelab_sdk.local.rest", "--db-url", db_url, "--jwt-secret", SECRET]
        empty = ["uvicorn", "--app-dir", str(HERE), "_select_one:app", "--log-level", "warning"]
        ours = stack.enter_context(server(rest, free_port(), next(iter(REQUESTS.values()))))
        theirs = stack.enter_context(server(empty, free_port(), SELECT_ONE, DB_URL=db_url))
        shares: list[float] = []
        for name, request in REQUESTS.items():
            print(name)
            shares.append(measure(ours, theirs, request, arguments.requests, arguments.rounds))
            print(f"  ratio {shares[-1]:.2f}, limit ≥ {LEAST_SHARE:.2f}")
    return 0 if min(shares) >= LEAST_SHARE else MISSED


if __name__ == "__main__":
    sys.exit(main())
