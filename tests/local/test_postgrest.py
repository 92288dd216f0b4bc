"""A PostgREST program behind the gateway. The tests replace it with a stand-in."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from audiencelab_sdk.local import (
    LocalStack,
    LocalStackError,
    PostgrestNotFoundError,
    PostgrestStartError,
    _keeper_process,
    _postgrest_program,
)
from audiencelab_sdk.local._postgrest import find_postgrest
from tests._waiting import wait_until
from tests.local._signed import assert_signs_for_members

STAND_IN = Path(__file__).with_name("postgrest_stand_in.py")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "postgrest"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}"\n')
    file.chmod(0o755)
    return file


@pytest.fixture
def proxied(program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStack]:
    monkeypatch.setenv("AUDIENCELAB_POSTGREST_BIN", str(program))
    monkeypatch.setenv("PGRST_ODD", "left over")
    with LocalStack() as stack:
        yield stack


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int) -> None:
    wait_until(lambda: not is_alive(pid))


def test_it_serves_requests_behind_the_gateway(proxied: LocalStack) -> None:
    headers = {"apikey": proxied.service_role_key}
    with httpx.Client(base_url=f"{proxied.url}/rest/v1", headers=headers) as client:
        first = client.get("/roles?select=name&name=in.(owner,%22mem%62er%22)&order=name")
        assert first.json() == [{"name": "member"}, {"name": "owner"}]
        assert "stand-in" in first.headers
        body = '{"name": "gärtner", "hierarchy_level": 9}'
        made = client.post(
            "/roles",
            content=body.encode(),
            headers={"Content-Type": "application/json", "Prefer": "return=headers-only"},
        )
        assert made.status_code == 201
        assert made.headers["location"] == "/roles?name=eq.g%C3%A4rtner"
        head = client.head("/roles", headers={"Prefer": "count=exact"})
        assert (head.headers["content-range"], head.content) == ("0-2/3", b"")
        assert client.delete("/roles?name=eq.gärtner").status_code == 204
        missing = client.post("/rpc/nothing", json={})
        assert (missing.status_code, missing.json()["code"]) == (404, "PGRST202")
        streamed = client.post("/rpc/verify_api_key", content=iter([b'{"p_api_key"', b': "x"}']))
        assert streamed.json()["valid"] is False
        assert client.get("/roles", headers={"apikey": "wrong"}).status_code == 401
        preflight = client.options(
            "/roles", headers={"Origin": "https://a.b", "Access-Control-Request-Method": "GET"}
        )
        assert preflight.status_code == 200
    # The gateway passes the program's headers on and adds none of its own.
    assert first.headers.get_list("content-type") == ["application/json; charset=utf-8"]
    assert len(first.headers.get_list("date")) == 1


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_it_verifies_tokens_of_the_signing_keys(proxied: LocalStack, algorithm: str) -> None:
    assert_signs_for_members(proxied, algorithm)


def test_it_serves_requests_with_the_keys_that_are_no_jwt(proxied: LocalStack) -> None:
    def status(key: str) -> int:
        return httpx.get(f"{proxied.url}/rest/v1/roles", headers={"apikey": key}).status_code

    assert status(proxied.secret_key) == 200
    assert status(proxied.publishable_key) == 401


def test_it_is_stopped_with_the_stack(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with LocalStack(rest="postgrest") as stack:
        pid = pid_of(stack.url, stack.anon_key)
        assert is_alive(pid)
    assert not is_alive(pid)


def test_a_program_that_ends_is_a_bad_gateway(proxied: LocalStack) -> None:
    pid = pid_of(proxied.url, proxied.anon_key)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    response = httpx.get(f"{proxied.url}/rest/v1/roles", headers={"apikey": proxied.anon_key})
    assert response.status_code == 502
    assert list(response.json()) == ["message"]


def test_it_is_stopped_when_the_stack_is_killed(program: Path) -> None:
    script = (
        "import time\n"
        "from audiencelab_sdk.local import LocalStack\n"
        "with LocalStack() as stack:\n"
        "    print(stack.url, stack.anon_key, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = os.environ | {"AUDIENCELAB_POSTGREST_BIN": str(program)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        pid = pid_of(*child.stdout.readline().split())
        child.kill()
    wait_for_end(pid)


def test_it_is_stopped_while_it_starts(tmp_path: Path) -> None:
    program, pid_file = tmp_path / "postgrest", tmp_path / "pid"
    program.write_text(
        f'#!/bin/sh\necho $$ > "{pid_file}.new"\nmv "{pid_file}.new" "{pid_file}"\nexec sleep 60\n'
    )
    program.chmod(0o755)
    options = {"executable": str(program), "environment": dict(os.environ)}
    order = {"file": _postgrest_program.__file__, "options": options, "port": 0}
    with subprocess.Popen(
        [sys.executable, "-I", _keeper_process.__file__], stdin=subprocess.PIPE
    ) as keeper:
        assert keeper.stdin is not None
        keeper.stdin.write(json.dumps(order).encode() + b"\n")
        keeper.stdin.flush()
        wait_until(pid_file.exists)
        keeper.stdin.close()
        assert keeper.wait(10) == 0
    assert not is_alive(int(pid_file.read_text()))


def test_a_program_that_does_not_start(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIENCELAB_POSTGREST_BIN", str(program))
    monkeypatch.setenv("STAND_IN_FAILS", "1")
    with pytest.raises(PostgrestStartError, match="no luck today"):
        LocalStack().start()


def test_the_choice_of_the_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_postgrest(None) is None
    with pytest.raises(PostgrestNotFoundError, match="on the PATH"):
        find_postgrest("postgrest")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_postgrest(None) == program
    assert find_postgrest("embedded") is None
    with pytest.raises(LocalStackError, match="'embedded' or 'postgrest', not 'kong'"):
        LocalStack(rest=cast("Any", "kong")).start()
    monkeypatch.setenv("AUDIENCELAB_POSTGREST_BIN", str(program.with_name("other")))
    with pytest.raises(PostgrestNotFoundError, match="is not an executable"):
        find_postgrest(None)


def pid_of(url: str, key: str) -> int:
    """Return the process id of the stand-in, which it sends in a header."""
    response = httpx.get(f"{url}/rest/v1/roles", headers={"apikey": key})
    return int(response.headers["stand-in"])
