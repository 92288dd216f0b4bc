"""Counts of rows: exact ones, and the planner's estimates, which ignore row level security."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

ROWS = """
create table api.things (id integer primary key, owner text not null);
insert into api.things select number, 'somebody' from generate_series(1, 3000) as number;
alter table api.things enable row level security;
create function api.names() returns setof text language sql stable as $$ values ('nobody') $$;
create policy own on api.things for all to authenticated
  using (owner = any (array(select api.names())));
grant all on api.things to authenticated, service_role;
create function api.all_things() returns setof api.things language sql stable as
  'select * from api.things';
analyze api.things;
"""


@pytest.fixture(scope="module")
def api(serve: Callable[[str], Any]) -> Any:
    return serve(ROWS)


def count(api: Any, path: str, prefer: str, **options: Any) -> httpx.Response:
    headers = {"Prefer": prefer}
    response: httpx.Response = api.request(
        options.pop("method", "GET"), path, headers=headers, **options
    )
    return response


@pytest.mark.parametrize(
    ("path", "prefer", "status", "content_range"),
    [
        ("/things?limit=1", "count=exact", 206, "0-0/3000"),
        ("/things?limit=1", "count=planned", 206, "0-0/3000"),
        ("/things?id=lt.0", "count=exact", 200, "*/0"),
        ("/things?limit=2&offset=1", "count=planned", 206, "1-2/3000"),
        # The planner estimates only what exceeds the limit of rows.
        ("/things?limit=1", "count=estimated", 206, "0-0/3000"),
        ("/things?limit=1&id=lte.500", "count=estimated", 206, "0-0/500"),
        ("/things?limit=1", "count=planned, handling=strict", 206, "0-0/3000"),
    ],
)
def test_the_service_role_counts(
    api: Any, path: str, prefer: str, status: int, content_range: str
) -> None:
    for method in ("GET", "HEAD"):
        response = count(api, path, prefer, method=method)
        assert (response.status_code, response.headers["Content-Range"]) == (status, content_range)
        assert response.headers["Preference-Applied"].startswith(prefer.partition(",")[0])


def test_planned_counts_ignore_row_level_security(api: Any) -> None:
    response = count(api, "/things", "count=exact", role="authenticated")
    assert (response.status_code, response.headers["Content-Range"]) == (200, "*/0")
    response = count(api, "/things", "count=estimated", role="authenticated")
    assert (response.status_code, response.headers["Content-Range"]) == (200, "*/0")
    for path, total in (("/things", 3000), ("/things?id=lte.1500", 1500)):
        response = count(api, path, "count=planned", role="authenticated")
        assert (response.status_code, response.json()) == (206, [])
        shown, _, told = response.headers["Content-Range"].partition("/")
        assert shown == "*"
        assert int(told) == pytest.approx(total, rel=0.1)


@pytest.mark.parametrize(("prefer", "total"), [("planned", "*"), ("estimated", "3000")])
def test_calls_and_writes_are_not_planned(api: Any, prefer: str, total: str) -> None:
    response = count(api, "/rpc/all_things?limit=1", f"count={prefer}")
    assert response.headers["Content-Range"] == f"0-0/{total}"
    written = "*" if total == "*" else "1"
    response = count(api, "/things?id=eq.1", f"count={prefer}", method="PATCH", json={"owner": "x"})
    assert response.headers["Content-Range"] == f"0-0/{written}"


def test_the_first_of_two_prefer_headers_applies(api: Any) -> None:
    headers = [("Prefer", "count=planned"), ("Prefer", "count=exact")]
    token = api.token("authenticated")
    response = api.client.get("/things", headers=[*headers, ("Authorization", f"Bearer {token}")])
    assert response.headers["Preference-Applied"] == "count=planned"
