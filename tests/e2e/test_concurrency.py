"""One client for many threads, tasks, event loops and forked processes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import httpx
import pytest
import supabase
import trio

from audiencelab_sdk import AsyncAudienceLab, AudienceLab, ClientClosedError, CreatedApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e._project import Project, Tenant

Keys = list[tuple[str, UUID]]


@pytest.fixture(scope="module")
def keys(project: Project) -> Keys:
    """The keys of two accounts, and the account of each."""
    found: Keys = []
    with AudienceLab(project.url, project.service_role_key) as client:
        for tenant in (project.add_tenant(), project.add_tenant()):
            user = client.as_user(project.access_token(tenant.user_id))
            created = user.api_keys.create(tenant.account_id, "n")
            found.append((created.key.get_secret_value(), tenant.account_id))
    return found


@pytest.fixture
def client(project: Project) -> Iterator[AudienceLab]:
    # Without retries, which would hide an error.
    with AudienceLab(project.url, project.service_role_key, max_retries=0) as client:
        yield client


def verify_in_threads(client: AudienceLab, texts: list[str]) -> list[Any]:
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(client.api_keys.verify, texts))


def test_thirty_two_threads_share_a_client(
    project: Project, tenant: Tenant, created: CreatedApiKey
) -> None:
    text = created.key.get_secret_value()
    unknown = "sk_" + "A" * 20
    with AudienceLab(project.url, project.service_role_key) as client:
        results = verify_in_threads(client, [text, unknown] * 160)
    assert [bool(result) for result in results] == [True, False] * 160
    assert {result.account_id for result in results} == {tenant.account_id, None}


async def test_two_hundred_tasks_share_a_client(project: Project) -> None:
    tenants = [project.add_tenant() for _ in range(4)]
    names: dict[UUID, set[str]] = {tenant.account_id: set() for tenant in tenants}
    async with AsyncAudienceLab(project.url, project.service_role_key) as client:
        users = [client.as_user(project.access_token(tenant.user_id)) for tenant in tenants]

        async def one(number: int) -> None:
            user, tenant = users[number % 4], tenants[number % 4]
            key = await user.api_keys.create(tenant.account_id, f"key {number}")
            verification = await client.api_keys.verify(key.key)
            assert verification.account_id == tenant.account_id

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(one, number)
        for user, tenant in zip(users, tenants, strict=True):
            page = await user.api_keys.list(tenant.account_id, page_size=20)
            names[tenant.account_id] = {key.name async for key in page}
    for offset, tenant in enumerate(tenants):
        assert names[tenant.account_id] == {f"key {n}" for n in range(offset, 200, 4)}


def verify_often(client: AudienceLab, keys: Keys, times: int = 100) -> int:
    """Return how many verifications were of another key than the one sent."""
    wrong = 0
    for number in range(times):
        key, account_id = keys[number % len(keys)]
        wrong += client.api_keys.verify(key).account_id != account_id
    return wrong


def in_a_child(work: Callable[[], int]) -> Callable[[], int]:
    """Run `work` in a fork of this process. The returned function waits for its result."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        except BaseException:  # noqa: BLE001 - the child must not continue with the tests
            os._exit(99)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_workers_get_the_responses_to_their_own_requests(
    client: AudienceLab, keys: Keys
) -> None:
    assert verify_often(client, keys, 2) == 0
    for _ in range(int(os.environ.get("AUDIENCELAB_FORK_ROUNDS", "5"))):
        waits = [in_a_child(lambda: verify_often(client, keys)) for _ in range(4)]
        assert verify_often(client, keys) == 0
        assert [wait() for wait in waits] == [0] * 4


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_during_requests_of_other_threads(
    client: AudienceLab, keys: Keys, project: Project
) -> None:
    derived = client.with_options(timeout=20).as_user(project.access_token(UUID(int=0)))
    stop = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        busy = [
            threads.submit(
                lambda: [verify_often(client, keys, 10) for _ in iter(stop.is_set, True)]
            )
            for _ in range(8)
        ]
        time.sleep(0.2)
        waits = [
            in_a_child(lambda: verify_often(client, keys, 20) + len(derived.segments.list().items))
            for _ in range(4)
        ]
        assert [wait() for wait in waits] == [0] * 4
        stop.set()
        assert sum(sum(each.result()) for each in busy) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_closing_in_a_child_keeps_the_connections_of_the_parent(
    client: AudienceLab, keys: Keys
) -> None:
    assert verify_often(client, keys, 2) == 0

    def close() -> int:
        client.close()
        try:
            client.api_keys.verify(keys[0][0])
        except ClientClosedError:
            return 0
        return 1

    assert in_a_child(close)() == 0
    assert verify_often(client, keys) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_closed_client_stays_closed_in_a_child(client: AudienceLab, keys: Keys) -> None:
    client.close()

    def call() -> int:
        try:
            client.api_keys.verify(keys[0][0])
        except ClientClosedError:
            return 0
        return 1

    assert in_a_child(call)() == 0


_worker: AudienceLab | None = None


def verify_in_a_worker(url: str, key: str, keys: Keys) -> int:
    """Verify with the client of this process: the inherited one, or a new one."""
    global _worker  # noqa: PLW0603 - applications do this
    _worker = _worker or AudienceLab(url, key, max_retries=0)
    return verify_often(_worker, keys, 25)


@pytest.fixture
def close_worker() -> Iterator[None]:
    """Close the client of this process after the test."""
    global _worker  # noqa: PLW0603 - see above
    yield
    if _worker:
        _worker.close()
    _worker = None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.usefixtures("close_worker")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_pool_of_processes(project: Project, keys: Keys, method: str) -> None:
    arguments = (project.url, project.service_role_key, keys)
    assert verify_in_a_worker(*arguments) == 0
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        futures = [pool.submit(verify_in_a_worker, *arguments) for _ in range(8)]
        assert [future.result(timeout=60) for future in futures] == [0] * 8
    assert verify_in_a_worker(*arguments) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_an_asynchronous_client_in_a_forked_child(project: Project, keys: Keys) -> None:
    client = AsyncAudienceLab(project.url, project.service_role_key, max_retries=0)

    async def verify() -> int:
        wrong = 0
        for key, account_id in keys * 10:
            wrong += (await client.api_keys.verify(key)).account_id != account_id
        return wrong

    async def fork_within_the_loop() -> int:
        wrong = await verify()
        child = in_a_child(lambda: anyio.run(verify))
        wrong += await verify()
        return wrong + await anyio.to_thread.run_sync(child)

    assert asyncio.run(fork_within_the_loop()) == 0


@pytest.mark.parametrize(
    "run", [asyncio.run, anyio.run, trio.run], ids=["asyncio", "anyio", "trio"]
)
def test_one_event_loop_after_the_other(project: Project, keys: Keys, run: Any) -> None:
    client = AsyncAudienceLab(project.url, project.service_role_key, max_retries=0)

    async def verify() -> bool:
        return bool(await client.api_keys.verify(keys[0][0]))

    def call() -> bool:
        return bool(run(verify() if run is asyncio.run else verify))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [call() for _ in range(5)] == [True] * 5
        gc.collect()
    assert len(client._pool._by_loop) == 0


def test_several_event_loops_at_the_same_time(project: Project, keys: Keys) -> None:
    client = AsyncAudienceLab(project.url, project.service_role_key, max_retries=0)

    async def verify() -> int:
        wrong = 0
        for key, account_id in keys * 20:
            wrong += (await client.api_keys.verify(key)).account_id != account_id
        return wrong

    with ThreadPoolExecutor(6) as threads:
        runs = [lambda: asyncio.run(verify()), lambda: trio.run(verify)] * 3
        assert list(threads.map(lambda run: run(), runs)) == [0] * 6


def test_a_loop_that_ends_without_asyncio_run(project: Project, keys: Keys) -> None:
    client = AsyncAudienceLab(project.url, project.service_role_key, max_retries=0)

    async def verify() -> bool:
        return bool(await client.api_keys.verify(keys[0][0]))

    for _ in range(3):
        loop = asyncio.new_event_loop()
        try:
            assert loop.run_until_complete(verify())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    gc.collect()
    assert len(client._pool._by_loop) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_within_a_tracked_job(
    client: AudienceLab, keys: Keys, project: Project, tenant: Tenant
) -> None:
    user = client.as_user(project.access_token(tenant.user_id))
    job = user.enrichment.create(tenant.account_id, tenant.account_id, "email")
    with user.enrichment.track(job) as progress:
        waits = [in_a_child(lambda: verify_often(client, keys, 20)) for _ in range(4)]
        progress.advance(5)
        assert [wait() for wait in waits] == [0] * 4
        progress.advance(5)
    assert progress.job.status == "completed"
    assert progress.job.processed_records == 10


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_client_signs_its_tokens_in_children_of_a_busy_process(
    client: AudienceLab, project: Project, keys: Keys
) -> None:
    key = client.api_keys.verify(keys[0][0])
    assert key
    # So short that nearly every request signs, and that a fork finds the lock held.
    lifetime = timedelta(microseconds=1)
    as_key = client.as_api_key(key.api_key_id, jwt_secret=project.jwt_secret, expires_in=lifetime)

    def wrong(times: int = 30) -> int:
        return sum(as_key.api_keys.account_id() != key.account_id for _ in range(times))

    stop = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        busy = [
            threads.submit(lambda: [wrong(1) for _ in iter(stop.is_set, True)]) for _ in "x" * 8
        ]
        waits = [in_a_child(wrong) for _ in range(4)]
        assert [wait() for wait in waits] == [0] * 4
        stop.set()
        assert sum(sum(each.result()) for each in busy) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_client_of_a_supabase_session_after_a_fork(project: Project, keys: Keys) -> None:
    with AudienceLab.from_supabase(
        supabase.create_client(project.url, project.service_role_key), max_retries=0
    ) as client:
        assert verify_often(client, keys, 2) == 0
        waits = [in_a_child(lambda: verify_often(client, keys, 20)) for _ in range(4)]
        assert verify_often(client, keys, 20) == 0
        assert [wait() for wait in waits] == [0] * 4


APPLICATION = """
import os
from audiencelab_sdk import AudienceLab

client = AudienceLab.from_env(max_retries=0)
assert client.api_keys.verify(os.environ["EXAMPLE_KEY"])  # opens a connection before the fork

def application(environ, start_response):
    verification = client.api_keys.verify(environ["HTTP_X_API_KEY"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {verification.account_id}".encode()]
"""


def test_a_preloaded_gunicorn_application(project: Project, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--preload", "--workers=4", "--threads=4"),
                *(f"--bind=fd://{listener.fileno()}", "--log-level=warning", "application"),
            ],
            cwd=tmp_path,
            pass_fds=[listener.fileno()],
            env={
                **os.environ,
                "SUPABASE_URL": project.url,
                "SUPABASE_KEY": project.service_role_key,
                "EXAMPLE_KEY": keys[0][0],
            },
        )
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"

            def ask(number: int) -> tuple[str, bool]:
                key, account_id = keys[number % len(keys)]
                # Each on a connection of its own, so that all workers get some.
                response = httpx.get(address, headers={"X-API-Key": key}, timeout=30)
                pid, found = response.raise_for_status().text.split()
                return pid, found == str(account_id)

            with ThreadPoolExecutor(8) as threads:
                results = list(threads.map(ask, range(400)))
        finally:
            server.terminate()
            server.wait(timeout=30)
    assert all(is_right for _, is_right in results)
    assert len({pid for pid, _ in results}) > 1


def test_a_child_does_not_stop_the_stack_of_its_parent() -> None:
    script = """
import os, sys
from audiencelab_sdk import AudienceLab
from audiencelab_sdk.local import LocalStack

with LocalStack() as stack:
    pid = os.fork()
    if pid == 0:
        sys.exit()  # leaves the with block, and runs the atexit functions
    os.waitpid(pid, 0)
    with AudienceLab(stack.url, stack.service_role_key) as client:
        assert not client.api_keys.verify("sk_abcd")
        print(len(client.segments.list().items))
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
