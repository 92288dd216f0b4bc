"""Arbitrary requests as every role: no internal error, and no row of another tenant.

The marks stand in rows that only the account `theirs` may see.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiencelab_sdk.local import LocalStack

MARK = "mark-of-another-tenant"
TABLES = ["segments", "enrichment_tracking", "accounts", "accounts_memberships", "roles"]
FUNCTIONS = ["create_studio_segment", "list_api_keys", "verify_api_key", "has_scope"]
COLUMNS = ["id", "account_id", "name", "filters", "tags", "created_at", "deleted", "nothing"]

odd = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="()[]{},.\"'\\*%:->!;= \0aq1é", max_size=40),
    st.sampled_from(["'; drop table segments; --", "name,filters::text", "a->>b", "..", "*", "-1"]),
)
operators = [
    "eq", "neq", "gt", "like", "ilike", "match", "imatch", "in", "is", "cs", "cd", "ov",
    "isdistinct", "fts", "not.eq", "eq(any)",
]  # fmt: skip
filters = st.one_of(
    odd,
    st.builds("{}.{}".format, st.sampled_from(operators), odd),
    st.builds("({}.{}.{},or(id.eq.1))".format, st.sampled_from(COLUMNS), st.just("eq"), odd),
)
names = st.one_of(
    st.sampled_from(["select", "order", "limit", "offset", "or", "and", "columns", "on_conflict"]),
    st.sampled_from(COLUMNS),
    st.sampled_from(["p_account_id", "p_api_key", "filters->0->>x", "not.and"]),
    odd,
)
paths = st.one_of(
    st.sampled_from(TABLES + [f"rpc/{name}" for name in FUNCTIONS]),
    st.sampled_from(["", "rpc", "api_keys", "pg_authid", "../v1/segments", "rpc/pg_sleep"]),
    odd,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
bodies = st.one_of(
    st.just(b""), st.binary(max_size=20), json_values.map(json.dumps).map(str.encode)
)
header_names = [
    "Prefer", "Range", "Range-Unit", "Accept", "Accept-Profile", "Content-Profile", "Content-Type",
    "Authorization", "Cookie", "X-Odd",
]  # fmt: skip
header_values = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
    st.sampled_from(
        [
            "return=representation",
            "count=exact, handling=strict",
            "resolution=merge-duplicates",
            "missing=default",
            "0-0",
            "999999999999999999999-",
            "text/csv",
            "application/vnd.pgrst.object+json",
            "api_keys_private",
            "Bearer a.b.c",
        ]
    ),
).map(lambda text: "".join(filter(str.isprintable, text)).strip().encode())
requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "HEAD", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
        "path": paths,
        "query": st.lists(st.tuples(names, filters), max_size=4),
        "headers": st.dictionaries(st.sampled_from(header_names), header_values, max_size=3),
        "body": bodies,
    }
)
examples = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class World:
    """A stack of its own with two tenants, `ours` and `theirs`."""

    stack: LocalStack
    client: httpx.Client
    user: UUID

    def send(self, request: dict[str, Any], key: str, token: str | None) -> httpx.Response:
        headers = {"apikey": key.encode()}
        if token:
            headers["Authorization"] = f"Bearer {token}".encode()
        headers |= request["headers"]
        path = quote(request["path"], safe="/")
        query = urlencode(request["query"], errors="replace")
        return self.client.request(
            request["method"],
            f"/rest/v1/{path}?{query}",
            headers=[(name.encode(), value) for name, value in headers.items()],
            content=request["body"],
        )

    def marks(self) -> int:
        with psycopg.connect(self.stack.db_url) as connection:
            row = connection.execute(
                "select count(*) from public.segments where name = %s and not deleted", (MARK,)
            ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with LocalStack(rest="embedded") as stack, httpx.Client(base_url=stack.url) as client:
        ours, theirs = stack.create_user(), stack.create_user()
        stack.create_account("ours", owner=ours)
        account = stack.create_account(MARK, owner=theirs)
        with psycopg.connect(stack.db_url) as connection:
            connection.execute(
                "insert into public.segments"
                " (account_id, name, source_type, source_id, created_by, filters)"
                " values (%s, %s, 'audience', '1', %s, %s)",
                (account, MARK, theirs, f'[{{"field": "{MARK}"}}]'),
            )
        yield World(stack, client, ours)


def assert_no_fault(response: httpx.Response) -> None:
    """Accept a 5xx only from PostgreSQL, with its SQLSTATE."""
    if response.status_code >= 500:
        assert not response.json()["code"].startswith("PGRST"), response.text


@examples
@given(request=requests)
def test_as_anon(world: World, request: dict[str, Any]) -> None:
    response = world.send(request, world.stack.anon_key, None)
    assert_no_fault(response)
    assert MARK not in response.text + str(response.headers)


@examples
@given(request=requests)
def test_as_a_user(world: World, request: dict[str, Any]) -> None:
    token = world.stack.access_token(world.user)
    response = world.send(request, world.stack.anon_key, token)
    assert_no_fault(response)
    assert MARK not in response.text + str(response.headers)


def test_the_row_of_the_other_tenant_is_unchanged(world: World) -> None:
    assert world.marks() == 1


@examples
@given(request=requests.filter(lambda request: request["method"] != "DELETE"))
def test_as_the_service_role(world: World, request: dict[str, Any]) -> None:
    assert_no_fault(world.send(request, world.stack.service_role_key, None))


def test_the_database_is_unchanged(world: World) -> None:
    with psycopg.connect(world.stack.db_url) as connection:
        tables = connection.execute(
            "select count(*) from information_schema.tables where table_name = any(%s)"
            " and table_schema = 'public'",
            (TABLES,),
        ).fetchone()
        leaks = connection.execute(
            "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
        ).fetchone()
    assert (tables, leaks) == ((len(TABLES),), (0,))
    response = world.client.get(
        "/rest/v1/roles?select=name&name=eq.owner", headers={"apikey": world.stack.service_role_key}
    )
    assert response.json() == [{"name": "owner"}]
