"""Compares the speed of the SDK with that of the same calls without it.

    python tests/benchmarks/sdk.py [--segments 100000] [--tolerance 0]

All requests go over HTTP to one LocalStack, which runs in another process. The two alternate, and
their medians are compared. Only ratios have limits, because they do not depend on the machine.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import anyio
import httpx
import psycopg
from postgrest import SyncPostgrestClient

from audiencelab_sdk import AsyncAudienceLab, AudienceLab
from audiencelab_sdk.local import LocalStack
from tests.benchmarks._timing import (
    Comparison,
    alternating,
    alternating_medians,
    exit_status,
    table,
    times_as_long,
    times_as_long_in_pairs,
    times_as_many,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

SEGMENTS = 100_000
PAGE = 100
TASKS = 200
CALLS_OF_A_TASK = 2


@dataclass(frozen=True)
class World:
    """A stack with one account that has a key and many segments, and the requests for them."""

    url: str
    key: str
    account_id: UUID
    segments: int
    segment_id: UUID
    api_key: str

    @classmethod
    def filled(cls, stack: LocalStack, segments: int) -> Self:
        """Add everything to measure to a stack."""
        owner = stack.create_user("owner@example.com")
        account_id = stack.create_account("Benchmark", owner=owner)
        with psycopg.connect(stack.db_url, autocommit=True) as connection:
            segment_id = _add_segments(connection, account_id, owner, segments)
        key = stack.service_role_key
        with AudienceLab(stack.url, key) as client:
            user = client.as_user(stack.access_token(owner))
            api_key = user.api_keys.create(account_id, "benchmark").key.get_secret_value()
        return cls(stack.url, key, account_id, segments, segment_id, api_key)

    @property
    def rest(self) -> str:
        return f"{self.url}/rest/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {
            "apikey": self.key,
            "Authorization": f"Bearer {self.key}",
            "Accept": "application/json",
        }

    def newest(self, limit: int) -> dict[str, str]:
        """Return the parameters of the first page, as the SDK sends them."""
        return {
            "select": "*",
            "account_id": f"eq.{self.account_id}",
            "deleted": "is.false",
            "order": "created_at.desc,id.desc",
            "limit": str(limit),
        }


def _add_segments(
    connection: psycopg.Connection[Any], account_id: UUID, owner: UUID, count: int
) -> UUID:
    cursor = connection.execute(
        """
        insert into public.segments
            (account_id, name, description, source_type, source_id, filters, tags, created_by,
             created_at)
        select %s, 'Segment ' || n, 'Number ' || n, 'audience', n::text,
               '[{"field": "country", "operator": "=", "value": "US"}]', '{a,b}', %s,
               now() - n * interval '1 second'
        from generate_series(1, %s) as n
        returning id
        """,
        (account_id, owner, count),
    )
    row = cursor.fetchone()
    assert row is not None
    connection.execute("analyze public.segments")
    segment_id: UUID = row[0]
    return segment_id


def calls_against_postgrest(world: World) -> list[Comparison]:
    """Compare single calls, which return models, with postgrest-py, which returns dicts."""
    with (
        AudienceLab(world.url, world.key) as client,
        SyncPostgrestClient(world.rest, headers=world.headers) as bare,
    ):
        key, account = world.api_key, str(world.account_id)
        segment_id = str(world.segment_id)
        calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "api_keys.verify": (
                lambda: client.api_keys.verify(key),
                lambda: bare.rpc("verify_api_key", {"p_api_key": key}).execute(),
            ),
            "segments.get": (
                lambda: client.segments.get(segment_id),
                lambda: bare.from_("segments").select("*").eq("id", segment_id).execute(),
            ),
            "segments.list, 100 rows": (
                lambda: client.segments.list(account_id=account, page_size=100),
                lambda: (
                    bare.from_("segments")
                    .select("*")
                    .eq("account_id", account)
                    .is_("deleted", "false")
                    .order("created_at", desc=True)
                    .order("id", desc=True)
                    .limit(100)
                    .execute()
                ),
            ),
        }
        return [
            times_as_long_in_pairs(
                name,
                "postgrest-py alone",
                alternating(ours, theirs, rounds=400, calls=(1, 1)),
                at_most=1.1,
            )
            for name, (ours, theirs) in calls.items()
        ]


def imports(_: World) -> list[Comparison]:
    """Compare the duration of a Python process that only imports the package, once compiled."""
    statements = ("import audiencelab_sdk", "import supabase")
    with TemporaryDirectory() as compiled:
        # Whether or not this process may write bytecode, both packages are compiled only once.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def run(statement: str) -> None:
            subprocess.run([sys.executable, "-c", statement], check=True, env=environment)

        for statement in statements:
            run(statement)
        medians = alternating_medians(
            lambda: run(statements[0]), lambda: run(statements[1]), rounds=15, calls=(1, 1)
        )
    return [times_as_long(*statements, medians, at_most=0.6)]


def walk(world: World) -> list[Comparison]:
    """Compare iterating over all segments with fetching the same pages with httpx."""
    with (
        AudienceLab(world.url, world.key, timeout=60) as client,
        httpx.Client(headers=world.headers, timeout=60) as bare,
    ):

        def ours() -> int:
            return sum(1 for _ in client.segments.list(account_id=world.account_id))

        def theirs() -> int:
            return _walk_with_httpx(bare, world)

        if (counts := (ours(), theirs())) != (world.segments, world.segments):
            raise AssertionError(f"{counts} segments were walked, not {world.segments}")
        rounds = max(3, 150_000 // world.segments)
        times = alternating(ours, theirs, rounds=rounds, calls=(1, 1))
    memory = _peaks_of_memory(world)
    what = f"walk {world.segments:,} segments"
    rates = [f"{world.segments / median(each):,.0f}/s" for each in times]
    return [
        Comparison(
            what,
            "the same pages by httpx alone",
            (rates[0], rates[1]),
            # The ratio of each pair, because the load of the machine may change between two walks.
            median(other / own for own, other in zip(*times, strict=True)),
            0.85,
            at_least=True,
        ),
        Comparison(
            f"most memory used, {what}",
            "by the first tenth",
            (f"{memory[0] / 1e6:.2f} MB", f"{memory[1] / 1e6:.2f} MB"),
            memory[0] / memory[1],
            1.5,
            at_least=False,
        ),
    ]


def _walk_with_httpx(http: httpx.Client, world: World) -> int:
    count, parameters = 0, world.newest(PAGE)
    while True:
        rows = http.get(f"{world.rest}/segments", params=parameters).raise_for_status().json()
        count += len(rows)
        if not rows:
            return count
        last = rows[-1]
        after = f"created_at.lt.{last['created_at']},id.lt.{last['id']}"
        parameters |= {"created_at": f"lte.{last['created_at']}", "or": f"({after})"}


def _peaks_of_memory(world: World) -> tuple[int, int]:
    """Return the peak of Python's memory in bytes during a walk, and during its first tenth."""
    first = 0
    with AudienceLab(world.url, world.key, timeout=60) as client:
        tracemalloc.start()
        for index, _ in enumerate(client.segments.list(account_id=world.account_id), start=1):
            if index == world.segments // 10:
                first = tracemalloc.get_traced_memory()[1]
        whole = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return whole, first


def tasks(world: World) -> list[Comparison]:
    """Compare tasks that share one asynchronous client with tasks that share an httpx client.

    One baseline has httpx's default limits: with 100 connections, httpx is slow.
    """
    key = world.api_key

    async def ours() -> None:
        async with AsyncAudienceLab(world.url, world.key, timeout=60) as client:
            await _in_tasks(lambda: client.api_keys.verify(key))

    async def theirs(limits: httpx.Limits) -> None:
        async with httpx.AsyncClient(headers=world.headers, timeout=60, limits=limits) as client:

            async def call() -> None:
                response = await client.post(
                    f"{world.rest}/rpc/verify_api_key", json={"p_api_key": key}
                )
                response.raise_for_status().json()

            await _in_tasks(call)

    calls = TASKS * CALLS_OF_A_TASK

    def compare(against: str, limits: httpx.Limits, rounds: int, at_least: float) -> Comparison:
        medians = alternating_medians(
            lambda: anyio.run(ours),
            lambda: anyio.run(theirs, limits),
            rounds=rounds,
            calls=(1, 1),
        )
        rates = (calls / medians[0], calls / medians[1])
        return times_as_many(
            f"api_keys.verify from {TASKS} tasks", against, rates, at_least=at_least
        )

    as_many = httpx.Limits(max_connections=20, max_keepalive_connections=20)
    return [
        compare(
            "httpx alone", httpx.Limits(max_connections=100, max_keepalive_connections=20), 3, 1
        ),
        compare("httpx alone, 20 connections", as_many, 7, 0.8),
    ]


async def _in_tasks(call: Callable[[], Awaitable[object]]) -> None:
    async def repeat() -> None:
        for _ in range(CALLS_OF_A_TASK):
            await call()

    async with anyio.create_task_group() as group:
        for _ in range(TASKS):
            group.start_soon(repeat)


def measure(world: World) -> list[Comparison]:
    """Run all comparisons."""
    comparisons: list[Comparison] = []
    for compare in (imports, calls_against_postgrest, walk, tasks):
        print(f"Measuring: {compare.__name__.replace('_', ' ')}", file=sys.stderr)
        comparisons += compare(world)
    return comparisons


def main() -> int:
    """Run all comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--segments", type=int, default=SEGMENTS, help=f"{SEGMENTS} if not given, at least {PAGE}"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    segments: int = arguments.segments
    if segments < PAGE:
        parser.error(f"--segments must be {PAGE} or more")
    # In a separate process, because this one serves the REST API.
    spawn = get_context("spawn")
    with LocalStack() as stack, ProcessPoolExecutor(1, mp_context=spawn) as executor:
        measured = executor.submit(measure, World.filled(stack, segments)).result()
    comparisons = [comparison.with_tolerance(arguments.tolerance) for comparison in measured]
    print("Medians of calls over HTTP to one LocalStack, measured in turns:")
    print()
    print(table(comparisons))
    return exit_status(comparisons)


if __name__ == "__main__":
    sys.exit(main())
