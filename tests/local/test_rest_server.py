"""The server under load, with lost connections, changed schemas and odd requests."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from audiencelab_sdk.local import LocalStack
from audiencelab_sdk.local._migrate import as_role
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests._waiting import wait_until

SECRET = "conformance-secret-that-is-at-least-32-bytes"
SQL = """
create function api.slow(p_seconds double precision) returns void language sql volatile
  begin atomic select pg_sleep(p_seconds); end;
create function api.who() returns text language sql stable
  return current_setting('request.jwt.claims')::json ->> 'sub';
"""


@pytest.fixture(scope="module")
def api(serve: Callable[[str], Any]) -> Any:
    return serve(SQL)


def connections(api: Any) -> list[int]:
    with psycopg.connect(api.admin_url) as connection:
        rows = connection.execute(
            "select pid from pg_stat_activity "
            "where usename = 'authenticator' and datname = current_database()"
        ).fetchall()
    return [pid for (pid,) in rows]


def terminate_connections(api: Any) -> None:
    with psycopg.connect(api.admin_url) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where usename = 'authenticator' and datname = current_database()"
        )


def postmaster(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def wait_for_sleeper(api: Any) -> None:
    query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    with psycopg.connect(api.admin_url, autocommit=True) as connection:
        wait_until(lambda: connection.execute(query).fetchone() != (0,), timeout=5)


def test_32_threads_each_see_their_own_identity(api: Any) -> None:
    def ask(number: int) -> None:
        token = api.token("authenticated", sub=f"user {number}")
        with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {token}"}) as client:
            for _ in range(10):
                response = client.post("/rpc/who")
                assert response.json() == f"user {number}"

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))


async def test_200_tasks_on_one_client(api: Any) -> None:
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=api.url, limits=limits, timeout=30) as client:
        responses = await asyncio.gather(
            *(client.post("/rpc/add", json={"a": number, "b": 0}) for number in range(200))
        )
    assert [response.json() for response in responses] == list(range(200))


def test_a_terminated_connection_is_not_reused(api: Any) -> None:
    for _ in range(3):
        terminate_connections(api)
        time.sleep(0.05)
        for _ in range(5):
            assert api.request("POST", "/rpc/add", json={"a": 1}).json() == 11


def test_a_connection_terminated_during_a_request(api: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(api.request, "POST", "/rpc/slow", json={"p_seconds": 5})
        wait_for_sleeper(api)
        terminate_connections(api)
        response = under_way.result(10)
    assert response.status_code == 503
    assert response.json()["code"] in {"57P01", "PGRST001"}
    assert api.request("POST", "/rpc/add", json={"a": 1}).json() == 11


def test_a_long_statement_times_out(api: Any) -> None:
    api.execute("alter role authenticator set statement_timeout = '300ms'")
    try:
        terminate_connections(api)
        response = api.request("POST", "/rpc/slow", json={"p_seconds": 5})
    finally:
        api.execute("alter role authenticator set statement_timeout = '8s'")
        terminate_connections(api)
    assert (response.status_code, response.json()["code"]) == (500, "57014")


def test_a_disconnected_client_leaks_no_connection(api: Any) -> None:
    for _ in range(15):
        with pytest.raises(httpx.ReadTimeout):
            api.request("POST", "/rpc/slow", json={"p_seconds": 0.5}, timeout=0.05)
    assert api.request("POST", "/rpc/add", json={"a": 1}, timeout=10).json() == 11
    assert len(connections(api)) <= 11  # ten of the pool and one of the listener


def test_the_statement_of_a_disconnected_client_is_canceled(api: Any) -> None:
    with pytest.raises(httpx.ReadTimeout):
        api.request("POST", "/rpc/slow", json={"p_seconds": 7}, timeout=0.3)
    query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    with psycopg.connect(api.admin_url, autocommit=True) as connection:
        wait_until(lambda: connection.execute(query).fetchone() == (0,), timeout=3)
    assert api.request("POST", "/rpc/add", json={"a": 1}).json() == 11


def test_a_truncated_body(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    address = (api.client.base_url.host, api.client.base_url.port)
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"POST /rpc/add HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b'{"a": 1'
        )
        time.sleep(0.1)
    time.sleep(0.3)
    assert api.request("POST", "/rpc/add", json={"a": 1}).json() == 11
    assert caplog.text == ""


def test_a_terminated_connection_is_a_503_and_logs_no_ignored_error(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(api.request, "POST", "/rpc/slow", json={"p_seconds": 5})
        wait_for_sleeper(api)
        terminate_connections(api)
        assert under_way.result(10).status_code == 503
    assert "error ignored" not in caplog.text


def test_postgres_restarts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = PostgresServer(port=port, data_dir=folder)
    with server:
        with psycopg.connect(server.admin_url) as connection:
            connection.execute(
                "create role anon; create table note as select 1 as n; grant select on note to anon"
            )
        settings = Settings(db_url=server.admin_url, jwt_secret=SECRET)
        rest = BackgroundServer(create_app(settings))
        url = f"http://127.0.0.1:{rest.start()}/note"
        try:
            assert httpx.get(url).json() == [{"n": 1}]
            os.kill(postmaster(folder), signal.SIGKILL)
            down = httpx.get(url, timeout=20)
            assert down.status_code in {503, 504}
            server.stop()
            server.start()
            wait_until(lambda: httpx.get(url, timeout=20).json() == [{"n": 1}], timeout=20)
        finally:
            rest.stop()


def test_a_new_table_is_available_at_once(api: Any) -> None:
    assert api.request("GET", "/latecomer").status_code == 404
    time.sleep(1.1)  # unknown names reload the schema at most once a second
    api.execute("create table api.latecomer (id int); grant select on api.latecomer to anon")
    assert api.get("/latecomer", role=None) == []


def test_the_body_survives_a_schema_reload(api: Any) -> None:
    time.sleep(1.1)
    api.execute("create function api.late(a int) returns int language sql return a")
    assert api.request("POST", "/rpc/late", json={"a": 3}).json() == 3


def test_a_notification_reloads_the_schema(api: Any) -> None:
    api.execute("create function api.change() returns int language sql return 1")
    api.execute("notify pgrst")
    wait_until(lambda: api.request("POST", "/rpc/change").status_code != 404, timeout=5)
    api.execute(
        "drop function api.change(); "
        "create function api.change() returns setof int language sql begin atomic select 1; end; "
        "notify pgrst, 'reload schema'"
    )
    wait_until(lambda: api.request("POST", "/rpc/change").json() == [1], timeout=5)


def test_max_rows(api: Any) -> None:
    response = api.request(
        "POST", "/rpc/rows_of?select=n", json={"p_n": 1500}, headers={"Prefer": "count=exact"}
    )
    assert response.headers["content-range"] == "0-999/1500"
    assert len(api.get("/rpc/rows_of?p_n=1500&limit=1200")) == 1000


def test_a_large_body_is_rejected(api: Any) -> None:
    body = b'{"p_doc": "' + b"x" * (10 * 1024 * 1024) + b'"}'
    response = api.request("POST", "/rpc/json_echo", content=body)
    assert response.status_code == 413
    nearly = b'{"p_doc": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    assert api.request("POST", "/rpc/json_echo", content=nearly).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a": NaN}', b"\xff", b'{"a": 1', b'"\x00"', b"{'a': 1}"],
    ids=["deep", "NaN", "not UTF-8", "cut off", "NUL", "quotes"],
)
def test_invalid_json(api: Any, body: bytes) -> None:
    response = api.request("POST", "/rpc/json_echo", content=body)
    assert (response.status_code, response.json()["code"]) == (400, "PGRST102")


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800"])
def test_escapes_that_postgres_cannot_store(api: Any, text: str) -> None:
    response = api.request("POST", "/rpc/new_id", content=f'{{"p_name": "{text}"}}')
    assert response.status_code == 400
    assert response.json()["code"].startswith("22P0")


def test_a_role_that_does_not_exist(api: Any) -> None:
    response = api.request("GET", "/item", role="nobody_at_all")
    assert (response.status_code, response.json()["code"]) == (401, "22023")
    response = api.request("GET", "/item", role="postgres")
    assert (response.status_code, response.json()["code"]) == (403, "42501")


def test_the_gateway(stack: LocalStack) -> None:
    def get(path: str, **headers: str) -> httpx.Response:
        encoded = {key.encode(): value.encode() for key, value in headers.items()}
        return httpx.get(f"{stack.url}{path}", headers=encoded)

    for path in ("/", "/auth/v1/user", "/rest/v1x", "/rest/v2/accounts"):
        assert (get(path).status_code, list(get(path).json())) == (404, ["message"])
    missing = get("/rest/v1/accounts")
    assert (missing.status_code, list(missing.json())) == (401, ["message"])
    wrong = get("/rest/v1/accounts", apikey="wrong é")
    assert wrong.status_code == 401
    as_anon = get("/rest/v1/accounts", apikey=stack.anon_key)
    assert (as_anon.status_code, as_anon.json()["code"]) == (401, "42501")
    as_service = get("/rest/v1/accounts?select=id&limit=1", apikey=stack.service_role_key)
    assert as_service.status_code == 200
    token = stack.access_token(stack.create_user())
    as_user = get(
        "/rest/v1/accounts?select=id", apikey=stack.anon_key, Authorization=f"Bearer {token}"
    )
    assert as_user.json() == []


def test_the_gateway_allows_cors_requests(stack: LocalStack) -> None:
    response = httpx.options(
        f"{stack.url}/rest/v1/accounts",
        headers={"Origin": "https://app.example", "Access-Control-Request-Method": "GET"},
    )
    assert response.status_code == 200


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_command_serves_any_database(api: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "audiencelab_sdk.local.rest"),
        *("--db-url", as_role(api.admin_url, "authenticator"), "--schemas", "api"),
        *("--anon-role", "anon", "--jwt-secret", SECRET, "--port", str(port)),
    ]
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: listens(port))
            url = f"http://127.0.0.1:{port}/rpc/add"
            assert httpx.post(url, json={"a": 2}).json() == 12
        finally:
            os.kill(server.pid, signal.SIGTERM)
        server.wait(10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--db-url", "postgresql://127.0.0.1:1/x", "--jwt-secret", "short"], "at least 32 bytes"),
        (["--db-url", "postgresql://127.0.0.1:1/x", "--jwt-secret", SECRET], "cannot be reached"),
    ],
)
def test_the_command_reports_errors(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "audiencelab_sdk.local.rest", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_thread_remains(stack: LocalStack) -> None:
    before = threading.active_count()
    with LocalStack():
        assert threading.active_count() > before
    assert threading.active_count() == before
