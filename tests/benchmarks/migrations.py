"""Compares the migrations of a large live database with and without supabase/prepare.sql.

    python tests/benchmarks/migrations.py [--segments 1000000] [--logs 5000000] [--keys 100000]
                                          [--jobs 100000]

Two copies of one live database are migrated on one server with fsync on: one copy by the migrations
alone, the other by prepare.sql and then the migrations. Meanwhile an application reads and writes
every table in short transactions. The durations of the longest of these transactions are compared.
Only their ratio has a limit.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import psycopg

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests.benchmarks._timing import MISSED
from tests.database._catalog import catalog
from tests.database._sql import Database
from tests.database._states import apply_state
from tests.database._tools import ROOT
from tests.database.conftest import make_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# The minimum ratio of the longest transaction without prepare.sql to the longest with it: for the
# rows below, and for fewer.
LIMIT, SMALL_LIMIT = 10, 2
ROWS = {"segments": 1_000_000, "logs": 5_000_000, "keys": 100_000, "jobs": 100_000}
ACCOUNTS = 1_000
STATES = ("live_keys", "segments_migration", "first_script")
STAND_IN, *MIGRATIONS = migrate.migration_files()
PREPARE = ROOT / "supabase" / "prepare.sql"
# An autovacuum that blocks a migration would add a second at random.
SETTINGS = {"autovacuum": "off"}
PAUSE = 0.003
IDLE = 2.0

# Row n of a table has the number n as its id.
_FILL = {
    "users": """
        insert into auth.users (id) values (lpad('1', 32, '0')::uuid)""",
    "accounts": """
        insert into public.accounts (id, name, primary_owner_user_id)
        select lpad(to_hex(n), 32, '0')::uuid, 'Account ' || n, lpad('1', 32, '0')::uuid
        from generate_series(1, %(accounts)s) as n""",
    "segments": """
        insert into public.segments
          (id, account_id, name, source_type, source_id, filters, created_by, created_at,
           updated_at, deleted)
        select lpad(to_hex(n), 32, '0')::uuid,
               lpad(to_hex(1 + mod(n, %(accounts)s)), 32, '0')::uuid, 'Segment ' || n,
               (array['audience', 'webhook_upload', 'csv_upload'])[1 + mod(n, 3)], n::text,
               '[{"field": "country", "operator": "=", "value": "US"}]',
               lpad('1', 32, '0')::uuid, now() - random() * interval '300 days',
               now() - random() * interval '300 days', mod(n, 50) = 0
        from generate_series(1, %(segments)s) as n""",
    "keys": """
        insert into api_keys_private.api_keys
          (id, account_id, name, key_prefix, key_hash, created_by, created_at)
        select lpad(to_hex(n), 32, '0')::uuid,
               lpad(to_hex(1 + mod(n, %(accounts)s)), 32, '0')::uuid, 'Key ' || n,
               'sk_' || left(md5(n::text), 4),
               '$2a$12$' || md5(n::text) || left(md5((-n)::text), 21),
               lpad('1', 32, '0')::uuid, now() - random() * interval '300 days'
        from generate_series(1, %(keys)s) as n""",
    "logs": """
        insert into api_keys_private.api_key_logs
          (id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp)
        select lpad(to_hex(n), 32, '0')::uuid,
               lpad(to_hex(1 + floor(random() * %(keys)s)::bigint), 32, '0')::uuid,
               '/v3/segments', 'GET', 200, '192.0.2.1', 'python-httpx/0.28',
               now() - (%(logs)s - n) * interval '1 second'
        from generate_series(1, %(logs)s) as n""",
    "jobs": """
        insert into public.enrichment_tracking
          (id, account_id, audience_id, enrichment_type, status, created_by, created_at)
        select lpad(to_hex(n), 32, '0')::uuid,
               lpad(to_hex(1 + mod(n, %(accounts)s)), 32, '0')::uuid, gen_random_uuid(), 'email',
               case when mod(n, 20) = 0 then 'processing' else 'completed' end,
               lpad('1', 32, '0')::uuid, now() - random() * interval '300 days'
        from generate_series(1, %(jobs)s) as n""",
}

_FIRST = f"'{UUID(int=1)}'"
PROBES = {
    "segments, select": f"select name from public.segments where id = {_FIRST}",
    "segments, insert": (
        "insert into public.segments (account_id, name, source_type, source_id, created_by)"
        f" values ({_FIRST}, 'probe', 'audience', '1', {_FIRST})"
    ),
    "enrichment_tracking, insert": (
        "insert into public.enrichment_tracking"
        " (account_id, audience_id, enrichment_type, created_by)"
        f" values ({_FIRST}, {_FIRST}, 'email', {_FIRST})"
    ),
    "api_keys, insert": (
        "insert into api_keys_private.api_keys"
        " (account_id, name, key_prefix, key_hash, created_by)"
        f" values ({_FIRST}, 'probe', 'sk_prob', gen_random_uuid()::text, {_FIRST})"
    ),
    "api_keys, update": (
        f"update api_keys_private.api_keys set last_used_at = now() where id = {_FIRST}"
    ),
    "api_key_logs, insert": (
        "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method)"
        f" values ({_FIRST}, '/', 'GET')"
    ),
    "accounts, update": f"update public.accounts set name = 'probe' where id = {_FIRST}",
}


class Transaction(NamedTuple):
    """The begin and end of a transaction, and whether a deadlock aborted it."""

    begin: float
    end: float
    failed: bool


@dataclass(frozen=True)
class Measurement:
    """One migration of a database.

    Attributes:
        phases: The begin and end of each phase.
        transactions: The transactions of each probe.
    """

    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    transactions: dict[str, list[Transaction]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the begin and end of the block."""
        begin = time.perf_counter()
        yield
        self.phases[name] = begin, time.perf_counter()

    def seconds(self, phase: str) -> float:
        """Return the duration of a phase."""
        begin, end = self.phases[phase]
        return end - begin

    def longest(self, phase: str, probe: str | None = None) -> float:
        """Return the longest transaction during a phase, in seconds. By default of all probes."""
        return max((each.end - each.begin for each in self._during(phase, probe)), default=0)

    def failures(self, phase: str) -> int:
        """Return how many transactions a deadlock aborted during a phase."""
        return sum(each.failed for each in self._during(phase))

    def _during(self, phase: str, probe: str | None = None) -> Iterator[Transaction]:
        begin, end = self.phases[phase]
        for what, transactions in self.transactions.items():
            if probe in {what, None}:
                yield from (each for each in transactions if each.begin < end and each.end > begin)


def fill(server: PostgresServer, rows: dict[str, int]) -> Database:
    """Return a live database before the migrations, with this number of rows in each table."""
    db = make_database(server, "live", migrated=False)
    migrate.apply_migrations(migrate.as_role(db.admin_url, "postgres"), [STAND_IN])
    for state in STATES:
        apply_state(db, state)
    # The references are valid by construction, and checking them would take most of the time.
    unchecked = "-c session_replication_role=replica"
    with psycopg.connect(db.admin_url, autocommit=True, options=unchecked) as connection:
        for statement in _FILL.values():
            connection.execute(statement.encode(), {**rows, "accounts": ACCOUNTS})
        connection.execute("vacuum analyze")
    return db


def copy(server: PostgresServer, db: Database) -> Database:
    """Copy the database."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        connection.execute("create database prepared template live strategy file_copy")
        connection.execute("alter database prepared owner to postgres")
        connection.execute("checkpoint")
    return Database(*(url.replace("/live", "/prepared") for url in (db.admin_url,) * 2))


def measure(db: Database, phases: dict[str, Sequence[Path]]) -> Measurement:
    """Run the files of each phase while the probes run."""
    url = migrate.as_role(db.admin_url, "postgres")
    measurement, stop = Measurement(), Event()
    with ThreadPoolExecutor(len(PROBES)) as pool:
        probes = {what: pool.submit(_probe, url, sql, stop) for what, sql in PROBES.items()}
        try:
            with measurement.phase("idle"):
                time.sleep(IDLE)
            for name, files in phases.items():
                with measurement.phase(name):
                    for file in files:
                        _run_file(url, file)
                time.sleep(IDLE)
        finally:
            stop.set()
        measurement.transactions.update({what: probe.result() for what, probe in probes.items()})
    return measurement


def _probe(url: str, statement: str, stop: Event) -> list[Transaction]:
    transactions: list[Transaction] = []
    # Waiting for the disk on commit would hide a short wait for a lock.
    asynchronous = "-c synchronous_commit=off"
    with psycopg.connect(url, autocommit=True, options=asynchronous) as connection:
        while not stop.is_set():
            begin = time.perf_counter()
            failed = False
            try:
                connection.execute(statement.encode())
            except psycopg.errors.DeadlockDetected:
                failed = True
            transactions.append(Transaction(begin, time.perf_counter(), failed))
            time.sleep(PAUSE)
    return transactions


def _run_file(url: str, file: Path) -> None:
    program = str(find_programs() / "psql")
    command = [program, url, "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={file}"]
    while True:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return
        error = result.stderr.partition("ERROR:")[2].partition("\n")[0].strip()
        if error not in {"canceling statement due to lock timeout", "deadlock detected"}:
            raise RuntimeError(result.stderr)
        print(f"Retrying {file.name}: {error}", file=sys.stderr)


def table(alone: Measurement, prepared: Measurement) -> str:
    """Return a table with the duration of each phase and the longest transaction of each probe."""
    rows: list[tuple[str, ...]] = [
        ("", "idle", "migrations alone", "prepare.sql", "migrations after it", "ratio")
    ]
    rows.append(
        (
            "duration, s",
            "",
            f"{alone.seconds('migrations'):.2f}",
            f"{prepared.seconds('prepare.sql'):.2f}",
            f"{prepared.seconds('migrations'):.2f}",
            f"{alone.seconds('migrations') / prepared.seconds('migrations'):.1f}",
        )
    )
    for probe in (*PROBES, None):
        without, after = (each.longest("migrations", probe) for each in (alone, prepared))
        idle = max(each.longest("idle", probe) for each in (alone, prepared))
        figures = (idle, without, prepared.longest("prepare.sql", probe), after)
        rows.append(
            (
                f"longest {probe or 'of all'}, ms",
                *(f"{1000 * seconds:,.0f}" for seconds in figures),
                f"{without / after:.1f}",
            )
        )
    failures = (
        alone.failures("migrations"),
        prepared.failures("prepare.sql"),
        prepared.failures("migrations"),
    )
    rows.append(("failed by deadlocks", "", *(str(number) for number in failures), ""))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> int:
    """Run the comparison. Returns 1 for different catalogs or a deadlock, MISSED for a ratio."""
    rows = _arguments()
    with PostgresServer(durable=True, settings=SETTINGS) as server:
        amounts = ", ".join(f"{count:,} {what}" for what, count in rows.items())
        print(f"Filling a database with {amounts}", file=sys.stderr)
        db = fill(server, rows)
        other = copy(server, db)
        print("Measuring: the migrations alone", file=sys.stderr)
        alone = measure(db, {"migrations": MIGRATIONS})
        print("Measuring: prepare.sql, then the migrations", file=sys.stderr)
        prepared = measure(other, {"prepare.sql": [PREPARE], "migrations": MIGRATIONS})
        same = catalog(db) == catalog(other)
        version = db.admin("show server_version")[0]["server_version"]
    print(f"PostgreSQL {version}, fsync on, {amounts}, {ACCOUNTS:,} accounts:")
    print()
    print(table(alone, prepared))
    print()
    ratio = alone.longest("migrations") / prepared.longest("migrations")
    limit = SMALL_LIMIT if any(rows[what] < ROWS[what] for what in ROWS) else LIMIT
    fast = ratio >= limit
    print(f"Ratio of the longest: {ratio:.1f}, limit ≥ {limit}: {'ok' if fast else 'MISSED'}")
    print(f"The catalogs are {'the same' if same else 'DIFFERENT'} in the end.")
    deadlocks = alone.failures("migrations") + prepared.failures("migrations")
    if deadlocks:
        print(f"The migrations caused {deadlocks} deadlocks.")
    if deadlocks or not same:
        return 1
    return 0 if fast else MISSED


def _arguments() -> dict[str, int]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for what, count in ROWS.items():
        parser.add_argument(
            f"--{what}", type=int, default=count, help=f"rows; {count} if not given"
        )
    rows = vars(parser.parse_args())
    if min(rows.values()) < 1:
        parser.error("each table needs at least one row")
    return rows


if __name__ == "__main__":
    sys.exit(main())
