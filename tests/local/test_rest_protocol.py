"""Details of requests and responses that PostgREST has in common with this server."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests._waiting import wait_until

SQL = """
create function api.zone() returns text language sql stable as
  $$ select current_setting('timezone') $$;
create function api.timeout() returns text language sql stable as
  $$ select current_setting('statement_timeout') $$;
create function api.respond(p_headers text) returns integer language sql volatile as
  $$ select set_config('response.headers', p_headers, true); select 1 $$;
create function api.secret() returns integer language sql immutable return 1;
revoke execute on function api.secret() from public;
"""


@pytest.fixture(scope="module")
def api(serve: Callable[..., Any]) -> Any:
    return serve(SQL)


@pytest.fixture
def role_settings(api: Any) -> Iterator[Callable[[str, str], None]]:
    """Changes a role, notifies the server, and undoes the change at the end."""
    undo: list[str] = []

    def change(role: str, setting: str) -> None:
        name = setting.partition(" ")[0]
        undo.append(f"alter role {role} reset {name};")
        api.execute(f"alter role {role} set {setting}; notify pgrst, 'reload config'")

    yield change
    api.execute("".join(undo) + "notify pgrst, 'reload config'")


def prefer(api: Any, path: str, preference: str, **options: Any) -> httpx.Response:
    headers = {"Prefer": preference}
    response: httpx.Response = api.request(
        options.pop("method", "GET"), path, headers=headers, **options
    )
    return response


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ("/item", "/item"),
        ("/item?select=id,name&limit=1", "/item?limit=1&select=id%2Cname"),
        ("/item?qty=gt.1&order=qty&qty=lt.9", "/item?order=qty&qty=gt.1,lt.9"),
        ("/item?name=eq.a+b%20%26", "/item?name=eq.a%20b%20%26"),
    ],
)
def test_the_canonical_url_of_a_read(api: Any, sent: str, canonical: str) -> None:
    for method in ("GET", "HEAD"):
        assert api.request(method, sent).headers["content-location"] == canonical


def test_only_reads_of_tables_have_a_canonical_url(api: Any) -> None:
    assert "content-location" not in api.request("GET", "/rpc/zone").headers
    assert "content-location" not in api.request("DELETE", "/item?qty=eq.-1").headers


def test_the_root_describes_what_the_role_may_use(api: Any) -> None:
    response = api.request("GET", "/")
    assert response.headers["content-type"] == "application/openapi+json; charset=utf-8"
    paths = response.json()["paths"]
    assert set(paths["/item"]) == {"get", "post", "patch", "delete"}
    assert set(paths["/rpc/zone"]) == {"get", "post"}
    assert "/hidden" not in paths
    assert "/rpc/secret" not in paths
    assert "/item" not in api.request("GET", "/", role=None).json()["paths"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [("application/openapi+json", 200), ("application/json", 200), ("text/csv", 406)],
)
def test_the_media_types_of_the_root(api: Any, accept: str, status: int) -> None:
    assert api.request("GET", "/", headers={"Accept": accept}).status_code == status


def test_the_options_of_the_root(api: Any) -> None:
    assert api.request("OPTIONS", "/").headers["allow"] == "OPTIONS,GET,HEAD"


@pytest.mark.parametrize("name", ["X-Odd", "Cookie", "User-Agent"])
def test_a_header_that_is_not_utf_8(api: Any, name: str) -> None:
    response = api.client.get("/rpc/zone", headers=[(name.encode(), b"a=\xff\xfe")])
    assert (response.status_code, response.text) == (500, "Something went wrong")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_long_request_line_or_header(api: Any) -> None:
    assert api.request("GET", "/rpc/zone", headers={"X-Long": "x" * 50_000}).status_code == 200
    for path, header in (("/rpc/zone", "x" * 52_000), (f"/rpc/zone?a={'x' * 52_000}", "")):
        response = api.request("GET", path, headers={"X-Long": header})
        assert (response.status_code, response.text) == (400, "Bad Request")


def test_a_preferred_time_zone(api: Any) -> None:
    response = prefer(api, "/rpc/zone", "timezone=Asia/Tokyo, timezone=Asia/Kolkata")
    assert response.json() == "Asia/Tokyo"
    assert response.headers["preference-applied"] == "timezone=Asia/Tokyo"
    unknown = prefer(api, "/rpc/zone", "timezone=asia/tokyo")
    assert (unknown.status_code, unknown.headers.get("preference-applied")) == (200, None)
    strict = prefer(api, "/rpc/zone", "handling=strict, timezone=asia/tokyo")
    assert (strict.status_code, strict.json()["code"]) == (400, "PGRST122")


def test_at_most_so_many_rows_of_a_function(api: Any) -> None:
    path = "/rpc/rows_of?p_n=3"
    few = prefer(api, path, "handling=strict, max-affected=3")
    assert few.headers["preference-applied"] == "handling=strict, max-affected=3"
    many = prefer(api, path, "handling=strict, max-affected=2")
    assert (many.status_code, many.json()["code"]) == (400, "PGRST124")
    assert prefer(api, path, "max-affected=2").status_code == 200
    for value in ("x", "", "1.5"):
        ignored = prefer(api, path, f"handling=strict, max-affected={value}")
        assert ignored.headers["preference-applied"] == "handling=strict"
    scalar = prefer(api, "/rpc/zone", "handling=strict, max-affected=2")
    assert (scalar.status_code, scalar.json()["code"]) == (400, "PGRST128")


@pytest.mark.parametrize(
    "headers", ['{"X-A": "1"}', '[{"X-A": "1", "X-B": "2"}]', '[{"X-A": 1}]', "[{}]", "nonsense"]
)
def test_response_headers_in_another_form(api: Any, headers: str) -> None:
    response = api.request("POST", "/rpc/respond", json={"p_headers": headers})
    assert (response.status_code, response.json()["code"]) == (500, "PGRST111")


def test_a_function_takes_the_first_object_of_an_array(api: Any) -> None:
    assert api.request("POST", "/rpc/add", json=[{"a": 1}, {"a": 2}]).json() == 11
    response = api.request("POST", "/rpc/add", json=[{"a": 1}, {"b": 2}])
    assert (response.status_code, response.json()["code"]) == (400, "PGRST102")


def test_rows_of_a_function_are_sorted_by_columns_that_are_read(api: Any) -> None:
    ok = "/rpc/rows_of?p_n=2&order=n.desc&select=label"
    assert api.get(f"{ok}&n=gt.0") == [{"label": "row 2"}, {"label": "row 1"}]
    response = api.request("GET", ok)
    assert (response.status_code, response.json()["code"]) == (400, "42703")


@pytest.mark.parametrize("select", ["part(", "part(id", "part(id,(", "a,b("])
def test_an_embedding_without_its_end_is_not_valid(api: Any, select: str) -> None:
    response = api.request("GET", f"/item?select={select}")
    assert (response.status_code, response.json()["code"]) == (400, "PGRST100")


@pytest.mark.parametrize("window", ["limit=1", "offset=1"])
def test_put_allows_no_window(api: Any, window: str) -> None:
    response = api.request("PUT", f"/part?id=eq.1&{window}", json={"id": 1})
    assert (response.status_code, response.json()["code"]) == (400, "PGRST114")


def test_the_settings_of_a_token_s_role_apply(
    api: Any, role_settings: Callable[[str, str], None]
) -> None:
    role_settings("service_role", "statement_timeout = '1234ms'")
    wait_until(lambda: api.get("/rpc/timeout") == "1234ms", timeout=5)
    assert api.get("/rpc/timeout", role=None) == "8s"


def test_the_limit_of_rows_is_a_setting_of_the_login_role(
    api: Any, role_settings: Callable[[str, str], None]
) -> None:
    role_settings("authenticator", "pgrst.db_max_rows = '2'")
    wait_until(lambda: len(api.get("/rpc/rows_of?p_n=5")) == 2, timeout=5)
    role_settings("authenticator", "pgrst.db_max_rows = 'many'")
    wait_until(lambda: len(api.get("/rpc/rows_of?p_n=5")) == 5, timeout=5)
