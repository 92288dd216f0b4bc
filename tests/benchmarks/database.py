"""Compares the database functions with alternatives, and reports ratios outside their limits.

    python tests/benchmarks/database.py [--rows 1000000] [--tolerance 0]

Both run on one PostgreSQL server with fsync on, from the extra `local` or from
AUDIENCELAB_POSTGRES_BIN. A measurement is one call as a client makes it: a prepared statement over
one TCP connection, as the role in question, until the result is read. The two alternate, and their
medians are compared. Only ratios have limits, because they do not depend on the machine.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import sys

from audiencelab_sdk.local._postgres import PostgresServer
from tests.benchmarks._comparisons import COMPARISONS, ROWS
from tests.benchmarks._timing import exit_status, table
from tests.benchmarks._world import FEWEST_ROWS, fill

SETTINGS = {
    # The default of 4 is for hard disks.
    "random_page_cost": "1.1",
    # A checkpoint would slow down only what is measured meanwhile.
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
}


def main() -> int:
    """Run all comparisons, and return the exit status."""
    arguments = _arguments()
    rows = arguments.rows
    with PostgresServer(durable=True, settings=SETTINGS) as server:
        print(f"Filling a database with {rows:,} segments", file=sys.stderr)
        world = fill(server, rows)
        comparisons = []
        for compare in COMPARISONS:
            print(f"Measuring: {compare.__name__.replace('_', ' ')}", file=sys.stderr)
            comparisons.append(compare(world).with_tolerance(arguments.tolerance))
        version = world.version()
    print(f"PostgreSQL {version}, fsync on, {rows:,} segments.")
    print("Medians of prepared statements over one connection, unless stated, measured in turns:")
    print()
    print(table(comparisons))
    if rows != ROWS:
        print()
        print(
            f"The policy that is evaluated for each row has {rows:,} instead of {ROWS:,} rows, so"
            " its limit is lower in proportion. The other limits do not change."
        )
    return exit_status(comparisons)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"segments in the table; {ROWS} if not given"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    if arguments.rows < FEWEST_ROWS:
        parser.error(f"--rows must be {FEWEST_ROWS:,} or more: one account has half as many")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
