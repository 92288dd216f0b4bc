"""The comparisons of the database: what is measured, against what, and the limit of the ratio."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.types.json import Jsonb

from audiencelab_sdk.local._postgres import find_programs
from tests.benchmarks._timing import (
    Comparison,
    alternating,
    alternating_medians,
    times_as_fast,
    times_as_long,
    times_as_long_in_pairs,
    times_as_many,
    times_as_many_in_pairs,
)
from tests.benchmarks._world import (
    COUNTED,
    FEW_KEYS,
    KEYS,
    LOG_DAYS,
    LOG_ROWS,
    MEMBERSHIPS,
    PAGE,
    PAGES,
    SCOPES,
    SEGMENTS_PER_LATEST_LOG_ROW,
    World,
    call,
    claims,
)
from tests.database._sql import SERVICE_ROLE, api_key, user

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

ROWS = 1_000_000
TIMEOUT = "120s"
CONNECTIONS = 16
ROUNDS = 5
EVENTS = 500
REPORTERS = 32
UNITS = 1_000

# The pages as the SDK requests them, by keyset pagination.
_FIRST_PAGE = f"""
    select * from public.segments where account_id = %s
    order by created_at desc, id desc limit {PAGE}
"""
_NEXT_PAGE = f"""
    select * from public.segments
    where account_id = %s and created_at <= %s and (created_at < %s or id < %s)
    order by created_at desc, id desc limit {PAGE}
"""
_EVENT = ("/v1/segments", "GET", 200, "203.0.113.7", "benchmark")


def verify_against_bcrypt(world: World) -> Comparison:
    with world.connect(SERVICE_ROLE) as connection:
        medians = alternating_medians(
            call(connection, "select * from public.verify_api_key(%s)", world.key),
            call(connection, "select * from benchmark.verify_by_bcrypt(%s)", world.key),
            rounds=5,
            calls=(200, 1),
        )
    return times_as_fast("verify_api_key", "bcrypt, as the first script did", medians, at_least=200)


def verify_against_look_up(world: World) -> Comparison:
    with world.connect(SERVICE_ROLE) as connection:
        medians = alternating_medians(
            call(connection, "select * from public.verify_api_key(%s)", world.key),
            call(connection, "select * from benchmark.look_up(%s)", world.key_id),
            rounds=100,
            calls=(20, 20),
        )
    return times_as_long(
        "verify_api_key", "a function with one primary key look-up", medians, at_most=1.5
    )


def verify_among_many_keys(world: World) -> Comparison:
    # Many in one statement: on which cores the two servers' processes run would count otherwise.
    statement = "select count((public.verify_api_key(%s)).valid) from generate_series(1, 200)"
    with world.connect(SERVICE_ROLE) as many, world.connect(SERVICE_ROLE, world.few) as few:
        medians = alternating_medians(
            call(many, statement, world.key),
            call(few, statement, world.few_key),
            rounds=100,
            calls=(1, 1),
        )
    return times_as_long(
        f"200 verify_api_key among {KEYS * world.rows:,} keys",
        f"among {FEW_KEYS:,}",
        medians,
        at_most=1.3,
    )


def authenticate_against_verify(world: World) -> Comparison:
    # As PostgREST reads the results: the client's parsing of ten columns is not measured.
    select = "select to_json(result)::text from public.{} as result"
    with world.connect(SERVICE_ROLE) as connection:
        times = alternating(
            call(connection, select.format("authenticate_api_key(%s, %s)"), world.key, "192.0.2.1"),
            call(connection, select.format("verify_api_key(%s)"), world.key),
            rounds=2000,
            calls=(1, 1),
        )
    return times_as_long_in_pairs("authenticate_api_key", "verify_api_key", times, at_most=1.2)


def count_against_slow_policy(world: World) -> Comparison:
    count = "select count(*) from public.segments"
    member = user(world.counted.user_id)
    with world.connect(member) as connection:
        fast = call(connection, count)
        if fast() != [(COUNTED,)]:
            raise AssertionError(f"a member counts {fast()}, not {COUNTED} segments")
        with world.connect() as owner:
            medians = alternating_medians(
                fast,
                partial(_count_under_slow_policy, owner, count, claims(member)),
                rounds=3,
                calls=(50, 1),
            )
    # The slow policy is evaluated for every row of the table, ours only for rows of the account.
    return times_as_fast(
        f"count {COUNTED:,} of {world.rows:,} segments, as a member",
        "policy has_role_on_account(account_id)",
        medians,
        at_least=1000 * world.rows / ROWS,
    )


def first_page_against_owner(world: World) -> Comparison:
    return times_as_long(
        f"first page of {PAGE}, as a member",
        "the same as the table's owner",
        _first_pages(world),
        at_most=3,
    )


def first_page_planned_anew(world: World) -> Comparison:
    return times_as_long(
        f"first page of {PAGE}, as a member, not prepared",
        "the same as the table's owner",
        _first_pages(world, prepared=False),
        at_most=3,
    )


def last_page_against_first(world: World) -> Comparison:
    account = world.large.account_id
    with world.connect(user(world.large.user_id)) as member:
        ((created_at, segment_id),) = call(
            member,
            "select created_at, id from public.segments where account_id = %s"
            " order by created_at desc, id desc limit 1 offset %s",
            account,
            (PAGES - 1) * PAGE - 1,
        )()
        medians = alternating_medians(
            call(member, _NEXT_PAGE, account, created_at, created_at, segment_id),
            call(member, _FIRST_PAGE, account),
            rounds=50,
        )
    return times_as_long(f"page {PAGES:,} by keyset", "page 1", medians, at_most=1.5)


def busy_member_against_member(world: World) -> Comparison:
    with (
        world.connect(user(world.busy)) as busy,
        world.connect(user(world.counted.user_id)) as member,
    ):
        medians = alternating_medians(
            call(busy, _FIRST_PAGE, world.counted.account_id),
            call(member, _FIRST_PAGE, world.counted.account_id),
            rounds=50,
        )
    return times_as_long(
        f"first page of {PAGE}, as a member of {MEMBERSHIPS} accounts",
        "the same as a member of 1",
        medians,
        at_most=5,
    )


def many_scopes_against_one(world: World) -> Comparison:
    has_scope = "select public.has_scope('segment', '42', 'read')"
    with (
        world.connect(api_key(world.many_scopes_id)) as many,
        world.connect(api_key(world.key_id)) as one,
    ):
        medians = alternating_medians(call(many, has_scope), call(one, has_scope), rounds=50)
    return times_as_long(f"has_scope with {SCOPES:,} scopes", "with 1 scope", medians, at_most=10)


def logging_against_updating(world: World) -> Comparison:
    functions = ("public.log_api_key_usage", "benchmark.log_and_update")
    rates = _rates(
        *(partial(_calls_a_second, world, function, world.fresh_key_id()) for function in functions)
    )
    return times_as_many_in_pairs(
        f"{CONNECTIONS} connections logging one key's usage",
        "updating last_used_at every time",
        rates,
        at_least=2,
    )


def batch_against_single_calls(world: World) -> Comparison:
    names = ("endpoint", "method", "status_code", "ip_address", "user_agent")
    key_id = world.fresh_key_id()
    event = {"api_key_id": str(key_id), **dict(zip(names, _EVENT, strict=True))}
    with world.connect(SERVICE_ROLE) as connection:
        single = call(
            connection,
            "select * from public.log_api_key_usage(%s, %s, %s, %s, %s, %s)",
            key_id,
            *_EVENT,
        )
        batch = call(
            connection, "select * from public.log_api_key_usage_batch(%s)", Jsonb([event] * EVENTS)
        )

        def singles() -> None:
            for _ in range(EVENTS):
                single()

        medians = alternating_medians(batch, singles, rounds=5, calls=(5, 1))
    return times_as_many(
        f"log_api_key_usage_batch of {EVENTS}",
        f"{EVENTS} single calls",
        (EVENTS / medians[0], EVENTS / medians[1]),
        at_least=15,
    )


def usage_against_ready_counts(world: World) -> Comparison:
    account = world.logged.account_id
    latest = world.rows // SEGMENTS_PER_LATEST_LOG_ROW
    with world.connect(user(world.logged.user_id)) as member, world.connect(SERVICE_ROLE) as reader:
        keys = world.db.admin(
            "select array_agg(id) as ids from api_keys_private.api_keys where account_id = %s",
            account,
        )[0]["ids"]
        usage = call(
            member,
            "select * from public.api_key_usage(%s, now() - %s * interval '1 day', now())",
            account,
            LOG_DAYS,
        )
        if sum(row[2] for row in usage()) < LOG_ROWS * world.rows:
            raise AssertionError("the usage does not count all log rows")
        medians = alternating_medians(
            usage,
            call(
                reader,
                "select api_key_id, date_trunc('day', hour, 'UTC'), sum(requests), sum(errors),"
                " max(last_used_at) from benchmark.usage_hours where api_key_id = any (%s)"
                " and hour >= now() - %s * interval '1 day' and hour < now()"
                " group by 1, 2 order by 2, 1",
                keys,
                LOG_DAYS,
            ),
            rounds=20,
        )
    return times_as_long(
        f"usage by day of {LOG_ROWS * world.rows:,} requests, {latest:,} not rolled up",
        "reading ready hourly counts",
        medians,
        at_most=3,
    )


def logging_while_purging(world: World) -> Comparison:
    """Measure both in turns. The purge runs for as long as one of the measurements."""
    key_id = world.fresh_key_id()
    with_purge, without = list[float](), list[float]()
    for _ in range(ROUNDS):
        without.append(_calls_a_second(world, "public.log_api_key_usage", key_id))
        stopped = Event()
        purged = list[int]()
        purge = Thread(target=_purge, args=(world, stopped, purged))
        purge.start()
        with_purge.append(_calls_a_second(world, "public.log_api_key_usage", key_id))
        stopped.set()
        purge.join()
        if not purged or not purged[-1]:
            raise AssertionError(f"the purge ended early: {purged}")
    return times_as_many_in_pairs(
        f"{CONNECTIONS} connections logging while rows are purged",
        "the same without a purge",
        (with_purge, without),
        at_least=0.7,
    )


def _purge(world: World, stopped: Event, purged: list[int]) -> None:
    with world.connect(SERVICE_ROLE) as connection:
        purge = call(connection, "select public.purge_api_key_logs(now())")
        while not stopped.is_set():
            ((deleted,),) = purge()
            purged.append(deleted)


def reporting_against_adding_up(world: World) -> Comparison:
    functions = ("public.report_enrichment_progress", "benchmark.report_and_add_up")
    rates = _rates(*(partial(_reports_a_second, world, function, jobs=1) for function in functions))
    return times_as_many_in_pairs(
        f"{REPORTERS} connections reporting on one job",
        "adding up all workers under a lock on the job",
        rates,
        at_least=5,
    )


def reporting_on_one_job_against_many(world: World) -> Comparison:
    function = "public.report_enrichment_progress"
    rates = _rates(
        *(partial(_reports_a_second, world, function, jobs=jobs) for jobs in (1, REPORTERS))
    )
    return times_as_many_in_pairs(
        f"{REPORTERS} connections reporting on one job",
        f"{REPORTERS} connections reporting on jobs of their own",
        rates,
        at_least=1.0,
    )


def reporting_on_many_units_against_one(world: World) -> Comparison:
    report = (
        "select * from public.report_enrichment_progress(%s, 'unit 1',"
        " nextval('benchmark.totals')::integer, 0)"
    )
    large, small = (world.add_jobs(1)[0] for _ in range(2))
    with world.connect(SERVICE_ROLE) as connection:
        for number in range(1, UNITS + 1):
            connection.execute(
                "select public.report_enrichment_progress(%s, 'unit ' || %s, 0, 0)",
                [large, number],
            )
        medians = alternating_medians(
            call(connection, report, large), call(connection, report, small), rounds=100
        )
    return times_as_long(
        f"a report on a job of {UNITS:,} units", "on a job of one", medians, at_most=1.2
    )


COMPARISONS: tuple[Callable[[World], Comparison], ...] = (
    verify_against_bcrypt,
    verify_against_look_up,
    verify_among_many_keys,
    authenticate_against_verify,
    count_against_slow_policy,
    first_page_against_owner,
    first_page_planned_anew,
    last_page_against_first,
    # Before those that log rows, which are not rolled up.
    usage_against_ready_counts,
    logging_against_updating,
    batch_against_single_calls,
    reporting_against_adding_up,
    reporting_on_one_job_against_many,
    reporting_on_many_units_against_one,
    many_scopes_against_one,
    busy_member_against_member,
    # Last, because it deletes log rows.
    logging_while_purging,
)


def _first_pages(world: World, *, prepared: bool = True) -> tuple[float, float]:
    account = world.counted.account_id
    with (
        world.connect(user(world.counted.user_id)) as member,
        world.connect() as owner,
    ):
        return alternating_medians(
            call(member, _FIRST_PAGE, account, prepared=prepared),
            call(owner, _FIRST_PAGE, account, prepared=prepared),
            rounds=50,
        )


def _count_under_slow_policy(
    connection: psycopg.Connection[Any], count: str, member_claims: str
) -> None:
    """Count as the member under the first script's policy, then restore ours.

    After a timeout the measured ratio is a lower bound.
    """
    with connection.transaction(force_rollback=True):
        connection.execute("drop policy segments_select on public.segments")
        connection.execute(
            "create policy segments_select on public.segments for select to authenticated"
            " using (public.has_role_on_account(account_id))"
        )
        connection.execute("set local role authenticated")
        connection.execute("select set_config('request.jwt.claims', %s, true)", [member_claims])
        connection.execute(f"set local statement_timeout = '{TIMEOUT}'".encode())
        with contextlib.suppress(psycopg.errors.QueryCanceled), connection.transaction():
            connection.execute(count.encode())


def _rates(
    ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return the rates of both, measured in turns. The first ones are not counted."""
    rates = [(ours(), theirs()) for _ in range(1 + ROUNDS)][1:]
    return [rate for rate, _ in rates], [rate for _, rate in rates]


def _calls_a_second(world: World, function: str, key_id: UUID) -> float:
    arguments = f"'{key_id}', '/v1/segments', 'GET', 200, '203.0.113.7', 'benchmark'"
    return _transactions_a_second(world, f"select * from {function}({arguments});", CONNECTIONS)


def _reports_a_second(world: World, function: str, *, jobs: int) -> float:
    added = world.add_jobs(jobs)
    # Otherwise the first reports wait for each other, because one of them starts the job.
    world.db.admin(
        "update public.enrichment_tracking set status = 'processing' where id = any (%s)", added
    )
    ids = ", ".join(f"'{job_id}'" for job_id in added)
    job_id = f"(array[{ids}]::uuid[])[1 + :client_id % {jobs}]"
    script = (
        "\\set done :done + 1\n"
        f"select * from {function}({job_id}, 'unit ' || :client_id::text, :done, 0);"
    )
    return _transactions_a_second(world, script, REPORTERS, "--define=done=0")


def _transactions_a_second(world: World, script: str, clients: int, *options: str) -> float:
    """Return the transactions per second of all clients, by pgbench, which has no global lock."""
    url = urlsplit(world.authenticator_url)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(f"{script}\n")
        file.flush()
        output = subprocess.run(
            [
                str(find_programs() / "pgbench"),
                "--no-vacuum",
                "--protocol=prepared",
                f"--client={clients}",
                "--jobs=2",
                "--time=2",
                f"--file={file.name}",
                *options,
                urlunsplit(url._replace(netloc=f"{url.username}@{url.hostname}:{url.port}")),
            ],
            env={"PGPASSWORD": url.password or "", "PGOPTIONS": f"-c role={SERVICE_ROLE.role}"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if not found:
        raise ValueError(f"the output of pgbench has no tps:\n{output}")
    return float(found[1])
