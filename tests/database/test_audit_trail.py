"""The audit trail: who changed which API key, when and how."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import (
    EVERYTHING,
    NOT_A_MEMBER,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
    user,
)
from tests.database.test_old_keys import add_old_key

EVENTS = "select * from public.list_api_key_events(%s, %s)"
PAGE = "select * from public.list_api_key_events(%s, %s, %s, %s, %s)"
UPDATE = "select public.update_api_key(%s, %s)"
DISABLE = "select public.disable_api_key(%s)"
ENABLE = "select public.enable_api_key(%s)"
ROTATE = "select id from public.rotate_api_key(%s)"
REVOKE = "select public.revoke_api_key(%s)"


def events(db: Database, tenant: Tenant, key_id: UUID | None = None) -> list[dict[str, Any]]:
    return db.rows(tenant.member, EVENTS, tenant.account_id, key_id)


def newest(db: Database, tenant: Tenant, key_id: UUID) -> dict[str, Any]:
    return events(db, tenant, key_id)[0]


def test_creation_is_recorded_with_the_first_values(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, [EVERYTHING])
    (event,) = events(db, tenant)
    assert list(event) == [
        *("id", "api_key_id", "event", "actor_type", "actor_id", "changes", "created_at")
    ]
    assert (event["api_key_id"], event["event"]) == (key["id"], "create")
    assert (event["actor_type"], event["actor_id"]) == ("user", tenant.user_id)
    assert datetime.now(UTC) - event["created_at"] < timedelta(minutes=1)
    assert event["changes"] == {
        "account_id": {"old": None, "new": str(tenant.account_id)},
        "name": {"old": None, "new": "test key"},
        "scopes": {"old": None, "new": [EVERYTHING]},
        "created_by": {"old": None, "new": str(tenant.user_id)},
        "is_active": {"old": None, "new": True},
        "metadata": {"old": None, "new": {}},
    }


@pytest.mark.parametrize("acting", ["member", "service"])
def test_each_change_is_recorded_once_with_its_actor(
    db: Database, tenant: Tenant, acting: str
) -> None:
    actor = tenant.member if acting == "member" else SERVICE_ROLE
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    db.rows(actor, UPDATE, key_id, json.dumps({"name": "new", "scopes": [EVERYTHING]}))
    db.rows(actor, DISABLE, key_id)
    db.rows(actor, ENABLE, key_id)
    successor = db.value(actor, ROTATE, key_id)
    db.rows(actor, REVOKE, key_id)

    recorded = events(db, tenant, key_id)

    assert [event["event"] for event in recorded] == [
        *("revoke", "rotate", "enable", "disable", "update", "create")
    ]
    who = ("user", tenant.user_id) if acting == "member" else ("service", None)
    assert {(event["actor_type"], event["actor_id"]) for event in recorded[:-1]} == {who}
    revoke, rotate, enable, disable, update, _ = (event["changes"] for event in recorded)
    assert update == {"name": {"old": "test key", "new": "new"}}
    assert disable["disabled_at"]["old"] is None
    assert enable["disabled_at"] == {"old": disable["disabled_at"]["new"], "new": None}
    assert rotate["successor_id"] == {"old": None, "new": str(successor)}
    assert rotate.keys() == {"successor_id", "expires_at"}
    assert revoke == {"is_active": {"old": True, "new": False}}
    (created,) = events(db, tenant, successor)
    assert (created["event"], created["actor_type"], created["actor_id"]) == ("create", *who)


def test_a_call_without_an_effect_is_not_recorded(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    db.rows(tenant.member, UPDATE, key_id, "{}")
    db.rows(tenant.member, UPDATE, key_id, json.dumps({"name": "test key", "metadata": {}}))
    db.rows(tenant.member, ENABLE, key_id)
    with pytest.raises(errors.CheckViolation):
        db.rows(tenant.member, UPDATE, key_id, json.dumps({"name": "n" * 256}))
    assert len(events(db, tenant, key_id)) == 1
    for statement in (DISABLE, REVOKE):
        db.rows(tenant.member, statement, key_id)
        count = len(events(db, tenant, key_id))
        if statement == REVOKE:
            db.rows(tenant.member, statement, key_id)
        assert len(events(db, tenant, key_id)) == count


def test_use_of_a_key_is_not_recorded(db: Database, tenant: Tenant) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    assert db.verify(text)["valid"] is True  # re-hashes the key
    log = "select public.log_api_key_usage(%s, '/', 'GET', 200, null, null)"
    db.rows(SERVICE_ROLE, log, key_id)
    db.rows(SERVICE_ROLE, "select public.authenticate_api_key(%s)", text)
    assert [event["event"] for event in events(db, tenant, key_id)] == ["create"]


def test_no_event_contains_the_key_its_prefix_or_its_hash(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    (successor,) = db.rows(tenant.member, "select * from public.rotate_api_key(%s)", key["id"])
    db.rows(tenant.member, REVOKE, key["id"])
    hashes = db.admin(
        "select key_hash from api_keys_private.api_keys where account_id = %s", tenant.account_id
    )
    recorded = db.admin(
        "select event::text as text from api_keys_private.api_key_events as event"
        " where account_id = %s",
        tenant.account_id,
    )
    assert len(recorded) == 4
    secrets = [key["key_prefix"], successor["key_prefix"], *(row["key_hash"] for row in hashes)]
    for row in recorded:
        assert [secret for secret in secrets if secret in row["text"]] == []


def test_all_keys_of_a_leaver_are_recorded_as_revoked(db: Database, tenant: Tenant) -> None:
    leaver = db.add_user(uuid4())
    db.add_member(tenant.account_id, leaver)
    keys = [db.create_key(Tenant(tenant.account_id, leaver))["id"] for _ in range(2)]
    revoke = "select public.revoke_api_keys_of(%s, %s)"
    db.rows(tenant.member, revoke, leaver, tenant.account_id)
    for key_id in keys:
        event = newest(db, tenant, key_id)
        assert (event["event"], event["actor_id"]) == ("revoke", tenant.user_id)


def test_changes_in_the_table_itself_are_recorded(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    table = "api_keys_private.api_keys"
    db.affected(SERVICE_ROLE, f"update {table} set name = 'by hand' where id = %s", key_id)
    event = newest(db, tenant, key_id)
    assert (event["event"], event["actor_type"], event["actor_id"]) == ("update", "service", None)
    assert event["changes"] == {"name": {"old": "test key", "new": "by hand"}}
    db.admin(f"update {table} set scopes = %s where id = %s", json.dumps([EVERYTHING]), key_id)
    assert newest(db, tenant, key_id)["actor_type"] == "service"


def test_a_service_request_with_a_users_claims_is_recorded_as_service(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    db.rows(Actor("service_role", tenant.user_id), DISABLE, key_id)
    event = newest(db, tenant, key_id)
    assert (event["actor_type"], event["actor_id"]) == ("service", None)


def test_events_outlive_the_key_and_its_account(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    db.rows(tenant.member, DISABLE, key_id)
    before = events(db, tenant, key_id)
    db.admin("delete from api_keys_private.api_keys where id = %s", key_id)
    assert events(db, tenant, key_id) == events(db, tenant) == before
    db.admin("delete from public.accounts where id = %s", tenant.account_id)
    assert db.rows(SERVICE_ROLE, EVENTS, tenant.account_id, key_id) == before


def test_pages_by_keyset_contain_each_event_once(db: Database, tenant: Tenant) -> None:
    key_ids = [db.create_key(tenant)["id"] for _ in range(3)]
    for key_id in key_ids:
        db.rows(tenant.member, DISABLE, key_id)
    # Two events of one time, which the id distinguishes.
    db.admin(
        "update api_keys_private.api_key_events set created_at = '2024-02-29'"
        " where account_id = %s and event = 'create'",
        tenant.account_id,
    )
    for requested in (None, key_ids[0]):
        expected = events(db, tenant, requested)
        assert expected == sorted(
            expected, key=lambda event: (event["created_at"], event["id"]), reverse=True
        )
        paged: list[dict[str, Any]] = []
        last: tuple[Any, Any] = (None, None)
        for _ in range(len(expected)):
            (event,) = db.rows(tenant.member, PAGE, tenant.account_id, requested, 1, *last)
            paged.append(event)
            last = event["created_at"], event["id"]
        assert paged == expected
        assert db.rows(tenant.member, PAGE, tenant.account_id, requested, 1, *last) == []
    before = "select event from public.list_api_key_events(p_account_id => %s, p_before => %s)"
    assert db.rows(tenant.member, before, tenant.account_id, "2024-02-29") == []


@pytest.mark.parametrize("limit", [None, 0, -1, 1001])
def test_a_limit_out_of_range_is_refused(db: Database, tenant: Tenant, limit: int | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must be between 1 and 1000"):
        db.rows(tenant.member, PAGE, tenant.account_id, None, limit, None, None)


def test_the_limit_is_100_by_default(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    with db.acting(tenant.member) as connection:
        for number in range(101):
            connection.execute(UPDATE.encode(), [key_id, json.dumps({"name": f"n{number}"})])
    assert len(events(db, tenant)) == 100
    assert len(db.rows(tenant.member, PAGE, tenant.account_id, None, 1000, None, None)) == 102
    # In the order in which they were made, in one transaction.
    assert newest(db, tenant, key_id)["changes"] == {"name": {"old": "n99", "new": "n100"}}


def test_who_may_read_the_trail(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    assert db.rows(SERVICE_ROLE, EVENTS, tenant.account_id, None) == events(db, tenant)
    other = db.add_tenant()
    for actor in (other.member, user(uuid4()), Actor("authenticated")):
        for requested in (None, key_id):
            with pytest.raises(errors.InsufficientPrivilege) as refusal:
                db.rows(actor, EVENTS, tenant.account_id, requested)
            assert refusal.value.diag.message_primary == NOT_A_MEMBER
    for actor in (api_key(key_id), Actor("anon")):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            db.rows(actor, EVENTS, tenant.account_id, None)
    for actor, account_id in (
        (other.member, other.account_id),
        (SERVICE_ROLE, other.account_id),
        (SERVICE_ROLE, uuid4()),
    ):
        for requested in (key_id, uuid4()):
            with pytest.raises(psycopg.Error) as missing:
                db.rows(actor, EVENTS, account_id, requested)
            assert missing.value.sqlstate == "PT404"
    assert db.rows(SERVICE_ROLE, EVENTS, uuid4(), None) == []


def test_a_key_from_before_the_trail_has_no_events(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    db.admin("delete from api_keys_private.api_key_events where api_key_id = %s", key_id)
    assert events(db, tenant, key_id) == []
