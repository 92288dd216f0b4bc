"""The pre-request function (`pgrst.db_pre_request`), with a pool of one connection."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests._waiting import wait_until

SQL = """
create schema gate;
grant usage on schema gate to anon, authenticated, service_role;
create function gate.other() returns void language plpgsql as
  $$ begin raise sqlstate 'PT418' using message = 'other ran'; end $$;
create sequence gate.runs;
create table gate.log (what text);
grant usage on sequence gate.runs to public;
grant insert on gate.log to public;
create table api.note (id integer primary key, body text);
grant all on api.note to service_role;
create function api.state() returns json language sql stable as $$ select json_build_object(
  'user', current_user, 'claims', current_setting('request.jwt.claims'),
  'path', current_setting('request.path'), 'mark', current_setting('gate.mark', true),
  'timeout', current_setting('statement_timeout')) $$;
create function api.headers() returns json language sql stable as
  $$ select current_setting('request.headers')::json $$;
create function api.run() returns bigint language sql volatile as $$ select nextval('gate.runs') $$;
create function api.broken() returns integer language sql volatile as $$ select 1 / 0 $$;
"""
NOTHING = "begin end"


class Gate:
    """The API and its pre-request function `gate.pre_request`."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.database = api.admin_url.rpartition("/")[2]

    def becomes(self, body: str, options: str = "") -> None:
        """Give the function another body."""
        self.api.execute(
            "create or replace function gate.pre_request() returns void "
            f"language plpgsql {options} as $$ {body} $$"
        )

    def raises(self, state: str, message: str = "no") -> None:
        """Let the function raise an error."""
        self.becomes(f"begin raise sqlstate '{state}' using message = '{message}'; end")

    def configure(self, value: str | None, notify: str = "notify pgrst, 'reload config'") -> None:
        """Set pgrst.db_pre_request for the login role in this database."""
        change = "reset pgrst.db_pre_request" if value is None else self.setting(value)
        self.api.execute(f"alter role authenticator in database {self.database} {change}; {notify}")

    def setting(self, value: str) -> str:
        """Return the part of an ALTER statement that sets pgrst.db_pre_request."""
        return f"set pgrst.db_pre_request = '{value}'"

    def ask(self, path: str = "/rpc/state", method: str = "GET", **options: Any) -> httpx.Response:
        response: httpx.Response = self.api.request(
            method, path, role=options.pop("role", None), **options
        )
        return response

    def status(self) -> int:
        return self.ask().status_code

    def one(self, query: str) -> Any:
        with psycopg.connect(self.api.admin_url) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture(scope="module")
def started(serve: Callable[..., Any]) -> Gate:
    return Gate(serve(SQL, pool_size=1))


@pytest.fixture
def gate(started: Gate) -> Iterator[Gate]:
    started.raises("PT499")
    started.configure("gate.pre_request")
    wait_until(lambda: started.status() == 499, timeout=5)
    started.becomes(NOTHING)
    started.api.execute("truncate api.note, gate.log")
    yield started
    started.api.execute("alter role authenticator reset pgrst.db_pre_request")


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("payload", ["", ", 'reload config'", ", 'reload schema'"])
def test_each_notification_reads_the_setting(gate: Gate, payload: str) -> None:
    gate.configure("gate.other", f"notify pgrst{payload}")
    wait_until(lambda: gate.status() == 418, timeout=5)


def test_the_setting_is_not_read_without_a_notification(gate: Gate) -> None:
    gate.configure("gate.other", notify="")
    assert gate.ask("/no_such_table").status_code == 404  # loads the schema cache only
    time.sleep(0.3)
    assert gate.status() == 200


def test_the_setting_in_the_database_wins_and_an_empty_one_switches_off(gate: Gate) -> None:
    gate.api.execute(f"alter role authenticator {gate.setting('gate.other')}; notify pgrst")
    gate.raises("PT402")
    wait_until(lambda: gate.status() == 402, timeout=5)
    gate.configure(None)
    wait_until(lambda: gate.status() == 418, timeout=5)
    gate.configure("")
    wait_until(lambda: gate.status() == 200, timeout=5)


def test_settings_of_the_database_and_of_other_roles_do_not_count(gate: Gate) -> None:
    other = gate.setting("gate.other")
    gate.raises("PT402")
    gate.api.execute(
        f"alter database {gate.database} {other};"
        f"alter role anon in database {gate.database} {other}"
    )
    gate.configure(None)
    wait_until(lambda: gate.status() != 402, timeout=5)
    assert gate.status() == 200


@pytest.mark.parametrize(
    ("name", "status", "code", "message"),
    [
        ("gate.nothing", 404, "42883", "function gate.nothing() does not exist"),
        ("pre_request", 404, "42883", "function pre_request() does not exist"),
        ("GATE.pre_request", 400, "3F000", 'schema "GATE" does not exist'),
        ("gate.a.b", 404, "42883", 'function gate.a.b() does not exist'),
        ("gate.other()", 404, "42883", 'function gate.other()() does not exist'),
    ],
)  # fmt: skip
def test_a_name_without_a_function_fails_each_request(
    gate: Gate, name: str, status: int, code: str, message: str
) -> None:
    gate.configure(name)
    wait_until(lambda: gate.status() == status, timeout=5)
    for method, path in (("GET", "/note"), ("POST", "/rpc/run"), ("DELETE", "/note?id=eq.1")):
        response = gate.ask(path, method)
        assert problem(response) == (status, code)
        assert response.json()["message"] == message
    assert gate.ask("/", "HEAD").status_code == status


def test_a_server_starts_with_a_missing_function(serve: Callable[..., Any]) -> None:
    api = serve(
        "do $$ begin execute format('alter role authenticator in database %I "
        "set pgrst.db_pre_request = %L', current_database(), 'gate.none'); end $$"
    )
    assert problem(api.request("GET", "/item")) == (400, "3F000")


def test_it_runs_as_the_role_of_the_token(gate: Gate) -> None:
    gate.api.execute(
        "revoke execute on function gate.pre_request() from public;"
        "grant execute on function gate.pre_request() to service_role"
    )
    try:
        response = gate.ask()
        assert problem(response) == (401, "42501")
        assert response.headers["www-authenticate"] == "Bearer"
        assert problem(gate.ask(role="authenticated")) == (403, "42501")
        assert gate.ask(role="service_role").json()["user"] == "service_role"
    finally:
        gate.api.execute("grant execute on function gate.pre_request() to public")


def test_the_statement_runs_as_the_role_that_it_switches_to(gate: Gate) -> None:
    gate.becomes(
        """begin
          perform set_config('request.jwt.claims', '{"sub":"x"}', true);
          perform set_config('role', 'service_role', true);
        end"""
    )
    state = gate.ask().json()
    assert (state["user"], state["claims"]) == ("service_role", '{"sub":"x"}')
    assert gate.ask("/note", "POST", json={"id": 1}).status_code == 201
    # A missing privilege is reported for the role of the token.
    gate.becomes("begin perform set_config('role', 'authenticated', true); end")
    assert problem(gate.ask("/note")) == (401, "42501")
    assert problem(gate.ask("/note", role="service_role")) == (403, "42501")


def test_after_its_error_the_statement_does_not_run(gate: Gate) -> None:
    before = gate.ask("/rpc/run", "POST").json()
    gate.raises("PT401")
    response = gate.ask("/rpc/run", "POST")
    assert problem(response) == (401, "PT401")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["proxy-status"] == "PostgREST; error=PT401"
    gate.becomes(NOTHING)
    assert gate.ask("/rpc/run", "POST").json() == before + 1


@pytest.mark.parametrize(
    ("state", "status"), [("PT204", 204), ("PT503", 503), ("PT999", 999), ("PTXYZ", 500)]
)
def test_an_error_can_have_any_status(gate: Gate, state: str, status: int) -> None:
    gate.raises(state)
    response = gate.ask()
    assert response.status_code == status
    assert response.headers.get("retry-after") == ("0" if status == 503 else None)
    assert (response.content == b"") == (status == 204)


def test_an_error_can_have_headers(gate: Gate) -> None:
    gate.becomes(
        """begin
          perform set_config('response.headers', '[{"X-Lost": "1"}]', true);
          raise sqlstate 'PGRST' using message = '{"code": "KEY", "message": "m"}',
            detail = '{"status": 429, "headers": {"Retry-After": "7"}}';
        end"""
    )
    response = gate.ask()
    assert problem(response) == (429, "KEY")
    assert response.headers["retry-after"] == "7"
    assert "x-lost" not in response.headers


def test_headers_and_status_without_an_error(gate: Gate) -> None:
    gate.becomes(
        """begin
          perform set_config('response.status', '202', true);
          perform set_config('response.headers',
            '[{"X-A": "1"}, {"X-A": "2"}, {"content-range": "x"}]', true);
        end"""
    )
    response = gate.ask()
    assert response.status_code == 202
    assert response.headers.get_list("x-a") == ["1", "2"]
    assert response.headers.get_list("content-range") == ["x"]
    root = gate.ask("/")
    assert (root.status_code, root.headers.get("x-a")) == (200, None)


def test_it_may_write_where_the_statement_may(gate: Gate) -> None:
    gate.becomes("begin insert into gate.log values ('x'); end")
    for method, path in (("GET", "/rpc/run"), ("POST", "/rpc/state"), ("GET", "/note")):
        assert problem(gate.ask(path, method)) == (405, "25006")
    assert gate.ask("/", "HEAD").status_code == 405
    assert gate.ask("/rpc/run", "POST").status_code == 200
    assert gate.one("select count(*) from gate.log") == 1
    assert problem(gate.ask("/rpc/broken", "POST")) == (400, "22012")
    assert gate.one("select count(*) from gate.log") == 1


def test_faults_that_the_server_finds_itself_come_first(gate: Gate) -> None:
    gate.raises("PT418")
    assert problem(gate.ask("/nothing")) == (404, "PGRST205")
    assert problem(gate.ask("/note?id=1")) == (400, "PGRST100")
    assert problem(gate.ask("/note", "POST", json={"nothing": 1})) == (400, "PGRST204")
    assert gate.ask("/note", "OPTIONS").status_code == 200
    for path in ("/note?nothing=eq.1", "/note?id=eq.x", "/note?select=id::nothing", "/note"):
        assert problem(gate.ask(path)) == (418, "PT418")
    assert gate.ask("/note", "HEAD").status_code == 418


def test_nothing_remains_for_the_next_request(gate: Gate) -> None:
    gate.becomes(
        """begin
          perform set_config('role', 'service_role', true);
          perform set_config('gate.mark', 'x', true);
          perform set_config('statement_timeout', '4s', true);
          perform set_config('response.headers', '[{"X-A": "1"}]', true);
        end"""
    )
    with_mark = gate.ask()
    assert with_mark.headers["x-a"] == "1"
    assert (with_mark.json()["mark"], with_mark.json()["timeout"]) == ("x", "4s")
    assert problem(gate.ask("/note?nothing=eq.1")) == (400, "42703")
    gate.becomes(NOTHING)
    response = gate.ask()
    assert "x-a" not in response.headers
    state = response.json()
    assert (state["user"], state["timeout"]) == ("anon", "8s")
    assert not state["mark"]


def test_it_is_canceled_when_the_client_leaves(gate: Gate) -> None:
    gate.becomes("begin perform set_config('role', 'service_role', true); perform pg_sleep(7); end")
    with pytest.raises(httpx.ReadTimeout):
        gate.ask(timeout=0.3)
    gate.becomes(NOTHING)
    assert gate.ask(timeout=5).json()["user"] == "anon"


def test_a_conflict_is_tried_again_but_not_for_ever(gate: Gate) -> None:
    first = gate.one("select nextval('gate.runs')")
    gate.becomes(
        f"begin if nextval('gate.runs') < {first + 4} then raise sqlstate '40001'; end if; end"
    )
    assert gate.ask("/rpc/run", "POST").json() == first + 5
    gate.raises("40P01")
    assert problem(gate.ask(timeout=5)) == (500, "40P01")


def test_the_type_of_the_result_must_not_change(gate: Gate) -> None:
    assert gate.status() == 200
    gate.api.execute(
        "drop function gate.pre_request();"
        "create function gate.pre_request() returns integer language sql return 1"
    )
    try:
        assert problem(gate.ask()) == (400, "0A000")
    finally:
        gate.api.execute("drop function gate.pre_request()")


def test_of_a_header_sent_twice_it_sees_the_last(gate: Gate) -> None:
    headers = [("X-Key", "first"), ("x-key", "last"), ("Cookie", "a=1"), ("X-Text", "grüße")]
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    seen = gate.api.client.get("/rpc/headers", headers=encoded).json()
    assert (seen["x-key"], seen["x-text"], seen.get("cookie")) == ("last", "grüße", None)


def test_it_sees_the_path_as_it_was_sent(gate: Gate) -> None:
    assert gate.ask("/rpc/st%61te").json()["path"] == "/rpc/st%61te"
