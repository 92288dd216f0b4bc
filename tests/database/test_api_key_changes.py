"""Reading, changing, disabling and enabling an API key, in SQL."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, api_key, user

GET = "select * from public.get_api_key(%s)"
UPDATE = "select * from public.update_api_key(%s, %s)"
DISABLE = "select * from public.disable_api_key(%s)"
ENABLE = "select * from public.enable_api_key(%s)"
REVOKE = "select public.revoke_api_key(%s)"
CHANGES = ((GET,), (UPDATE, "{}"), (DISABLE,), (ENABLE,))
NO_KEY = "the API key does not exist, or you are not a member of its account"
READ = {"entity_type": "segment", "entity_id": "*", "action": "read"}


def get(db: Database, tenant: Tenant, key_id: UUID) -> dict[str, Any]:
    (key,) = db.rows(tenant.member, GET, key_id)
    return key


def update(db: Database, actor: Actor, key_id: UUID, **changes: object) -> dict[str, Any]:
    (key,) = db.rows(actor, UPDATE, key_id, json.dumps(changes))
    return key


def test_get_returns_all_but_the_key_and_its_hash(db: Database, tenant: Tenant) -> None:
    created = db.create_key(tenant, [EVERYTHING])
    for actor in (tenant.member, SERVICE_ROLE):
        (key,) = db.rows(actor, GET, created["id"])
        assert key == {
            "id": created["id"],
            "account_id": tenant.account_id,
            "name": "test key",
            "key_prefix": created["key_prefix"],
            "scopes": [EVERYTHING],
            "expires_at": None,
            "created_at": created["created_at"],
            "created_by": tenant.user_id,
            "last_used_at": None,
            "is_active": True,
            "disabled_at": None,
            "metadata": {},
            "allowed_ips": None,
            "successor_id": None,
        }


def test_a_key_of_another_account_does_not_exist(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    stranger = db.add_tenant().member
    for actor, requested in (
        (stranger, key_id),
        (user(uuid4()), key_id),
        (Actor("authenticated"), key_id),
        (tenant.member, uuid4()),
        (tenant.member, None),
        (SERVICE_ROLE, uuid4()),
        (SERVICE_ROLE, None),
    ):
        for statement, *arguments in CHANGES:
            with pytest.raises(psycopg.Error) as refusal:
                db.rows(actor, statement, requested, *arguments)
            assert refusal.value.sqlstate == "PT404"
            assert refusal.value.diag.message_primary == NO_KEY


def test_update_changes_what_is_passed_and_nothing_else(db: Database, tenant: Tenant) -> None:
    key = get(db, tenant, db.create_key(tenant, [EVERYTHING])["id"])
    expires_at = datetime.now(UTC) + timedelta(days=1)
    changes: list[tuple[str, object, object]] = [
        ("name", "new", "new"),
        ("scopes", [READ], [READ]),
        ("expires_at", expires_at.isoformat(), expires_at),
        ("metadata", {"plan": "pro"}, {"plan": "pro"}),
        (
            "allowed_ips",
            ["192.0.2.0/24", "2001:db8::1"],
            [ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128")],
        ),
    ]
    for actor in (tenant.member, SERVICE_ROLE):
        for field, value, stored in changes:
            key |= {field: stored}
            assert update(db, actor, key["id"], **{field: value}) == key
            assert get(db, tenant, key["id"]) == key
    for field, nothing in (("expires_at", None), ("allowed_ips", None), ("metadata", {})):
        key |= {field: nothing}
        assert update(db, tenant.member, key["id"], **{field: nothing}) == key
    assert update(db, tenant.member, key["id"]) == get(db, tenant, key["id"]) == key


def test_changed_scopes_apply_at_once(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    has_scope = "select public.has_scope('segment', 's1', 'write')"
    assert db.value(api_key(key_id), has_scope) is True
    update(db, tenant.member, key_id, scopes=[READ])
    assert db.value(api_key(key_id), has_scope) is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "the changes must be an object, not null"),
        ("null", "the changes must be an object, not null"),
        ("[]", "the changes must be an object, not array"),
        ('{"key_hash": "x"}', 'the changes have an unknown field "key_hash"'),
        ('{"is_active": true}', 'the changes have an unknown field "is_active"'),
        ('{"name": "n", "account_id": null}', 'the changes have an unknown field "account_id"'),
        ('{"name": null}', "name must be of type string, not null"),
        ('{"name": 5}', "name must be of type string, not number"),
        ('{"name": "  "}', "the name of an API key must not be blank"),
        ('{"scopes": null}', "scopes must be an array, not null"),
        ('{"scopes": [{}]}', "scopes[0].entity_type must be a non-empty string"),
        ('{"metadata": null}', "metadata must be of type object, not null"),
        ('{"metadata": [1]}', "metadata must be of type object, not array"),
        ('{"expires_at": 5}', "expires_at must be of type string or null, not number"),
        (
            '{"expires_at": "then"}',
            'expires_at must be a time such as 2030-01-31T00:00:00Z, not "then"',
        ),
        (
            '{"expires_at": "2030-02-31"}',
            'expires_at must be a time such as 2030-01-31T00:00:00Z, not "2030-02-31"',
        ),
        ('{"allowed_ips": "10.0.0.0/8"}', "allowed_ips must be of type array or null, not string"),
        ('{"allowed_ips": {}}', "allowed_ips must be of type array or null, not object"),
    ],
)
def test_malformed_changes_are_refused(
    db: Database, tenant: Tenant, changes: str | None, message: str
) -> None:
    before = get(db, tenant, db.create_key(tenant)["id"])
    with pytest.raises(errors.InvalidParameterValue) as refusal:
        db.rows(tenant.member, UPDATE, before["id"], changes)
    assert refusal.value.diag.message_primary == message
    assert get(db, tenant, before["id"]) == before


@pytest.mark.parametrize("expires_at", ["2020-01-01", "infinity", "-infinity", "now"])
def test_an_expiry_that_is_no_finite_time_in_the_future_is_refused(
    db: Database, tenant: Tenant, expires_at: str
) -> None:
    key_id = db.create_key(tenant)["id"]
    with pytest.raises(errors.InvalidParameterValue, match="must be a finite time in the future"):
        update(db, tenant.member, key_id, expires_at=expires_at)
    assert get(db, tenant, key_id)["expires_at"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "n" * 256),
        ("scopes", [EVERYTHING] * 101),
        ("expires_at", "10000-01-01T00:00:00Z"),
        ("metadata", {"text": "x" * 4096}),
        ("allowed_ips", []),
        ("allowed_ips", ["192.0.2.1"] * 51),
    ],
)
def test_the_limits_of_the_columns_apply_to_changes(
    db: Database, tenant: Tenant, field: str, value: object
) -> None:
    before = get(db, tenant, db.create_key(tenant)["id"])
    with pytest.raises(errors.CheckViolation, match=f"api_keys_{field}_limit is exceeded"):
        update(db, tenant.member, before["id"], **{field: value})
    assert get(db, tenant, before["id"]) == before


def test_values_at_the_limits_are_kept(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    metadata = {"text": "x" * (4096 - len('{"text": ""}'))}
    key = update(db, tenant.member, key_id, metadata=metadata, allowed_ips=["2001:db8::/32"] * 50)
    assert key["metadata"] == metadata
    assert key["allowed_ips"] == [ip_network("2001:db8::/32")] * 50


def test_a_field_that_exceeds_a_newer_limit_does_not_block_other_changes(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    with psycopg.connect(db.admin_url) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(
            "update api_keys_private.api_keys set name = repeat('n', 300) where id = %s", [key_id]
        )
    assert update(db, tenant.member, key_id, metadata={"a": 1})["name"] == "n" * 300


def test_a_disabled_key_is_invalid_until_it_is_enabled(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, [EVERYTHING])
    has_scope = "select public.has_scope('segment', 's1', 'read')"
    for actor in (tenant.member, SERVICE_ROLE):
        (disabled,) = db.rows(actor, DISABLE, key["id"])
        assert datetime.now(UTC) - disabled["disabled_at"] < timedelta(minutes=1)
        assert db.rows(actor, DISABLE, key["id"]) == [disabled]
        assert disabled["is_active"] is True
        assert db.verify(key["key"])["error"] == "Invalid API key"
        assert db.value(api_key(key["id"]), has_scope) is False
        assert db.value(api_key(key["id"]), "select public.get_api_key_account_id()") is None
        for _ in range(2):
            (enabled,) = db.rows(actor, ENABLE, key["id"])
            assert enabled == disabled | {"disabled_at": None}
        assert db.verify(key["key"])["valid"] is True
        assert db.value(api_key(key["id"]), has_scope) is True


def test_a_revoked_key_cannot_be_changed(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    db.rows(tenant.member, DISABLE, key["id"])
    db.rows(tenant.member, REVOKE, key["id"])
    before = get(db, tenant, key["id"])
    assert before["is_active"] is False
    for actor in (tenant.member, SERVICE_ROLE):
        for statement, *arguments in CHANGES[1:]:
            with pytest.raises(psycopg.Error, match="is revoked, which is permanent") as refusal:
                db.rows(actor, statement, key["id"], *arguments)
            assert refusal.value.sqlstate == "PT409"
    assert get(db, tenant, key["id"]) == before


def test_an_expired_key_can_be_extended(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    update(db, tenant.member, key["id"], name="new")
    assert db.verify(key["key"])["valid"] is False
    update(db, tenant.member, key["id"], expires_at=None)
    assert db.verify(key["key"])["valid"] is True


def test_a_key_with_networks_is_invalid_for_verify(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    update(db, tenant.member, key["id"], allowed_ips=["0.0.0.0/0", "::/0"])
    assert db.verify(key["key"])["error"] == "Invalid API key"
    update(db, tenant.member, key["id"], allowed_ips=None)
    assert db.verify(key["key"])["valid"] is True


def test_concurrent_changes_of_different_fields_are_all_kept(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    changes: list[dict[str, object]] = [
        {"name": "new"},
        {"scopes": [READ]},
        {"metadata": {"a": 1}},
        {"allowed_ips": ["192.0.2.1"]},
    ] * 4
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda fields: update(db, tenant.member, key_id, **fields), changes))
    key = get(db, tenant, key_id)
    assert (key["name"], key["scopes"], key["metadata"]) == ("new", [READ], {"a": 1})
    assert key["allowed_ips"] == [ip_network("192.0.2.1/32")]


def test_a_change_that_waits_for_a_revocation_is_refused(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    with db.acting(tenant.member) as revoking, ThreadPoolExecutor(1) as pool:
        revoking.execute(REVOKE.encode(), [key_id])
        change = pool.submit(update, db, tenant.member, key_id, name="new")
        db.wait_for_blocked_session()
        revoking.commit()
        with pytest.raises(psycopg.Error) as refusal:
            change.result()
    assert refusal.value.sqlstate == "PT409"
    assert get(db, tenant, key_id)["name"] == "test key"
