"""Measures the database against other ways of doing the same, and says where a limit is missed.

    python tests/benchmarks/database.py [--rows 1000000]

Everything runs on one server that writes to disk as a real one does, of the PostgreSQL that comes
with the extra `local` or that AUDIENCELAB_POSTGRES_BIN names. What is timed is a call as a client
makes it: a prepared statement over one TCP connection, as the role in question, until the answer
has been read. The two sides take turns, and medians are compared. Only ratios have limits: they
mean the same on any machine.
"""

# ruff: noqa: T201 - a program that prints what it finds

from __future__ import annotations

import argparse
import sys

from audiencelab_sdk.local._postgres import PostgresServer
from tests.benchmarks._comparisons import COMPARISONS, ROWS
from tests.benchmarks._timing import table
from tests.benchmarks._world import FEWEST_ROWS, fill

# PostgreSQL takes its disks for spinning ones unless it is told; nobody's are.
SETTINGS = {"random_page_cost": "1.1"}


def main() -> int:
    """Measure everything; 1 when a limit is missed."""
    rows = _arguments().rows
    with PostgresServer(durable=True, settings=SETTINGS) as server:
        print(f"Filling a database with {rows:,} segments", file=sys.stderr)
        world = fill(server, rows)
        comparisons = []
        for compare in COMPARISONS:
            print(f"Measuring: {compare.__name__.replace('_', ' ')}", file=sys.stderr)
            comparisons.append(compare(world))
        version = world.version()
    print(f"PostgreSQL {version}, fsync on, {rows:,} segments.")
    print("Medians of prepared statements over one connection, unless said, taken in turns:")
    print()
    print(table(comparisons))
    if rows != ROWS:
        print()
        print(
            f"With {rows:,} rows and not {ROWS:,} the policy that is asked once a row has that"
            " much less to do, so its limit is lower in proportion. No other limit changes."
        )
    return 0 if all(comparison.ok for comparison in comparisons) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"segments in the table; {ROWS} if not given"
    )
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS:
        parser.error(f"--rows must be {FEWEST_ROWS:,} or more: one account alone has half as many")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
