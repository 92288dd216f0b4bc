"""One function over 20,000 records, on every kind of executor, with real reports."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio
import pytest
from loky import get_reusable_executor

from audiencelab_sdk import AsyncAudienceLab, AudienceLab, InvalidArgumentError, Outcome
from tests._waiting import wait_until
from tests.e2e._dask import dask_cluster
from tests.e2e._finding import RECORDS, check, find_email, find_email_later, slowly_find_email

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e._project import Project, Tenant

SHUT_DOWN = ThreadPoolExecutor()
SHUT_DOWN.shutdown()
HERE = Path(__file__).parent


@pytest.fixture
def client(project: Project) -> Iterator[AudienceLab]:
    with AudienceLab(project.url, project.service_role_key) as client:
        yield client


@pytest.fixture
def job_id(client: AudienceLab, tenant: Tenant) -> UUID:
    job = client.enrichment.create(
        tenant.account_id, uuid4(), "email", total_records=RECORDS, created_by=tenant.user_id
    )
    return job.id


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = children()
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("audiencelab-enrichment")]
    wait_until(lambda: children() <= before)


def children() -> set[int]:
    """Return the child processes, apart from the helpers that Python and loky keep."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, path.read_text().split()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if b"resource_tracker" not in command:
                found.add(pid)
    return found


def counters(client: AudienceLab, job_id: UUID) -> tuple[Any, ...]:
    job = client.enrichment.get(job_id)
    return job.status, job.total_records, job.processed_records, job.failed_records


EXACT = ("completed", RECORDS, RECORDS, RECORDS // 10)

EXECUTORS: dict[str, Callable[[], Executor | Callable[[], Executor] | None]] = {
    "default": lambda: None,
    "threads": partial(ThreadPoolExecutor, 4),
    "processes, fork": partial(ProcessPoolExecutor, 2, mp_context=get_context("fork")),
    "processes, spawn": partial(ProcessPoolExecutor, 2, mp_context=get_context("spawn")),
    "processes of the run": lambda: partial(
        ProcessPoolExecutor, 2, mp_context=get_context("spawn")
    ),
    "loky": partial(get_reusable_executor, 2),
}


@contextmanager
def opened(name: str) -> Iterator[Any]:
    executor = EXECUTORS[name]()
    yield executor
    if isinstance(executor, Executor):
        # The run has left it usable.
        assert executor.submit(int, "7").result() == 7
        executor.shutdown()


@pytest.mark.parametrize("name", EXECUTORS)
def test_each_record_has_one_outcome(client: AudienceLab, job_id: UUID, name: str) -> None:
    with (
        opened(name) as executor,
        client.enrichment.run(
            job_id, iter(range(RECORDS)), find_email, executor=executor, chunk_size=300
        ) as outcomes,
    ):
        check(outcomes)

    assert counters(client, job_id) == EXACT
    assert (outcomes.processed, outcomes.failed) == (RECORDS, RECORDS // 10)


@pytest.mark.parametrize("backend_name", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["coroutines", "threads", "processes, spawn"])
def test_each_record_has_one_outcome_in_an_event_loop(
    project: Project, client: AudienceLab, job_id: UUID, backend_name: str, name: str
) -> None:
    async def work(executor: Any) -> list[Outcome[str]]:
        enrich: Any = find_email if executor else find_email_later
        async with (
            AsyncAudienceLab(project.url, project.service_role_key) as asynchronous,
            asynchronous.enrichment.run(
                job_id, range(RECORDS), enrich, executor=executor, chunk_size=300
            ) as outcomes,
        ):
            return [outcome async for outcome in outcomes]

    with opened(name if name in EXECUTORS else "default") as executor:
        check(anyio.run(work, executor, backend=backend_name))
    assert counters(client, job_id) == EXACT


def test_each_record_has_one_outcome_while_processes_of_the_run_are_killed(
    client: AudienceLab, job_id: UUID
) -> None:
    outcomes: list[Outcome[str]] = []
    pool = partial(ProcessPoolExecutor, 2, mp_context=get_context("spawn"))
    killed = 0
    with client.enrichment.run(
        job_id, range(RECORDS), slowly_find_email, executor=pool, chunk_size=100
    ) as run:
        for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) % (RECORDS // 10) == 0 and len(outcomes) < RECORDS:
                wait_until(active_children)
                active_children()[0].kill()
                killed += 1

    check(outcomes)
    assert killed == 9
    assert counters(client, job_id) == EXACT


def test_a_job_that_is_retried_and_run_again_counts_each_record_once(
    client: AudienceLab, job_id: UUID
) -> None:
    def run(*, until: int) -> None:
        with client.enrichment.run(job_id, range(RECORDS), find_email, chunk_size=300) as outcomes:
            for number, _ in enumerate(outcomes, 1):
                if number == until:
                    raise ConnectionError

    with pytest.raises(ConnectionError):
        run(until=600)
    assert counters(client, job_id)[0] == "failed"
    client.enrichment.retry(job_id)
    run(until=RECORDS + 1)
    assert counters(client, job_id) == EXACT


@pytest.mark.parametrize("unit", ["the others", None])
def test_a_job_that_is_left_is_taken_up_again(
    client: AudienceLab, job_id: UUID, unit: str | None
) -> None:
    done: dict[int, Outcome[str]] = {}
    run = client.enrichment.run(job_id, range(RECORDS), find_email, on_error="leave")

    def work() -> None:
        with run:
            for outcome in run:
                if len(done) == 4_321:
                    raise ConnectionError
                done[outcome.index] = outcome

    with pytest.raises(ConnectionError):
        work()
    assert run.processed == 4_321
    assert client.enrichment.get(job_id).status == "processing"

    left = [index for index in range(RECORDS) if index not in done]
    records = left if unit else range(RECORDS)
    with client.enrichment.run(job_id, records, find_email, unit=unit) as second:
        for outcome in second:
            index = records[outcome.index]
            done[index] = replace(outcome, index=index)

    check(done.values())
    assert counters(client, job_id) == EXACT


def test_each_record_has_one_outcome_while_workers_of_dask_are_killed(
    client: AudienceLab, job_id: UUID
) -> None:
    outcomes: list[Outcome[str]] = []
    killed: list[int] = []
    with (
        dask_cluster(workers=3) as (cluster, dask),
        client.enrichment.run(
            job_id,
            range(RECORDS),
            slowly_find_email,
            executor=dask.get_executor(),
            chunk_size=50,
            in_flight=12,
        ) as run,
    ):
        for outcome in run:
            outcomes.append(outcome)
            if len(outcomes) % (RECORDS // 10) == 0 and len(outcomes) < RECORDS:
                killed.append(kill_a_worker(cluster))
        wait_until(lambda: not dask.futures)

    check(outcomes)
    assert len(killed) == 9
    assert counters(client, job_id) == EXACT


def kill_a_worker(cluster: Any) -> int:
    def alive() -> list[int]:
        # A worker that is being restarted has none.
        return [nanny.pid for nanny in cluster.workers.values() if nanny.pid]

    wait_until(alive)
    pid = random.choice(alive())
    os.kill(pid, signal.SIGKILL)
    return pid


def test_each_record_has_one_outcome_on_the_processes_of_mpi(
    project: Project, client: AudienceLab, job_id: UUID
) -> None:
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        if os.environ.get("CI"):
            pytest.fail("MPI is not installed: apt-get install openmpi-bin")
        pytest.skip("needs MPI: apt-get install openmpi-bin")
    command = [mpiexec, "--allow-run-as-root", "--oversubscribe", "-n", "3"]

    subprocess.run(
        [*command, sys.executable, "-m", "mpi4py.futures", str(HERE / "_mpi_run.py")],
        env=environment(project, job_id),
        check=True,
        timeout=120,
    )

    assert counters(client, job_id) == EXACT


BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "no iterable": ({"records": 5}, "records must be an iterable"),
    "a text": ({"records": "abc"}, "records must be an iterable"),
    "no function": ({"enrich": None}, "enrich must be a function"),
    "a coroutine function": ({"enrich": find_email_later}, "enrich is a coroutine function"),
    "no chunk": ({"chunk_size": 0}, "chunk_size must be from 1"),
    "nothing in flight": ({"in_flight": 0}, "in_flight must be from 1"),
    "no attempt": ({"attempts": 0}, "attempts must be from 1"),
    "no executor": ({"executor": 4}, "executor must be a concurrent.futures.Executor"),
    "a lambda for processes": (
        {"executor": ProcessPoolExecutor, "enrich": lambda record: record},
        r"enrich \(<lambda>\) cannot be pickled",
    ),
    "an executor that is shut down": ({"executor": SHUT_DOWN}, "executor does not accept calls"),
}


@pytest.mark.parametrize("bad", BAD_INPUT)
def test_bad_input_is_one_clear_error_and_does_not_touch_the_job(
    client: AudienceLab, job_id: UUID, bad: str
) -> None:
    options, message = BAD_INPUT[bad]
    before = client.enrichment.get(job_id)
    arguments: dict[str, Any] = {"records": range(10), "enrich": find_email, **options}
    entered = []

    def enter() -> None:
        with client.enrichment.run(job_id, **arguments):
            entered.append(bad)

    with pytest.raises(InvalidArgumentError, match=message):
        enter()
    assert client.enrichment.get(job_id) == before
    assert entered == []


def environment(project: Project, job_id: UUID, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.service_role_key,
        "JOB_ID": str(job_id),
        "PYTHONPATH": str(HERE.parents[1]),
        **more,
    }


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_interrupt_ends_everything_within_a_second(
    project: Project, client: AudienceLab, job_id: UUID, executor: str
) -> None:
    with subprocess.Popen(
        [sys.executable, str(HERE / "_interrupted_run.py")],
        env=environment(project, job_id, EXECUTOR=executor),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        took = time.monotonic() - interrupted
        _, errors = process.communicate(timeout=10)

    assert took < 1
    assert (process.returncode, errors) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert counters(client, job_id) == ("processing", RECORDS, 0, 0)
