"""The stack as its users see it: keys, users, accounts, start and stop."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from audiencelab_sdk.local import LocalStack, LocalStackError, _keys
from tests._waiting import wait_until
from tests.local._signed import assert_signs_for_members

HEADER = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."


def rpc(stack: LocalStack, name: str, token: str | None = None, **arguments: object) -> object:
    headers = {"apikey": stack.anon_key}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    response = httpx.post(f"{stack.url}/rest/v1/rpc/{name}", headers=headers, json=arguments)
    response.raise_for_status()
    return response.json()


def test_the_keys_are_those_of_supabase_start() -> None:
    stack = LocalStack()
    assert stack.jwt_secret == "super-secret-jwt-token-with-at-least-32-characters-long"
    assert stack.anon_key == (
        HEADER + "eyJpc3MiOiJzdXBhYmFzZS1kZW1vIiwicm9sZSI6ImFub24iLCJleHAiOjE5ODM4MTI5OTZ9."
        "CRXP1A7WOeoJeXxjNni43kdQwgnWNReilDMblYTn_I0"
    )
    assert stack.service_role_key == (
        HEADER + "eyJpc3MiOiJzdXBhYmFzZS1kZW1vIiwicm9sZSI6InNlcnZpY2Vfcm9sZSIsImV4cCI6MTk4MzgxMjk5"
        "Nn0.EGIM96RAZx35lJzdJsyH-qQwv8Hdp7fsn3W0YpN81IU"
    )
    assert stack.publishable_key == "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"
    assert stack.secret_key == "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"
    assert json.loads(stack.signing_key)["kid"] == "b81269f1-21d8-4f2e-b719-c2240a840d90"


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_signing_key_signs_tokens_that_the_stack_accepts(
    stack: LocalStack, algorithm: str
) -> None:
    assert_signs_for_members(stack, algorithm)


def test_the_keys_that_verify_tokens_contain_no_private_key(stack: LocalStack) -> None:
    verifying = _keys.verifying_keys()
    for text in (stack.signing_key, stack.rsa_signing_key):
        private = {json.loads(text)[name] for name in ("d", "p", "q") if name in json.loads(text)}
        assert private
        assert not [secret for secret in private if secret in verifying]


def test_a_member_creates_a_key(stack: LocalStack) -> None:
    owner = stack.create_user("owner@example.com")
    account = stack.create_account("Acme", owner=owner)
    created = rpc(
        stack,
        "create_api_key",
        stack.access_token(owner),
        p_account_id=str(account),
        p_name="ci",
        p_scopes=[],
    )
    assert isinstance(created, dict)
    assert created["account_id"] == str(account)


def test_a_stranger_cannot_create_a_key(stack: LocalStack) -> None:
    account = stack.create_account("Acme", owner=stack.create_user())
    stranger = stack.access_token(stack.create_user())
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        rpc(stack, "list_api_keys", stranger, p_account_id=str(account))


def test_an_added_member_can_create_a_key(stack: LocalStack) -> None:
    account = stack.create_account("Acme", owner=stack.create_user())
    member = stack.create_user()
    stack.add_member(account, member)
    assert rpc(stack, "list_api_keys", stack.access_token(member), p_account_id=str(account)) == []


def test_an_expired_token(stack: LocalStack) -> None:
    token = stack.access_token(uuid4(), expires_in=timedelta(minutes=-1))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        rpc(stack, "list_api_keys", token, p_account_id=str(uuid4()))


def test_an_account_of_an_unknown_user(stack: LocalStack) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        stack.create_account("Acme", owner=uuid4())


def test_the_database_url_is_not_a_superusers(stack: LocalStack) -> None:
    with psycopg.connect(stack.db_url) as connection:
        row = connection.execute(
            "select current_user, rolsuper from pg_roles where rolname = current_user"
        ).fetchone()
    assert row == ("postgres", False)


def test_repr_shows_the_url_and_no_key(stack: LocalStack) -> None:
    assert repr(stack) == f"<LocalStack {stack.url}>"
    assert repr(LocalStack()) == "<LocalStack not running>"
    assert stack._running is not None
    assert "postgres:postgres" not in repr(stack._running)


def test_use_before_start() -> None:
    stack = LocalStack()
    for use in (lambda: stack.url, lambda: stack.db_url, stack.create_user):
        with pytest.raises(LocalStackError, match="not running"):
            use()


def test_starting_twice_stopping_twice_and_again() -> None:
    stack = LocalStack()
    stack.start()
    try:
        with pytest.raises(LocalStackError, match="already running"):
            stack.start()
        user = stack.create_user()
    finally:
        stack.stop()
    stack.stop()
    with pytest.raises(LocalStackError, match="not running"):
        _ = stack.url
    with stack, psycopg.connect(stack.db_url) as connection:
        # The database is new and has no data of the first one.
        found = connection.execute("select from auth.users where id = %s", (user,)).fetchone()
        assert found is None


def test_two_stacks_at_once(stack: LocalStack) -> None:
    with LocalStack() as other:
        assert other.url != stack.url
        user = other.create_user("only@other.example")
        assert isinstance(user, UUID)
        with psycopg.connect(stack.db_url) as connection:
            found = connection.execute("select from auth.users where id = %s", (user,)).fetchone()
        assert found is None


def test_a_taken_port_leaves_nothing_running() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stack = LocalStack(port=taken.getsockname()[1])
        with pytest.raises(LocalStackError, match="cannot be used"):
            stack.start()
    assert threading.active_count() == before
    assert repr(stack) == "<LocalStack not running>"


async def test_as_an_async_context_manager() -> None:
    async with LocalStack() as stack, httpx.AsyncClient() as client:
        response = await client.post(
            f"{stack.url}/rest/v1/rpc/verify_api_key",
            headers={"apikey": stack.service_role_key},
            json={"p_api_key": "sk_no"},
        )
    assert response.json()["valid"] is False
    with pytest.raises(LocalStackError, match="not running"):
        _ = stack.url


async def test_it_stops_when_the_task_is_cancelled() -> None:
    stack = LocalStack()
    entered = asyncio.Event()

    async def use() -> None:
        async with stack:
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    await asyncio.wait_for(entered.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert repr(stack) == "<LocalStack not running>"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_remains_after_a_signal(number: signal.Signals) -> None:
    script = (
        "import signal, time, psycopg\n"
        "from audiencelab_sdk.local import LocalStack\n"
        # Children of a process that was started in the background ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with LocalStack() as stack:\n"
        "    with psycopg.connect(stack.db_url) as c:\n"
        "        print(c.execute('show data_directory').fetchone()[0], flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        data = Path(child.stdout.readline().strip())
        assert (data / "PG_VERSION").exists()
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        child.send_signal(number)
        child.wait(20)
    wait_until(lambda: not data.parent.exists())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_the_extra_the_import_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['starlette'] = None\n"
        "try:\n"
        "    import audiencelab_sdk.local\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'audiencelab-sdk[local]'" in done.stdout
