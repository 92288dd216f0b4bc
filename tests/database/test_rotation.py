"""rotate_api_key: a key is replaced while the old one stays valid for a while."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, user
from tests.database.test_authentication import code

ROTATE = "select * from public.rotate_api_key(%s, %s::interval)"
PAST = datetime(2020, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def rotate(db: Database, actor: Actor, key_id: UUID, overlap: object = "1 day") -> dict[str, Any]:
    (successor,) = db.rows(actor, ROTATE, key_id, overlap)
    return successor


def row(db: Database, key_id: UUID) -> dict[str, Any]:
    (key,) = db.rows(SERVICE_ROLE, "select * from public.get_api_key(%s)", key_id)
    return key


def count_keys(db: Database, tenant: Tenant) -> int:
    return len(db.rows(SERVICE_ROLE, "select * from public.list_api_keys(%s)", tenant.account_id))


def test_the_successor_has_what_the_key_has(db: Database, tenant: Tenant) -> None:
    key = db.create_key(
        tenant, [EVERYTHING], metadata=json.dumps({"plan": "pro"}), allowed_ips=["192.0.2.0/24"]
    )
    successor = rotate(db, tenant.member, key["id"])
    assert successor == key | {
        "id": successor["id"],
        "key": successor["key"],
        "key_prefix": successor["key"][:7],
        "created_at": successor["created_at"],
    }
    assert successor["id"] != key["id"]
    assert successor["key"] != key["key"]
    stored = row(db, successor["id"])
    assert (stored["metadata"], stored["allowed_ips"]) == (
        {"plan": "pro"},
        [ip_network("192.0.2.0/24")],
    )
    assert stored["successor_id"] is None
    assert row(db, key["id"])["successor_id"] == successor["id"]
    assert code(db, successor["key"], "192.0.2.1") == "valid"
    assert code(db, key["key"], "192.0.2.1") == "valid"


def test_the_creator_is_the_member_who_rotates(db: Database, tenant: Tenant) -> None:
    colleague = db.add_user(uuid4())
    db.add_member(tenant.account_id, colleague)
    key = db.create_key(tenant)
    by_member = rotate(db, user(colleague), key["id"])
    assert row(db, by_member["id"])["created_by"] == colleague
    by_service = rotate(db, SERVICE_ROLE, by_member["id"])
    assert row(db, by_service["id"])["created_by"] == colleague


@pytest.mark.parametrize(
    ("overlap", "length"),
    [(None, DAY), ("12 hours", DAY / 2), ("30 days", 30 * DAY), ("1 month", 30 * DAY)],
)
def test_the_rotated_key_is_valid_for_the_overlap(
    db: Database, tenant: Tenant, overlap: str | None, length: timedelta
) -> None:
    key = db.create_key(tenant)
    if overlap is None:
        db.rows(tenant.member, "select public.rotate_api_key(%s)", key["id"])
    else:
        rotate(db, tenant.member, key["id"], overlap)
    rest = row(db, key["id"])["expires_at"] - datetime.now(UTC)
    assert length - MINUTE < rest <= length
    assert db.verify(key["key"])["valid"] is True


def test_without_an_overlap_the_key_expires_at_once(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    successor = rotate(db, tenant.member, key["id"], "0")
    assert code(db, key["key"]) == "expired"
    assert code(db, successor["key"]) == "valid"


def test_the_overlap_does_not_exceed_the_keys_own_expiry(db: Database, tenant: Tenant) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    key = db.create_key(tenant, expires_at=expires_at)
    rotate(db, tenant.member, key["id"], "7 days")
    assert row(db, key["id"])["expires_at"] == expires_at


@pytest.mark.parametrize("time_zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("days", [1, 90, 365])
def test_the_successor_has_the_lifetime_of_the_key(
    db: Database, tenant: Tenant, days: int, time_zone: str
) -> None:
    created_at = datetime.now(UTC) - 0.8 * days * DAY
    key = db.create_key(tenant, created_at=created_at, expires_at=created_at + days * DAY)
    with db.acting(tenant.member) as connection:
        connection.execute("select set_config('timezone', %s, true)", [time_zone])
        found = connection.execute(
            "select expires_at - created_at from public.rotate_api_key(%s)", [key["id"]]
        ).fetchone()
    assert found == (days * DAY,)


@pytest.mark.parametrize(
    ("expires_at", "successors"),
    [
        (None, None),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, tzinfo=UTC)),
        # Written before there was a limit.
        ("294276-01-01T00:00:00Z", datetime(9999, 12, 31, tzinfo=UTC)),
        ("infinity", None),
    ],
)
def test_a_key_that_lives_for_very_long_is_followed_by_such_a_key(
    db: Database, tenant: Tenant, expires_at: str | None, successors: datetime | None
) -> None:
    key = db.create_key(tenant)
    with psycopg.connect(db.admin_url) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(
            "update api_keys_private.api_keys set expires_at = %s, created_at = '2024-02-29'"
            " where id = %s",
            [expires_at, key["id"]],
        )
    assert rotate(db, tenant.member, key["id"])["expires_at"] == successors


@pytest.mark.parametrize(
    "overlap", [None, "-1 second", "1 day -25 hours", "30 days 00:00:01", "31 days", "1000 years"]
)
def test_an_overlap_out_of_range_is_refused(
    db: Database, tenant: Tenant, overlap: str | None
) -> None:
    key = db.create_key(tenant)
    before = row(db, key["id"])
    with pytest.raises(
        errors.InvalidParameterValue, match="the overlap must be between 0 and 30 days, not "
    ):
        rotate(db, tenant.member, key["id"], overlap)
    assert row(db, key["id"]) == before
    assert count_keys(db, tenant) == 1


def test_a_key_is_rotated_once(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    successor = rotate(db, tenant.member, key["id"], "0")
    for actor in (tenant.member, SERVICE_ROLE):
        with pytest.raises(psycopg.Error) as refusal:
            rotate(db, actor, key["id"])
        assert refusal.value.sqlstate == "PT409"
        assert refusal.value.diag.message_primary == (
            f"the API key was already rotated: its successor is {successor['id']}"
        )
        assert refusal.value.diag.message_hint == (
            "If the text of the successor was lost, rotate the successor."
        )
    assert count_keys(db, tenant) == 2
    assert rotate(db, tenant.member, successor["id"])["name"] == key["name"]


def test_two_people_who_rotate_at_once_create_one_key(db: Database, tenant: Tenant) -> None:
    colleague = db.add_user(uuid4())
    db.add_member(tenant.account_id, colleague)
    key = db.create_key(tenant)

    def attempt(actor: Actor) -> str | None:
        """None when it succeeds."""
        try:
            rotate(db, actor, key["id"])
        except psycopg.Error as error:
            return error.sqlstate
        return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = Counter(pool.map(attempt, [tenant.member, user(colleague)] * 8))
    assert outcomes == {None: 1, "PT409": 15}
    assert count_keys(db, tenant) == 2


def test_a_rotation_that_fails_leaves_the_key_to_the_next(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    with db.acting(tenant.member) as first, ThreadPoolExecutor(1) as pool:
        first.execute(ROTATE.encode(), [key["id"], "0"])
        second = pool.submit(rotate, db, tenant.member, key["id"])
        db.wait_for_blocked_session()
        first.rollback()
        successor = second.result()
    assert row(db, key["id"])["successor_id"] == successor["id"]
    assert count_keys(db, tenant) == 2


def test_a_key_whose_successor_was_deleted_can_be_rotated_again(
    db: Database, tenant: Tenant
) -> None:
    key = db.create_key(tenant)
    successor = rotate(db, tenant.member, key["id"])
    db.admin("delete from api_keys_private.api_keys where id = %s", successor["id"])
    assert row(db, rotate(db, tenant.member, key["id"])["id"])["successor_id"] is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"is_active": False}, "the API key is revoked, which is permanent"),
        ({"disabled_at": PAST}, "the API key is disabled"),
        ({"expires_at": PAST}, "the API key expired at "),
    ],
)
def test_a_key_that_is_not_live_is_not_rotated(
    db: Database, tenant: Tenant, columns: dict[str, object], message: str
) -> None:
    key = db.create_key(tenant, **columns)
    for actor in (tenant.member, SERVICE_ROLE):
        with pytest.raises(psycopg.Error) as refusal:
            rotate(db, actor, key["id"])
        assert refusal.value.sqlstate == "PT409"
        assert (refusal.value.diag.message_primary or "").startswith(message)
    assert count_keys(db, tenant) == 1


def test_an_account_with_the_maximum_of_keys_can_rotate_them(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    db.admin(
        "insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)"
        " select %s, 'n', 'sk_0000', gen_random_uuid()::text, %s from generate_series(1, 999)",
        tenant.account_id,
        tenant.user_id,
    )
    with pytest.raises(psycopg.Error, match="the account has 1000 live API keys"):
        db.create_key(tenant)
    assert db.verify(rotate(db, tenant.member, key["id"])["key"])["valid"] is True


def test_the_overlap_can_be_changed_within_its_limit(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    rotate(db, tenant.member, key["id"], "0")
    update = "select * from public.update_api_key(%s, %s)"
    now = datetime.now(UTC)
    for expires_at in (None, (now + 31 * DAY).isoformat()):
        with pytest.raises(errors.InvalidParameterValue, match="must expire within 30 days of it"):
            db.rows(tenant.member, update, key["id"], json.dumps({"expires_at": expires_at}))
    extended = json.dumps({"expires_at": (now + 29 * DAY).isoformat()})
    db.rows(tenant.member, update, key["id"], extended)
    assert code(db, key["key"]) == "valid"


def test_the_keys_of_a_rotation_go_with_their_account(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    successor = rotate(db, tenant.member, key["id"])
    rotate(db, tenant.member, successor["id"])
    db.admin("delete from public.accounts where id = %s", tenant.account_id)
    assert code(db, key["key"]) == code(db, successor["key"]) == "not_found"
