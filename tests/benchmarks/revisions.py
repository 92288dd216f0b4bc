"""Compares the speed of the migrated database with that of an earlier revision.

    python tests/benchmarks/revisions.py REVISION

Two databases are on one server with fsync on, one with the migrations of this checkout and one with
those of the Git revision. A measurement is one call as a client makes it: a prepared statement over
one TCP connection, as the role in question. The two alternate.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.benchmarks._timing import alternating_medians, exit_status, table, times_as_long
from tests.database._sql import SERVICE_ROLE, Actor, Database, Tenant

if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENTS = 5_000
EVENTS = 100
LIMIT = 1.1


@dataclass(frozen=True)
class World:
    """A database with one account, its segments, a key and a job."""

    db: Database
    tenant: Tenant
    key: str
    key_id: UUID
    job: UUID

    def calls(self, actor: Actor, statement: str) -> Callable[..., object]:
        """Return a function that runs a prepared statement as the actor."""
        connection = psycopg.connect(self.db.admin_url, autocommit=True)
        connection.execute(f"set role {actor.role}".encode())
        connection.execute(
            "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text,"
            " false)",
            [str(actor.subject)],
        )
        return lambda *arguments: connection.execute(
            statement.encode(), arguments, prepare=True
        ).fetchall()


def main() -> int:
    """Run all comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision", help="the Git revision of the earlier migrations")
    revision = parser.parse_args().revision
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(durable=True, settings={"random_page_cost": "1.1"}) as server,
    ):
        ours = fill(server, "ours", migrate.migration_files())
        theirs = fill(server, "theirs", files_of(revision, Path(folder)))
        comparisons = [
            times_as_long(what, revision, medians(make(ours), make(theirs)), at_most=LIMIT)
            for what, make in MEASURED.items()
        ]
    print(table(comparisons))
    return exit_status(comparisons)


def files_of(revision: str, folder: Path) -> list[Path]:
    """Write the migrations of a revision to a folder, and return their paths."""
    archive = subprocess.run(
        ["git", "archive", revision, "supabase/migrations"], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return sorted((folder / "supabase" / "migrations").glob("*.sql"))


def fill(server: PostgresServer, name: str, files: list[Path]) -> World:
    """Return a database with these migrations and some rows."""
    url = migrate.create_database(server.admin_url, name)
    migrate.apply_platform(url)
    migrate.apply_migrations(migrate.as_role(url, "postgres"), files)
    db = Database(url, migrate.as_role(url, "authenticator"))
    tenant = db.add_tenant()
    db.admin(
        "insert into public.segments"
        " (account_id, created_by, name, source_type, source_id, filters)"
        " select %s, %s, 'Segment ' || number, 'audience', number::text,"
        """ '[{"field": "country", "operator": "=", "value": "US"}]'"""
        " from generate_series(1, %s) as number",
        *(tenant.account_id, tenant.user_id, SEGMENTS),
    )
    key = db.create_key(tenant)
    job = db.create_job(tenant)
    db.admin("vacuum analyze")
    return World(db, tenant, key["key"], key["id"], job)


def medians(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    return alternating_medians(ours, theirs, rounds=3_000, calls=(1, 1))


def verify(world: World) -> Callable[[], object]:
    call = world.calls(SERVICE_ROLE, "select * from public.verify_api_key(%s)")
    return lambda: call(world.key)


def log_a_request(world: World) -> Callable[[], object]:
    call = world.calls(
        SERVICE_ROLE,
        "select * from public.log_api_key_usage(%s, '/v1/segments', 'GET', 200, '::1', 'bench')",
    )
    return lambda: call(world.key_id)


def log_a_batch(world: World) -> Callable[[], object]:
    call = world.calls(SERVICE_ROLE, "select * from public.log_api_key_usage_batch(%s)")
    event = {"api_key_id": str(world.key_id), "endpoint": "/v1/segments", "method": "GET"}
    events = json.dumps([event] * EVENTS)
    return lambda: call(events)


FILTERS = json.dumps(
    [
        {"field": "country", "operator": "=", "value": "US"},
        {"field": "title", "operator": "contains", "value": "engineer"},
    ]
)


def insert_a_segment(world: World) -> Callable[[], object]:
    call = world.calls(
        world.tenant.member,
        "insert into public.segments (account_id, created_by, name, source_type, source_id,"
        " filters, tags, enrichment_fields)"
        " values (%s, %s, 'US engineers', 'audience', '1', %s, '{vip,us}', '{email}') returning *",
    )
    return lambda: call(world.tenant.account_id, world.tenant.user_id, FILTERS)


def create_a_segment(world: World) -> Callable[[], object]:
    call = world.calls(
        world.tenant.member,
        "select public.create_studio_segment(%s, 'US engineers', 'audience', '1',"
        " p_filters => %s, p_tags => '{vip,us}')",
    )
    return lambda: call(world.tenant.account_id, FILTERS)


def report_progress(world: World) -> Callable[[], object]:
    call = world.calls(
        world.tenant.member, "select * from public.report_enrichment_progress(%s, 'w', %s, 0)"
    )
    numbers = count()
    return lambda: call(world.job, next(numbers))


def read_the_first_page(world: World) -> Callable[[], object]:
    call = world.calls(
        world.tenant.member,
        "select * from public.segments where account_id = %s"
        " order by created_at desc, id desc limit 100",
    )
    return lambda: call(world.tenant.account_id)


MEASURED: dict[str, Callable[[World], Callable[[], Any]]] = {
    "verify a key": verify,
    "log a request": log_a_request,
    f"log a batch of {EVENTS}": log_a_batch,
    "insert a segment": insert_a_segment,
    "create_studio_segment": create_a_segment,
    "report progress": report_progress,
    "first page of segments": read_the_first_page,
}

if __name__ == "__main__":
    sys.exit(main())
