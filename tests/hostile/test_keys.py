"""Attacks on API keys: exceed limits, exhaust the CPU, guess, and use or revoke keys of others."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import (
    EVERYTHING,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
    user,
)
from tests.database.test_old_keys import add_old_key, crypt_calls

CREATE = "select * from public.create_api_key(%s, %s, %s, %s)"


def create(
    db: Database, tenant: Tenant, *, name: str = "n", scopes: Any = (), expires: Any = None
) -> Any:
    text = scopes if isinstance(scopes, str) else json.dumps(list(scopes))
    (row,) = db.rows(tenant.member, CREATE, tenant.account_id, name, text, expires)
    return row


TOO_MUCH: list[tuple[str, dict[str, Any]]] = [
    ("expires_at", {"expires": "294276-01-01"}),
    ("expires_at", {"expires": "10000-01-01 00:00:00+00"}),
    ("name", {"name": "n" * 256}),
    ("scopes", {"scopes": [EVERYTHING] * 101}),
    ("scopes", {"scopes": [EVERYTHING | {"entity_id": "x" * 256}]}),
    ("scopes", {"scopes": [EVERYTHING | {"entity_type": "\n" * 255 + "x"}]}),
    ("scopes", {"scopes": [EVERYTHING | {"action": "x" * 5_000_000}]}),
]


@pytest.mark.parametrize(("column", "arguments"), TOO_MUCH)
def test_to_break_or_slow_the_list_of_keys(
    db: Database, tenant: Tenant, column: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(errors.CheckViolation, match=f"api_keys_{column}_limit is exceeded"):
        create(db, tenant, **arguments)
    assert db.rows(tenant.member, "select * from public.list_api_keys(%s)", tenant.account_id) == []


def test_keys_within_the_limits_are_created(db: Database, tenant: Tenant) -> None:
    scopes = [EVERYTHING | {"entity_id": f"{number:>0255}"} for number in range(100)]
    key = create(db, tenant, name="ñ" * 255, scopes=scopes, expires="9999-12-31 23:59:59.999999+00")
    assert len(key["scopes"]) == 100


@pytest.mark.parametrize(
    "scopes", ["[" * 5000 + "]" * 5000, json.dumps([{"entity_type": {"a": {}}}]), "{}", "null"]
)
def test_to_crash_the_check_of_scopes(db: Database, tenant: Tenant, scopes: str) -> None:
    with pytest.raises((errors.InvalidParameterValue, errors.CheckViolation)):
        create(db, tenant, scopes=scopes)


def test_to_create_keys_without_end(db: Database, tenant: Tenant) -> None:
    db.admin(
        "insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)"
        " select %s, 'n', 'sk_0000', gen_random_uuid()::text, %s from generate_series(1, 996)",
        tenant.account_id,
        tenant.user_id,
    )

    def attempt(_: int) -> str | None:
        """Create a key, and return the SQLSTATE of the error, or None."""
        try:
            create(db, tenant)
        except psycopg.Error as error:
            return error.sqlstate
        return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = Counter(pool.map(attempt, range(16)))
    assert outcomes == {None: 4, "PT409": 12}
    other = db.add_tenant()
    assert create(db, other)["key"].startswith("sk_")
    # Revoked keys do not count.
    (key_id,) = db.admin(
        "select id from api_keys_private.api_keys where account_id = %s limit 1", tenant.account_id
    )
    db.rows(tenant.member, "select public.revoke_api_key(%s)", key_id["id"])
    assert attempt(0) is None


def verdict(db: Database, text: str) -> str | int:
    """The result of verify_api_key, or the seconds in Retry-After."""
    try:
        return "valid" if db.verify(text)["valid"] else "invalid"
    except psycopg.Error as error:
        if error.sqlstate != "PGRST":
            raise
        message, detail = error.diag.message_primary, error.diag.message_detail
    body, response = json.loads(message or ""), json.loads(detail or "")
    assert (body["code"], response["status"]) == ("PT429", 429)
    return int(response["headers"]["Retry-After"])


def test_to_spend_the_databases_time_on_bcrypt(db: Database, tenant: Tenant) -> None:
    prefix = f"sk_{uuid4().hex[:4]}"
    # Keys rarely share a prefix: with 4,500 keys, the probability of a pair is one half.
    for _ in range(4):
        add_old_key(db, tenant, prefix + uuid4().hex)
    before = crypt_calls(db)
    began = time.monotonic()
    verdicts = [verdict(db, prefix + uuid4().hex) for _ in range(200)]
    periods = 2 + (time.monotonic() - began) // 30
    assert crypt_calls(db) - before <= periods * (9 + 15 * 4)
    postponed = [seconds for seconds in verdicts if isinstance(seconds, int)]
    assert len(postponed) > 100
    assert all(1 <= seconds <= 30 for seconds in postponed)
    assert set(verdicts) - set(postponed) == {"invalid"}


def test_to_lock_out_the_owner_of_an_old_key(db: Database, tenant: Tenant) -> None:
    """Invalid keys keep arriving while the owner waits for the time in Retry-After."""
    prefix = f"sk_{uuid4().hex[:4]}"
    texts = [prefix + uuid4().hex for _ in range(10)]
    for text in texts:
        add_old_key(db, tenant, text)
    for _ in range(10):
        assert verdict(db, prefix + uuid4().hex) != "valid"
    verdicts = {text: verdict(db, text) for text in texts}
    assert "invalid" not in verdicts.values()
    # The key with the shortest wait keeps the test short.
    seconds, text = min((wait, text) for text, wait in verdicts.items() if isinstance(wait, int))
    result: str | int = seconds
    for _ in range(5):
        if not isinstance(result, int):
            break
        end = time.monotonic() + result
        while time.monotonic() < end - 0.5:
            assert verdict(db, prefix + uuid4().hex) != "valid"
            time.sleep(0.4)
        time.sleep(max(0.0, end - time.monotonic()))
        result = verdict(db, text)
    assert result == "valid"
    # The key is now hashed with SHA-256.
    assert verdict(db, text) == "valid"


@pytest.mark.parametrize("state", ["unknown", "revoked", "expired"])
def test_to_check_texts_as_a_key_that_does_not_live(
    db: Database, tenant: Tenant, state: str
) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    columns: dict[str, dict[str, Any]] = {
        "revoked": {"is_active": False},
        "expired": {"expires_at": past},
    }
    key_id = uuid4() if state == "unknown" else db.create_key(tenant, **columns[state])["id"]
    text = "sk_" + uuid4().hex
    add_old_key(db, tenant, text)
    before = crypt_calls(db)
    for guess in (text, text[:7] + uuid4().hex):
        with pytest.raises(errors.InsufficientPrivilege, match="revoked, disabled or expired"):
            db.rows(api_key(key_id), "select * from public.verify_api_key(%s)", guess)
    assert crypt_calls(db) == before


@pytest.mark.parametrize("text", ["sk_" + "a" * 10_000_000, "a" * 10_000_000, "sk_abcd\0"[:7], ""])
def test_to_wear_down_verification_by_long_texts(db: Database, text: str) -> None:
    before = crypt_calls(db)
    assert db.verify(text)["valid"] is False
    assert crypt_calls(db) == before


def test_to_fill_the_log_with_one_request(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    endpoint, agent = "/" + "e" * 3_000_000, "u" * 3_000_000
    db.rows(
        SERVICE_ROLE,
        "select * from public.log_api_key_usage(%s, %s, %s, 200, %s, %s)",
        *(key_id, endpoint, "M" * 1000, "i" * 1000, agent),
    )
    event = {"api_key_id": str(key_id), "endpoint": endpoint, "method": "M" * 1000}
    event |= {"user_agent": agent, "ip_address": "i" * 1000}
    (line,) = db.rows(
        SERVICE_ROLE, "select * from public.log_api_key_usage_batch(%s)", json.dumps([event])
    )
    assert line["success"] is True
    rows = db.admin("select * from api_keys_private.api_key_logs where api_key_id = %s", key_id)
    lengths = [
        [len(row[column]) for column in ("endpoint", "method", "ip_address", "user_agent")]
        for row in rows
    ]
    assert lengths == [[2000, 255, 255, 1000]] * 2


def test_to_keep_access_by_keys_after_leaving_the_team(db: Database, tenant: Tenant) -> None:
    leaver = db.add_user(uuid4())
    db.add_member(tenant.account_id, leaver)
    other = db.add_tenant()
    db.add_member(other.account_id, leaver)
    mine = [db.create_key(Tenant(tenant.account_id, leaver))["key"] for _ in range(3)]
    elsewhere = db.create_key(Tenant(other.account_id, leaver))["key"]
    colleagues = db.create_key(tenant)["key"]
    expired = db.create_key(
        Tenant(tenant.account_id, leaver), expires_at=datetime(2020, 1, 1, tzinfo=UTC)
    )
    revoke = "select public.revoke_api_keys_of(%s, %s)"
    assert db.value(tenant.member, revoke, leaver, tenant.account_id) == 3
    assert db.value(tenant.member, revoke, leaver, tenant.account_id) == 0
    assert [db.verify(text)["valid"] for text in mine] == [False] * 3
    assert db.verify(elsewhere)["valid"] is True
    assert db.verify(colleagues)["valid"] is True
    # Extending the expiry of a revoked key does not make it live.
    db.admin("update api_keys_private.api_keys set expires_at = null where id = %s", expired["id"])
    assert db.verify(expired["key"])["valid"] is False
    assert db.value(SERVICE_ROLE, revoke, leaver, None) == 1
    assert db.verify(elsewhere)["valid"] is False


def test_to_revoke_the_keys_of_other_accounts(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    stranger = db.add_tenant().member
    revoke = "select public.revoke_api_keys_of(%s, %s)"
    for account_id in (tenant.account_id, None, uuid4()):
        with pytest.raises(errors.InsufficientPrivilege):
            db.rows(stranger, revoke, tenant.user_id, account_id)
    with pytest.raises(
        errors.InsufficientPrivilege, match="only service_role may revoke API keys in all"
    ):
        db.rows(tenant.member, revoke, tenant.user_id, None)
    with pytest.raises(errors.InvalidParameterValue):
        db.rows(SERVICE_ROLE, revoke, None, None)
    assert db.verify(key["key"])["valid"] is True


@pytest.mark.usefixtures("owners_only")
def test_to_manage_keys_without_the_account_role_for_it(db: Database, tenant: Tenant) -> None:
    member = db.add_user(uuid4())
    db.add_member(tenant.account_id, member)
    key = db.create_key(tenant)
    for statement, *arguments in (
        (CREATE, tenant.account_id, "n", "[]", None),
        ("select public.revoke_api_key(%s)", key["id"]),
        ("select public.revoke_api_keys_of(%s, %s)", tenant.user_id, tenant.account_id),
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="the account role owner"):
            db.rows(user(member), statement, *arguments)
        with pytest.raises(errors.InsufficientPrivilege, match="not a member"):
            db.rows(db.add_tenant().member, statement, *arguments)
    list_keys = "select * from public.list_api_keys(%s)"
    assert len(db.rows(user(member), list_keys, tenant.account_id)) == 1
    assert db.value(tenant.member, "select public.revoke_api_key(%s)", key["id"]) is True
    revoke = "select public.revoke_api_keys_of(%s, null)"
    assert db.value(SERVICE_ROLE, revoke, tenant.user_id) == 0


def test_the_settings_cannot_require_an_unknown_account_role(db: Database) -> None:
    with pytest.raises(errors.ForeignKeyViolation):
        db.rows(SERVICE_ROLE, "update api_keys_private.settings set manage_keys_role = 'boss'")


def test_to_turn_the_settings_of_the_keys_off(db: Database, tenant: Tenant) -> None:
    key = api_key(db.create_key(tenant, [EVERYTHING])["id"])
    for actor in (tenant.member, key, Actor("anon")):
        for statement in (
            "update api_keys_private.settings set manage_keys_role = null",
            "delete from api_keys_private.settings",
            "delete from api_keys_private.failed_comparisons",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                db.affected(actor, statement)
    with pytest.raises(errors.InsufficientPrivilege):
        db.affected(SERVICE_ROLE, "delete from api_keys_private.settings")


def test_to_raise_the_scopes_of_ones_own_key(db: Database, tenant: Tenant) -> None:
    key = api_key(db.create_key(tenant, [EVERYTHING])["id"])
    for actor in (tenant.member, key):
        with pytest.raises(errors.InsufficientPrivilege):
            db.affected(actor, "update api_keys_private.api_keys set scopes = '[]'")
    with pytest.raises(errors.InsufficientPrivilege):
        db.rows(key, CREATE, tenant.account_id, "n", json.dumps([EVERYTHING]), None)


@pytest.mark.parametrize("entity_id", ["%", "_", "**", "*,*", "' or true --", "$.**", "\\*"])
def test_to_be_allowed_everything_by_what_looks_like_a_wildcard(
    db: Database, tenant: Tenant, entity_id: str
) -> None:
    scope = {"entity_type": "segment", "entity_id": entity_id, "action": "read"}
    key = api_key(db.create_key(tenant, [scope])["id"])
    db.create_segment(tenant)
    ask = "select public.has_scope('segment', %s, 'read')"
    assert db.value(key, ask, str(uuid4())) is False
    assert db.value(key, ask, "*") is False
    assert db.value(key, "select count(*) from public.segments") == 0


def test_to_hide_a_scope_by_naming_its_fields_twice(db: Database, tenant: Tenant) -> None:
    twice = '[{"entity_type": "segment", "entity_type": "*", "entity_id": "1", "action": "read"}]'
    key = create(db, tenant, scopes=twice)
    assert key["scopes"] == [{"entity_type": "*", "entity_id": "1", "action": "read"}]
    ask = "select public.has_scope('audience', '1', 'read')"
    assert db.value(api_key(key["id"]), ask) is True
    smuggled = [EVERYTHING | {"Action": "*"}]
    with pytest.raises(errors.InvalidParameterValue, match="unknown field"):
        create(db, tenant, scopes=smuggled)


def test_to_learn_whether_an_account_or_a_key_exists(db: Database, tenant: Tenant) -> None:
    stranger = db.add_tenant().member
    key = db.create_key(tenant)
    messages = []
    for account_id, key_id in ((tenant.account_id, key["id"]), (uuid4(), uuid4())):
        of_target = []
        for statement, *arguments in (
            (CREATE, account_id, "n", "[]", None),
            ("select * from public.list_api_keys(%s)", account_id),
            ("select public.revoke_api_key(%s)", key_id),
            ("select public.revoke_api_keys_of(%s, %s)", tenant.user_id, account_id),
        ):
            with pytest.raises(errors.InsufficientPrivilege) as refusal:
                db.rows(stranger, statement, *arguments)
            of_target.append(str(refusal.value))
        messages.append(of_target)
    assert messages[0] == messages[1]


def test_service_role_can_list_the_keys_hashed_with_bcrypt(db: Database, tenant: Tenant) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    add_old_key(db, tenant, "sk_" + uuid4().hex, is_active=False)
    report = "select * from api_keys_private.bcrypt_api_keys where account_id = %s"
    (row,) = db.rows(SERVICE_ROLE, report, tenant.account_id)
    assert (row["id"], row["name"], row["key_prefix"]) == (key_id, "old", text[:7])
    assert "key_hash" not in row
    db.verify(text)
    assert db.rows(SERVICE_ROLE, report, tenant.account_id) == []
