"""Compares `enrichment.run` with a bare `executor.map`, and its memory for few and many records.

    python tests/benchmarks/enrichment.py [--records 1000000] [--tolerance 0]

Both run the same function over the same chunks on one executor, in turns, with reports to a
LocalStack in another process. Both give an `Outcome` for each record: creating these objects takes
longer than a function that does nothing. Only ratios have limits, because they do not depend on the
machine.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from audiencelab_sdk import AudienceLab, Outcome
from audiencelab_sdk.local import LocalStack
from tests.benchmarks._timing import Comparison, alternating, exit_status, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

RECORDS = 1_000_000
CHUNK_SIZE = 1_000
IN_FLIGHT = 64
FEWEST = 10 * CHUNK_SIZE * IN_FLIGHT
SPAWN = get_context("spawn")


@dataclass(frozen=True)
class World:
    """A stack with one account."""

    url: str
    key: str
    account_id: UUID
    user_id: UUID

    @classmethod
    def on(cls, stack: LocalStack) -> Self:
        """Create an account."""
        user_id = stack.create_user("owner@example.com")
        account_id = stack.create_account("Benchmark", owner=user_id)
        return cls(stack.url, stack.service_role_key, account_id, user_id)

    def create_job(self, client: AudienceLab) -> UUID:
        """Create a job."""
        job = client.enrichment.create(self.account_id, uuid4(), "email", created_by=self.user_id)
        return job.id


def nothing(_: object) -> None:
    """Stand for a function that takes no time."""


def millisecond(_: object) -> None:
    """Stand for a function that takes a millisecond."""
    time.sleep(0.001)


def enrich_all(enrich: Callable[[Any], Any], records: list[Any]) -> list[Any]:
    """Return the value of each record: what `executor.map` runs for a chunk."""
    return [enrich(record) for record in records]


def contacts(number: int) -> list[dict[str, object]]:
    """Return records of a usual size."""
    return [
        {
            "id": index,
            "first_name": "Ada",
            "last_name": "Lovelace",
            "email": None,
            "company": "Analytical Engines",
            "title": "Engineer",
            "city": "London",
            "country": "GB",
            "linkedin": f"https://linkedin.example/in/ada{index}",
        }
        for index in range(number)
    ]


def overhead(
    client: AudienceLab,
    world: World,
    executor: Executor,
    enrich: Callable[[Any], Any],
    records: list[Any],
    *,
    chunk_size: int,
    rounds: int,
) -> tuple[list[float], list[float]]:
    """Return the seconds of runs, and of `executor.map` over the same chunks."""
    chunks = [records[first : first + chunk_size] for first in range(0, len(records), chunk_size)]
    spent: list[float] = []

    def ours() -> None:
        job = world.create_job(client)
        with client.enrichment.run(
            job, records, enrich, executor=executor, chunk_size=chunk_size
        ) as outcomes:
            started = time.perf_counter()
            handled = sum(1 for outcome in outcomes if outcome.error is None)
            spent.append(time.perf_counter() - started)
        assert handled == len(records)

    def theirs() -> None:
        indices = count()
        handled = 0
        for values in executor.map(partial(enrich_all, enrich), chunks):
            handled += sum(1 for outcome in map(Outcome, indices, values) if outcome.error is None)
        assert handled == len(records)

    _, times = alternating(ours, theirs, rounds=rounds, calls=(1, 1))
    # Without the requests at the start and at the end, whose number does not depend on the records.
    return spent[-rounds:], times


def overheads(world: World) -> list[Comparison]:
    """Compare the rates of runs with those of `executor.map`."""
    executors: dict[str, Callable[[], Executor]] = {
        "threads": partial(ThreadPoolExecutor, 2),
        "processes": partial(ProcessPoolExecutor, 2, mp_context=SPAWN),
    }
    comparisons = []
    with AudienceLab(world.url, world.key) as client:
        for name, create in executors.items():
            with create() as executor:
                measure = partial(overhead, client, world, executor)
                slow = measure(millisecond, contacts(2_000), chunk_size=100, rounds=5)
                comparisons.append(_rates(f"1 ms a record, {name}", 2_000, slow, at_least=0.95))
                fast = measure(nothing, contacts(100_000), chunk_size=1_000, rounds=9)
                comparisons.append(_rates(f"no work, {name}", 100_000, fast, at_least=0.7))
    return comparisons


def _rates(
    what: str, records: int, times: tuple[list[float], list[float]], *, at_least: float
) -> Comparison:
    rates = [f"{records / median(each):,.0f}/s" for each in times]
    # The ratio of each pair, because the load of the machine changes.
    ratio = median(other / own for own, other in zip(*times, strict=True))
    return Comparison(what, "executor.map", (rates[0], rates[1]), ratio, at_least, at_least=True)


def memory(world: World, records: int) -> list[Comparison]:
    """Compare the peaks of memory for all records and for a tenth of them."""
    with AudienceLab(world.url, world.key) as client, ThreadPoolExecutor(2) as executor:
        few = _peak(client, world, executor, records // 10)
        many = _peak(client, world, executor, records)
    return [
        Comparison(
            f"memory of {records:,} records",
            f"of {records // 10:,}",
            (f"{many / 1e6:.1f} MB", f"{few / 1e6:.1f} MB"),
            many / few,
            1.1,
            at_least=False,
        )
    ]


def _peak(client: AudienceLab, world: World, executor: Executor, records: int) -> int:
    """Return the peak of Python's memory in bytes during a run over a generator."""
    most = threading.Event()

    def generated() -> Iterator[dict[str, int]]:
        for index in range(records):
            # The workers wait until as many chunks are in flight as may be.
            if index == IN_FLIGHT * CHUNK_SIZE - 1:
                most.set()
            yield {"id": index}

    job = world.create_job(client)
    tracemalloc.start()
    with client.enrichment.run(
        job,
        generated(),
        lambda _: most.wait(),
        executor=executor,
        chunk_size=CHUNK_SIZE,
        in_flight=IN_FLIGHT,
    ) as outcomes:
        assert sum(1 for _ in outcomes) == records
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(world: World, records: int) -> list[Comparison]:
    """Run all comparisons."""
    print("Measuring: overheads", file=sys.stderr)
    comparisons = overheads(world)
    print("Measuring: memory", file=sys.stderr)
    return comparisons + memory(world, records)


def main() -> int:
    """Run all comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--records",
        type=int,
        default=RECORDS,
        help=f"for the memory; {RECORDS} if not given, at least {FEWEST}",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    if arguments.records < FEWEST:
        parser.error(f"--records must be {FEWEST} or more")
    # In a separate process, because this one serves the REST API.
    with LocalStack() as stack, ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        measured = executor.submit(measure, World.on(stack), arguments.records).result()
    comparisons = [comparison.with_tolerance(arguments.tolerance) for comparison in measured]
    print("Medians of runs with two workers, with reports to one LocalStack, measured in turns:")
    print()
    print(table(comparisons))
    return exit_status(comparisons)


if __name__ == "__main__":
    sys.exit(main())
