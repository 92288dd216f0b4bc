"""Attacks with the header x-api-key, where direct access is enabled."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests.database._attempts import SECRET
from tests.database._inventory import PUBLIC_FUNCTIONS
from tests.database._sql import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.database._sql import Database, Tenant

Headers = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def base(db: Database) -> Iterator[str]:
    """A REST API with direct access and one connection, so that each request reuses it."""
    db.apply("select api_keys_direct.enable()")
    url = migrate.as_role(db.admin_url, "authenticator")
    server = BackgroundServer(create_app(Settings(db_url=url, jwt_secret=SECRET, pool_size=1)))
    yield f"http://127.0.0.1:{server.start()}"
    server.stop()
    db.apply("select api_keys_direct.disable()")


@pytest.fixture
def key(db: Database, tenant: Tenant) -> bytes:
    return str(db.create_key(tenant, [EVERYTHING])["key"]).encode()


def send(
    base: str, headers: Headers, path: str = "/rpc/get_api_key_account_id", body: Any = None
) -> tuple[int, Any]:
    """Send a request as it is written: clients would refuse some of these headers."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    try:
        connection.putrequest("POST" if body is not None else "GET", path)
        content = b"" if body is None else json.dumps(body).encode()
        for name, value in [
            *headers,
            ("content-type", b"application/json"),
            ("content-length", str(len(content)).encode()),
        ]:
            connection.putheader(name, value)
        connection.endheaders(content)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(text)
    except ValueError:
        return response.status, text.decode()


def account_of(base: str, headers: Headers) -> Any:
    """The account that a request acts for, or the SQLSTATE of the error."""
    status, answer = send(base, headers)
    return answer if status == 200 else answer["code"]


def test_to_be_two_keys_at_once(base: str, db: Database, tenant: Tenant, key: bytes) -> None:
    """A header that is sent twice is read once: it is one of the two keys, or none."""
    other_tenant = db.add_tenant()
    other = db.create_key(other_tenant, [EVERYTHING])["key"].encode()
    assert account_of(base, [("x-api-key", key), ("x-api-key", other)]) == str(
        other_tenant.account_id
    )
    assert account_of(base, [("x-api-key", key), ("X-API-KEY", b"sk_wrong")]) == "PT401"
    assert account_of(base, [("x-api-key", key + b", " + other)]) == "PT401"


@pytest.mark.parametrize("name", ["X-API-KEY", "X-Api-Key", "x-API-key"])
def test_the_case_of_the_header_does_not_matter(
    base: str, tenant: Tenant, key: bytes, name: str
) -> None:
    assert account_of(base, [(name, key)]) == str(tenant.account_id)


@pytest.mark.parametrize("name", ["x_api_key", "x-api-key2", "api-key", "apikey", "cookie"])
def test_no_other_header_is_a_key(base: str, key: bytes, name: str) -> None:
    assert account_of(base, [(name, key)]) == "42501"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"sk_",
        b"null",
        b"x" * 20_000,
        b'"}',
        b"' or true --",
        b"%",
        b"sk_%",
        "ключ".encode(),
    ],
)
def test_to_be_a_key_without_having_one(base: str, value: bytes) -> None:
    status, answer = send(base, [("x-api-key", value)])
    assert (status, answer["code"], answer["message"]) == (401, "PT401", "Invalid API key")


@pytest.mark.parametrize(
    ("value", "status"),
    [(b"k" * 1_000_000, 400), (b"a\x00b", 400), (b"a\x01b", 401), (b"\xff\xfe", 500)],
)
def test_to_break_the_server_with_a_header(
    base: str, key: bytes, value: bytes, status: int
) -> None:
    try:
        assert send(base, [("x-api-key", value)])[0] == status
    except (BrokenPipeError, ConnectionResetError):
        assert len(value) > 50_000  # the server stopped reading
    assert send(base, [("x-api-key", key)])[0] == 200


def test_to_choose_an_identity_by_a_header_that_looks_like_a_setting(
    base: str, db: Database, tenant: Tenant, key: bytes
) -> None:
    other = db.create_key(db.add_tenant(), [EVERYTHING])
    claims = json.dumps({"role": "api_key", "sub": str(other["id"])}).encode()
    for name in (
        "request.jwt.claims",
        "request.jwt.claim.sub",
        "role",
        "prefer",
        "request.headers",
    ):
        assert account_of(base, [("x-api-key", key), (name, claims)]) == str(tenant.account_id)
        assert account_of(base, [(name, claims)]) == "42501"


def test_to_keep_the_identity_of_the_request_before(base: str, tenant: Tenant, key: bytes) -> None:
    """There is one connection: each request uses that of the request before."""
    for headers in ([("x-api-key", key)], [("x-api-key", b"sk_wrong")]):
        send(base, headers)
        assert account_of(base, []) == "42501"
    send(base, [("x-api-key", key)], "/rpc/no_such_function", {})
    send(base, [("x-api-key", key)], "/segments?select=no_such_column")
    assert account_of(base, []) == "42501"
    assert account_of(base, [("x-api-key", key)]) == str(tenant.account_id)


def test_to_call_what_keys_may_not_call(
    base: str, db: Database, tenant: Tenant, key: bytes
) -> None:
    for function in PUBLIC_FUNCTIONS:
        if "api_key" in function.executors:
            continue
        names = db.admin(
            "select proargnames[1:pronargs - pronargdefaults] as required from pg_proc"
            " where oid = %s::regprocedure",
            function.signature,
        )[0]["required"]
        arguments = dict.fromkeys(names or ())
        status, answer = send(base, [("x-api-key", key)], f"/rpc/{function.rpc}", arguments)
        assert (status, answer["code"]) == (401, "42501"), function.rpc
        assert answer["message"] == f"permission denied for function {function.rpc}"


def test_to_use_the_functions_of_direct_access(base: str, key: bytes) -> None:
    for function in ("pre_request", "find_api_key", "enable", "disable"):
        for profile in (b"api_keys_direct", b"public"):
            headers = [("x-api-key", key), ("content-profile", profile)]
            status, _ = send(base, headers, f"/rpc/{function}", {})
            assert status in {404, 406}


def test_to_reach_the_rows_of_others(base: str, db: Database, tenant: Tenant, key: bytes) -> None:
    stranger = db.add_tenant()
    theirs = db.create_segment(stranger)
    ours = db.create_segment(tenant)
    status, rows = send(base, [("x-api-key", key)], "/segments?select=id")
    assert (status, rows) == (200, [{"id": str(ours)}])
    new = {
        "account_id": str(stranger.account_id),
        "name": "n",
        "source_type": "audience",
        "source_id": "1",
        "id": str(uuid4()),
    }
    status, answer = send(base, [("x-api-key", key)], "/segments", new)
    assert (status, answer["code"]) == (401, "42501")
    assert db.admin("select account_id from public.segments where id = %s", theirs) == [
        {"account_id": stranger.account_id}
    ]
