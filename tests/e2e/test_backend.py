"""An application on uvicorn: keys, usage and signals, over HTTP."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncKeyAuthenticator,
    AudienceLab,
    KeyAuthenticator,
    UsageEvent,
    UsageRecorder,
)
from audiencelab_sdk.local._keeper_process import free_port
from tests._waiting import wait_until
from tests.e2e._scenarios import READ_SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from audiencelab_sdk import CreatedApiKey
    from tests.e2e._project import Project, Tenant

APPLICATION = """
import asyncio
import os
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from audiencelab_sdk import AsyncAudienceLab
from audiencelab_sdk.fastapi import ApiKeyAuth, Caller, install_error_handlers

auth = ApiKeyAuth(
    AsyncAudienceLab.from_env(max_retries=0),
    usage=True,
    limit=os.environ.get("LIMIT"),
    limit_storage=os.environ.get("LIMIT_STORAGE", "memory://"),
)
app = FastAPI(lifespan=auth.lifespan)
install_error_handlers(app)
Reader = Annotated[Caller, auth.require("segment", "read", id="segment_id")]

@app.get("/v1/segments/{segment_id}")
async def read_segment(segment_id: str, caller: Reader) -> str:
    return str(caller.account_id)

@app.get("/fail/{segment_id}")
async def fail(segment_id: str, caller: Reader) -> str:
    raise ZeroDivisionError

@app.get("/stream/{segment_id}")
async def stream(segment_id: str, caller: Reader) -> StreamingResponse:
    async def parts():
        for _ in range(1000):
            yield b"x" * 10_000
            await asyncio.sleep(0.01)
    return StreamingResponse(parts())

@app.websocket("/socket")
async def socket(websocket: WebSocket, caller: Annotated[Caller, auth.require("segment", "read")]):
    await websocket.accept()
    await websocket.send_text(caller.name)
    await websocket.close()
"""


class Application:
    """A running uvicorn."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    def get(self, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"X-API-Key": key} if key is not None else {}
        return httpx.get(self.url + path, headers=headers, timeout=30, **options)

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send a signal, and return what the server has printed."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[0]


@contextmanager
def running(
    project: Project, folder: Path, *options: str, url: str = "", **environment: str
) -> Iterator[Application]:
    (folder / "application.py").write_text(APPLICATION)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "uvicorn", "application:app"),
                *("--fd", str(listener.fileno()), *options),
            ],
            cwd=folder,
            pass_fds=[listener.fileno()],
            env={
                **os.environ,
                "SUPABASE_URL": url or project.url,
                "SUPABASE_KEY": project.service_role_key,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        port = listener.getsockname()[1]
    # The listener is closed here, so that connections are refused when the server has ended.
    try:
        yield Application(process, port)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def key(project: Project, tenant: Tenant) -> CreatedApiKey:
    with AudienceLab(project.url, project.service_role_key) as client:
        user = client.as_user(project.access_token(tenant.user_id))
        return user.api_keys.create(tenant.account_id, "reader", scopes=[READ_SEGMENTS])


def logged(project: Project, key: CreatedApiKey) -> list[tuple[str, int | None]]:
    rows = project.sql(
        "select endpoint, status_code from api_keys_private.api_key_logs where api_key_id = %s",
        key.id,
    )
    return sorted((row["endpoint"], row["status_code"]) for row in rows)


def test_requests(project: Project, key: CreatedApiKey, tmp_path: Path) -> None:
    text = key.key.get_secret_value()
    with running(project, tmp_path) as app:
        assert app.get("/v1/segments/1", text).json() == str(key.account_id)
        assert app.get("/fail/1", text).status_code == 500
        for wrong in ("sk_no", "'; --", "A" * 5000):
            response = app.get("/v1/segments/1", wrong)
            assert response.status_code == 401
            assert response.headers["content-type"] == "application/problem+json"
        assert app.get("/v1/segments/1").headers["www-authenticate"] == "Bearer"
        several = [("X-API-Key", text)] * 10
        response = httpx.get(f"{app.url}/v1/segments/1", headers=several, timeout=30)
        assert response.status_code == 400
        for raw in (b"A" * 1_000_000, b"sk_\0"):  # refused by uvicorn itself
            assert status_of(app.port, raw) == 400
        with httpx.stream("GET", f"{app.url}/stream/1", headers={"X-API-Key": text}) as response:
            next(response.iter_bytes())  # and closes the connection
        with connect(
            f"ws://127.0.0.1:{app.port}/socket", additional_headers={"X-API-Key": text}
        ) as ws:
            assert ws.recv() == "reader"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{app.port}/socket")
        assert refused.value.response.status_code == 401
        assert app.get("/openapi.json").json()["components"]["securitySchemes"]["ApiKey"]
        output = app.end()
    assert text not in output
    assert output.count("Traceback") == 1  # of the handler that fails
    assert logged(project, key) == [
        ("/fail/{segment_id}", 500),
        ("/socket", 101),
        ("/stream/{segment_id}", 200),
        ("/v1/segments/{segment_id}", 200),
    ]


def status_of(port: int, header: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with suppress(OSError):  # the server may have answered and closed the connection
            connection.sendall(
                b"GET /v1/segments/1 HTTP/1.1\r\nHost: x\r\nX-API-Key: " + header + b"\r\n\r\n"
            )
        return int(connection.recv(100).split()[1])


@contextmanager
def redis(port: int) -> Iterator[None]:
    """Run a Redis server until the end of the block."""
    # Debian's package redis-tools has no service, but the same program under another name.
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if program is None:
        if "CI" in os.environ:
            pytest.fail("Redis is not installed: apt-get install redis-tools")
        pytest.skip("needs Redis: apt-get install redis-tools")
    options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "")
    with subprocess.Popen(
        ["redis-server", *options], executable=program, stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: is_listening(port))
            yield
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_all_processes_count_in_one_redis(
    project: Project, key: CreatedApiKey, tmp_path: Path
) -> None:
    port, text = free_port(), key.key.get_secret_value()
    environment = {"LIMIT": "4/minute", "LIMIT_STORAGE": f"redis://127.0.0.1:{port}/0"}
    with (
        running(project, tmp_path, **environment) as one,
        running(project, tmp_path, **environment) as other,
    ):
        with redis(port):
            answers = [app.get("/v1/segments/1", text) for app in (one, other) * 3]
            assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
            remaining = [answer.headers["ratelimit-remaining"] for answer in answers]
            assert remaining == ["3", "2", "1", "0", "0", "0"]
            assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        for app in (one, other):  # each for itself, without Redis
            answer = app.get("/v1/segments/1", text)
            assert answer.status_code == 200
            assert answer.headers["ratelimit-remaining"] == "3"
        output = one.end() + other.end()
    assert output.count("each process limits requests by itself") == 2
    assert "Traceback" not in output


def ask_until(stop: threading.Event, app: Application, text: str, answered: list[float]) -> None:
    with httpx.Client(headers={"X-API-Key": text}, timeout=30) as client:
        while not stop.is_set():
            try:
                assert client.get(f"{app.url}/v1/segments/1").status_code == 200
            except httpx.TransportError:
                return
            answered.append(time.monotonic())


def under_load(app: Application, text: str, number: int, seconds: float) -> list[float]:
    """Send requests until the server ends, and a signal after some seconds.

    Returns how many seconds before the signal each request was answered.
    """
    stop, answered = threading.Event(), list[float]()
    threads = [
        threading.Thread(target=ask_until, args=(stop, app, text, answered)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    told = time.monotonic()
    app.end(number)
    stop.set()
    for thread in threads:
        thread.join()
    return [told - moment for moment in answered]


@pytest.mark.parametrize("options", [(), ("--timeout-graceful-shutdown", "2")])
def test_sigterm_under_load_loses_nothing(
    project: Project, key: CreatedApiKey, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with running(project, tmp_path, "--no-access-log", *options) as app:
        app.get("/v1/segments/1", key.key.get_secret_value())
        answered = len(under_load(app, key.key.get_secret_value(), signal.SIGTERM, 2.5))
    # A request whose response was lost with the connection was answered and logged, too.
    assert answered + 1 <= len(logged(project, key)) <= answered + 5


def test_sigkill_loses_a_second(project: Project, key: CreatedApiKey, tmp_path: Path) -> None:
    text = key.key.get_secret_value()
    with running(project, tmp_path, "--no-access-log") as app:
        app.get("/v1/segments/1", text)
        wait_until(lambda: logged(project, key))
        ages = under_load(app, text, signal.SIGKILL, 5)
    # A second, and two more on a machine with other load.
    early = [age for age in ages if age > 3]
    assert early
    assert len(logged(project, key)) >= 1 + len(early)


def test_a_revoked_key(project: Project, key: CreatedApiKey) -> None:
    with AudienceLab(project.url, project.service_role_key) as client:
        authenticator = KeyAuthenticator(client)
        other_process = KeyAuthenticator(client, max_age=0.5)
        for each in (authenticator, other_process):
            assert each.authenticate(key.key)
        client.api_keys.disable(key.id)
        assert not authenticator.authenticate(key.key)
        client.api_keys.enable(key.id)
        assert authenticator.authenticate(key.key)
        assert other_process.authenticate(key.key)
        project.sql("update api_keys_private.api_keys set is_active = false where id = %s", key.id)
        assert authenticator.authenticate(key.key)  # for 30 seconds
        time.sleep(0.5)
        assert not other_process.authenticate(key.key)


def test_several_event_loops_share_an_authenticator(project: Project, key: CreatedApiKey) -> None:
    client = AsyncAudienceLab(project.url, project.service_role_key, max_retries=0)
    authenticator = AsyncKeyAuthenticator(client)

    async def authenticate() -> int:
        valid = 0
        for _ in range(50):
            valid += bool(await authenticator.authenticate(key.key))
            await client.api_keys.enable(key.id)  # forgets it
        return valid

    with ThreadPoolExecutor(6) as threads:
        runs = [lambda: asyncio.run(authenticate()), lambda: trio.run(authenticate)] * 3
        assert list(threads.map(lambda run: run(), runs)) == [50] * 6


def test_the_database_is_away(project: Project, key: CreatedApiKey, tmp_path: Path) -> None:
    with running(project, tmp_path, url="http://127.0.0.1:9") as app:
        response = app.get("/v1/segments/1", key.key.get_secret_value())
        assert response.status_code == 503
        assert "127.0.0.1" not in response.text
        output = app.end()
    assert "API keys cannot be checked" in output
    assert key.key.get_secret_value() not in output
    assert "Traceback" not in output


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_children_log_their_own_requests(project: Project, key: CreatedApiKey) -> None:
    with AudienceLab(project.url, project.service_role_key) as client:
        authenticator, recorder = KeyAuthenticator(client), UsageRecorder(client)

        def record(endpoint: str) -> None:
            caller = authenticator.authenticate(key.key)
            assert caller
            recorder.record(
                UsageEvent(api_key_id=caller.api_key_id, endpoint=endpoint, method="GET")
            )

        record("/parent")
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    record(f"/{number}")
                    recorder.close()
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 3
        recorder.close()
    endpoints = [endpoint for endpoint, _ in logged(project, key)]
    assert endpoints == ["/0", "/1", "/2", "/parent"]


def test_the_end_of_a_process_sends_what_is_left(project: Project, key: CreatedApiKey) -> None:
    script = """
import sys
from uuid import UUID
from audiencelab_sdk import AudienceLab, UsageEvent, UsageRecorder

recorder = UsageRecorder(AudienceLab.from_env())
for number in range(700):
    recorder.record(UsageEvent(api_key_id=UUID(sys.argv[1]), endpoint="/", method="GET"))
"""
    environment = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.service_role_key}
    command = [sys.executable, "-c", script, str(key.id)]
    subprocess.run(command, env=os.environ | environment, check=True, timeout=60)
    assert len(logged(project, key)) == 700
