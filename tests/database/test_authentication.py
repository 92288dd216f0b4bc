"""authenticate_api_key: whether a key is valid, why not, and what it may do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.database._sql import EVERYTHING, SERVICE_ROLE, Database, Tenant
from tests.database.test_old_keys import add_old_key, crypt_calls, key_hash

PAST = datetime(2020, 1, 1, tzinfo=UTC)
METADATA = json.dumps({"plan": "pro"})
# The columns of a key that is not valid, by its code.
NOT_LIVE: dict[str, dict[str, Any]] = {
    "revoked": {"is_active": False},
    "disabled": {"disabled_at": PAST},
    "expired": {"expires_at": PAST},
}


def authenticate(db: Database, text: str | None, ip: str | None = None) -> dict[str, Any]:
    (result,) = db.rows(SERVICE_ROLE, "select * from public.authenticate_api_key(%s, %s)", text, ip)
    return result


def code(db: Database, text: str, ip: str | None = None) -> str:
    result = authenticate(db, text, ip)
    assert result["valid"] is (result["code"] == "valid")
    return str(result["code"])


def restricted(db: Database, tenant: Tenant, *networks: str) -> str:
    """The text of a key that may be used from these networks."""
    key = db.create_key(tenant)
    db.rows(
        tenant.member,
        "select * from public.update_api_key(%s, %s)",
        key["id"],
        json.dumps({"allowed_ips": networks}),
    )
    return str(key["key"])


def test_a_valid_key_with_all_that_a_backend_needs(db: Database, tenant: Tenant) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    key = db.create_key(tenant, [EVERYTHING], expires_at=expires_at, metadata=METADATA)
    assert authenticate(db, key["key"]) == {
        "valid": True,
        "code": "valid",
        "api_key_id": key["id"],
        "account_id": tenant.account_id,
        "name": "test key",
        "scopes": [EVERYTHING],
        "expires_at": expires_at,
        "created_by": tenant.user_id,
        "metadata": {"plan": "pro"},
        "ip_restricted": False,
    }


def test_the_address_may_be_left_out(db: Database, tenant: Tenant) -> None:
    call = "select code from public.authenticate_api_key(p_api_key => %s)"
    assert db.value(SERVICE_ROLE, call, db.create_key(tenant)["key"]) == "valid"
    assert db.value(SERVICE_ROLE, call, restricted(db, tenant, "0.0.0.0/0", "::/0")) == (
        "ip_not_allowed"
    )


@pytest.mark.parametrize(
    "text", [None, "", "sk_", "sk_" + "A" * 46, "sk_" + "A" * 43, "sk_🔑", "%", "a" * 1_000_000]
)
def test_what_is_no_key_is_not_found(db: Database, text: str | None) -> None:
    result = authenticate(db, text)
    assert (result.pop("valid"), result.pop("code")) == (False, "not_found")
    assert set(result.values()) == {None}


@pytest.mark.parametrize("reason", NOT_LIVE)
def test_a_key_that_is_not_live_is_named_but_gives_nothing(
    db: Database, tenant: Tenant, reason: str
) -> None:
    columns = NOT_LIVE[reason]
    key = db.create_key(tenant, [EVERYTHING], metadata=METADATA, **columns)
    assert authenticate(db, key["key"]) == {
        "valid": False,
        "code": reason,
        "api_key_id": key["id"],
        "account_id": tenant.account_id,
        "name": "test key",
        "scopes": None,
        "expires_at": columns.get("expires_at"),
        "created_by": tenant.user_id,
        "metadata": None,
        "ip_restricted": False,
    }


@pytest.mark.parametrize("is_active", [True, False])
@pytest.mark.parametrize("disabled_at", [None, PAST])
@pytest.mark.parametrize("expires_at", [None, PAST, datetime(9999, 1, 1, tzinfo=UTC)])
def test_it_agrees_with_the_definition_of_a_live_key(
    db: Database,
    tenant: Tenant,
    is_active: bool,
    disabled_at: datetime | None,
    expires_at: datetime | None,
) -> None:
    key = db.create_key(tenant, is_active=is_active, disabled_at=disabled_at, expires_at=expires_at)
    live = db.admin("select id from api_keys_private.live_api_keys where id = %s", key["id"])
    assert code(db, key["key"]) == (
        "valid"
        if live
        else "revoked"
        if not is_active
        else "disabled"
        if disabled_at
        else "expired"
    )
    assert db.verify(key["key"])["valid"] is bool(live)


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (
            ["192.0.2.0/24", "198.51.100.7"],
            ["192.0.2.0", "192.0.2.255", "198.51.100.7", "::ffff:192.0.2.1", "192.0.2.128/25"],
            ["192.0.3.0", "198.51.100.8", "::192.0.2.1", "::ffff:192.0.3.1", "192.0.2.1/23", None],
        ),
        (
            ["2001:db8::/32", "::1"],
            ["2001:db8::", "2001:db8:ffff::1", "::1"],
            ["2001:db9::", "::2", "0.0.0.1", "127.0.0.1", "::ffff:0.0.0.1", None],
        ),
        (
            ["::ffff:203.0.113.0/120"],
            ["203.0.113.5", "::ffff:203.0.113.5"],
            ["203.0.114.5", "::203.0.113.5"],
        ),
        (["0.0.0.0/0"], ["192.0.2.1", "::ffff:192.0.2.1"], ["::1", "2001:db8::1", None]),
        (["::/0"], ["::1", "2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1", None]),
    ],
)
def test_a_key_with_networks_is_valid_from_addresses_in_one_of_them(
    db: Database,
    tenant: Tenant,
    networks: list[str],
    inside: list[str],
    outside: list[str | None],
) -> None:
    text = restricted(db, tenant, *networks)
    assert {ip: code(db, text, ip) for ip in inside} == dict.fromkeys(inside, "valid")
    assert {ip: code(db, text, ip) for ip in outside} == dict.fromkeys(outside, "ip_not_allowed")
    refused = authenticate(db, text)
    assert refused["ip_restricted"] is True
    assert (refused["scopes"], refused["metadata"]) == (None, None)
    assert authenticate(db, text, inside[0])["ip_restricted"] is True


def test_an_old_key_is_authenticated_and_rehashed(db: Database, tenant: Tenant) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    before = crypt_calls(db)
    for _ in range(2):
        result = authenticate(db, text)
        assert (result["code"], result["api_key_id"]) == ("valid", key_id)
    assert not key_hash(db, key_id).startswith("$2a$")
    assert crypt_calls(db) == before + 1


@pytest.mark.parametrize("reason", NOT_LIVE)
def test_an_old_key_that_is_not_live_is_not_found_and_costs_no_bcrypt(
    db: Database, tenant: Tenant, reason: str
) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    ((column, value),) = NOT_LIVE[reason].items()
    db.admin(f"update api_keys_private.api_keys set {column} = %s where id = %s", value, key_id)
    before = crypt_calls(db)
    assert code(db, text) == "not_found"
    assert crypt_calls(db) == before
    assert key_hash(db, key_id).startswith("$2a$")


def test_an_old_key_from_a_wrong_address_is_rehashed_and_refused(
    db: Database, tenant: Tenant
) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    db.admin(
        "update api_keys_private.api_keys set allowed_ips = '{192.0.2.0/24}' where id = %s", key_id
    )
    before = crypt_calls(db)
    assert code(db, text, "198.51.100.1") == "ip_not_allowed"
    assert code(db, text, "192.0.2.1") == "valid"
    assert db.verify(text)["valid"] is False
    assert crypt_calls(db) == before + 1
