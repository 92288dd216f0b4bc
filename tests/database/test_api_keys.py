"""API keys: create, list, revoke and verify them, log their use, and check their scopes."""

from __future__ import annotations

import json
import string
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import (
    ANON,
    EVERYTHING,
    NOT_A_MEMBER,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
    user,
)

INVALID = {"valid": False, "api_key_id": None, "account_id": None, "error": "Invalid API key"}
BASE62 = string.ascii_uppercase + string.ascii_lowercase + string.digits
CREATE = "select * from public.create_api_key(%s, %s, %s, %s)"
ISSUE = "select * from public.issue_api_key(%s, %s, %s, %s, %s)"


def count_keys(db: Database, tenant: Tenant) -> int:
    (row,) = db.admin(
        "select count(*) from api_keys_private.api_keys where account_id = %s", tenant.account_id
    )
    return int(row["count"])


def test_a_member_creates_a_key(db: Database, tenant: Tenant) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    (key,) = db.rows(
        tenant.member, CREATE, tenant.account_id, "ci", json.dumps([EVERYTHING]), expires_at
    )
    assert list(key) == [
        *("id", "name", "key", "key_prefix", "account_id", "scopes", "expires_at", "created_at")
    ]
    assert key["name"] == "ci"
    assert key["key_prefix"] == key["key"][:7]
    assert key["account_id"] == tenant.account_id
    assert key["scopes"] == [EVERYTHING]
    assert key["expires_at"] == expires_at
    assert datetime.now(UTC) - key["created_at"] < timedelta(minutes=1)
    assert db.verify(key["key"]) == {
        "valid": True,
        "api_key_id": key["id"],
        "account_id": tenant.account_id,
        "error": None,
    }


def test_a_back_office_issues_a_key_for_a_member(db: Database, tenant: Tenant) -> None:
    colleague = db.add_user(uuid4())
    db.add_member(tenant.account_id, colleague)
    expires_at = datetime.now(UTC) + timedelta(days=1)
    (key,) = db.rows(
        SERVICE_ROLE,
        ISSUE,
        *(tenant.account_id, colleague, "ci", json.dumps([EVERYTHING]), expires_at),
    )
    assert (key["name"], key["scopes"], key["expires_at"]) == ("ci", [EVERYTHING], expires_at)
    assert db.verify(key["key"])["account_id"] == tenant.account_id
    (listed,) = db.rows(SERVICE_ROLE, "select * from public.list_api_keys(%s)", tenant.account_id)
    assert (listed["id"], listed["created_by"]) == (key["id"], colleague)


def test_a_key_is_not_issued_for_who_is_no_member(db: Database, tenant: Tenant) -> None:
    stranger = db.add_tenant()
    for account_id, creator in (
        (tenant.account_id, stranger.user_id),
        (tenant.account_id, uuid4()),
        (tenant.account_id, None),
        (uuid4(), tenant.user_id),
        (None, tenant.user_id),
    ):
        with pytest.raises(errors.InvalidParameterValue) as refusal:
            db.rows(SERVICE_ROLE, ISSUE, account_id, creator, "ci", "[]", None)
        assert refusal.value.diag.message_primary == (
            "the account does not exist, or the creator of the API key is not a member of it"
        )
    assert count_keys(db, tenant) == 0


def test_an_issued_key_is_checked_like_a_created_one(db: Database, tenant: Tenant) -> None:
    for name, scopes, expires_at in (
        (" ", "[]", None),
        ("ci", "[{}]", None),
        ("ci", "[]", datetime(2020, 1, 1, tzinfo=UTC)),
    ):
        with pytest.raises(errors.InvalidParameterValue):
            db.rows(
                SERVICE_ROLE,
                ISSUE,
                *(tenant.account_id, tenant.user_id, name, scopes, expires_at),
            )
    with pytest.raises(errors.CheckViolation, match="api_keys_name_limit"):
        db.rows(SERVICE_ROLE, ISSUE, tenant.account_id, tenant.user_id, "n" * 256, "[]", None)
    assert count_keys(db, tenant) == 0


def test_a_key_ends_in_its_checksum(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)["key"]
    body, checksum = key[:-6], key[-6:]
    assert len(key) == 49
    assert key.startswith("sk_")
    assert set(key[3:]) <= set(BASE62)
    value = 0
    for character in checksum:
        value = value * 62 + BASE62.index(character)
    assert value == zlib.crc32(body.encode())


@pytest.mark.parametrize("text", [b"", b"123456789", b"sk_", bytes(range(256))])
def test_crc32_equals_that_of_zlib(db: Database, text: bytes) -> None:
    (row,) = db.admin("select api_keys_private.crc32(%s)", text)
    assert row["crc32"] == zlib.crc32(text)


def test_the_characters_of_a_key_are_uniformly_distributed(db: Database) -> None:
    # 2,000 of each are expected, with a standard deviation of 44. A difference of six deviations
    # has a probability below one in a million. Without the rejection of large bytes, 2,422 of each
    # of the first eight characters would be expected.
    (row,) = db.admin("select api_keys_private.random_base62(124000) as text")
    counts = [row["text"].count(character) for character in BASE62]
    assert sum(counts) == 124_000
    assert min(counts) > 1_730
    assert max(counts) < 2_270


def test_the_key_itself_is_not_stored(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    db.verify(key["key"])
    (row,) = db.admin(
        "select api_key::text as text, key_hash from api_keys_private.api_keys as api_key"
        " where id = %s",
        key["id"],
    )
    assert key["key"] not in row["text"]
    assert len(row["key_hash"]) == 64
    (listed,) = db.rows(tenant.member, "select * from public.list_api_keys(%s)", tenant.account_id)
    assert key["key"] not in repr(listed)
    assert row["key_hash"] not in repr(listed)


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        (None, "scopes must be an array, not null"),
        ("null", "scopes must be an array, not null"),
        ("{}", "scopes must be an array, not object"),
        ('"*"', "scopes must be an array, not string"),
        ("[1]", "scopes[0] must be an object, not number"),
        ("[[]]", "scopes[0] must be an object, not array"),
        ("[{}]", "scopes[0].entity_type must be a non-empty string"),
        (
            [EVERYTHING, {"entity_type": "segment", "action": "read"}],
            "scopes[1].entity_id must be a non-empty string",
        ),
        ([EVERYTHING | {"action": ""}], "scopes[0].action must be a non-empty string"),
        ([EVERYTHING | {"action": "  "}], "scopes[0].action must be a non-empty string"),
        ([EVERYTHING | {"action": None}], "scopes[0].action must be a non-empty string"),
        ([EVERYTHING | {"action": ["read"]}], "scopes[0].action must be a non-empty string"),
        ([EVERYTHING | {'an "extra"': 1}], r'scopes[0] has an unknown field "an \"extra\""'),
    ],
)
def test_malformed_scopes_raise_22023(
    db: Database, tenant: Tenant, scopes: object, message: str
) -> None:
    document = scopes if scopes is None or isinstance(scopes, str) else json.dumps(scopes)
    with pytest.raises(errors.InvalidParameterValue) as refusal:
        db.rows(tenant.member, CREATE, tenant.account_id, "ci", document, None)
    assert refusal.value.diag.message_primary == message
    assert count_keys(db, tenant) == 0


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_blank_name_raises_22023(db: Database, tenant: Tenant, name: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must not be blank"):
        db.rows(tenant.member, CREATE, tenant.account_id, name, "[]", None)
    assert count_keys(db, tenant) == 0


@pytest.mark.parametrize("name", ["n", "n" * 255, "Käfig 🔑"])
def test_names_of_up_to_255_characters_are_accepted(
    db: Database, tenant: Tenant, name: str
) -> None:
    (key,) = db.rows(tenant.member, CREATE, tenant.account_id, name, "[]", None)
    assert key["name"] == name


def test_an_expiry_in_the_past_raises_22023(db: Database, tenant: Tenant) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must be a finite time in the future"):
        db.rows(tenant.member, CREATE, tenant.account_id, "ci", "[]", datetime.now(UTC))
    assert count_keys(db, tenant) == 0


def test_an_infinite_expiry_raises_22023(db: Database, tenant: Tenant) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="must be a finite time in the future"):
        db.rows(tenant.member, CREATE, tenant.account_id, "ci", "[]", "infinity")


def test_a_non_member_can_neither_create_nor_list_keys(db: Database, tenant: Tenant) -> None:
    stranger = db.add_tenant().member
    former = db.add_user(uuid4())
    db.add_member(tenant.account_id, former)
    db.admin("delete from public.accounts_memberships where user_id = %s", former)
    attempts = [
        (stranger, tenant.account_id),
        (user(former), tenant.account_id),
        (user(uuid4()), tenant.account_id),
        (Actor("authenticated"), tenant.account_id),
        (tenant.member, uuid4()),
        (tenant.member, None),
    ]
    for actor, account_id in attempts:
        for statement, parameters in (
            (CREATE, (account_id, "ci", "[]", None)),
            ("select * from public.list_api_keys(%s)", (account_id,)),
        ):
            with pytest.raises(errors.InsufficientPrivilege) as refusal:
                db.rows(actor, statement, *parameters)
            # One message for both cases, so that callers cannot probe for accounts.
            assert refusal.value.diag.message_primary == NOT_A_MEMBER
    assert count_keys(db, tenant) == 0


def test_the_owner_of_a_personal_account_without_a_membership_is_not_a_member(db: Database) -> None:
    owner = db.add_user(uuid4())
    (account,) = db.admin(
        "insert into public.accounts (name, is_personal_account, primary_owner_user_id)"
        " values ('P', true, %s) returning id",
        owner,
    )
    with pytest.raises(errors.InsufficientPrivilege):
        db.rows(user(owner), CREATE, account["id"], "ci", "[]", None)


def test_keys_are_listed_newest_first(db: Database, tenant: Tenant) -> None:
    keys = [db.create_key(tenant) for _ in range(3)]
    other = db.create_key(db.add_tenant())
    listed = db.rows(tenant.member, "select * from public.list_api_keys(%s)", tenant.account_id)
    assert [row["id"] for row in listed] == [key["id"] for key in reversed(keys)]
    assert other["id"] not in [row["id"] for row in listed]
    assert list(listed[0]) == [
        *("id", "name", "key_prefix", "scopes", "expires_at", "created_at", "last_used_at"),
        *("is_active", "created_by"),
    ]
    assert listed[0]["created_by"] == tenant.user_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "sk_",
        "sk_" + "A" * 46,
        "sk_" + "A" * 43,
        "sk_" + "A" * 10_000,
        "sk_🔑",
        "'; drop table api_keys_private.api_keys; --",
        "%",
        "\\",
        " ",
    ],
)
def test_a_text_that_is_not_a_key_is_invalid(db: Database, text: str | None) -> None:
    assert db.verify(text) == INVALID


def test_a_revoked_key_is_invalid(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    for _ in range(2):  # a repeated call has no effect
        assert db.value(tenant.member, "select public.revoke_api_key(%s)", key["id"]) is True
    assert db.verify(key["key"]) == INVALID
    (listed,) = db.rows(tenant.member, "select * from public.list_api_keys(%s)", tenant.account_id)
    assert listed["is_active"] is False


def test_a_back_office_lists_and_revokes_keys(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    list_keys = "select * from public.list_api_keys(%s)"
    assert db.rows(SERVICE_ROLE, list_keys, tenant.account_id) == db.rows(
        tenant.member, list_keys, tenant.account_id
    )
    assert db.rows(SERVICE_ROLE, list_keys, uuid4()) == []
    assert db.value(SERVICE_ROLE, "select public.revoke_api_key(%s)", key["id"]) is True
    assert db.verify(key["key"]) == INVALID
    for missing in (uuid4(), None):
        with pytest.raises(errors.InsufficientPrivilege, match="the API key does not exist"):
            db.value(SERVICE_ROLE, "select public.revoke_api_key(%s)", missing)


def test_a_non_member_cannot_revoke_a_key(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    for actor, key_id in (
        (db.add_tenant().member, key["id"]),
        (user(uuid4()), key["id"]),
        (tenant.member, uuid4()),
        (tenant.member, None),
    ):
        with pytest.raises(errors.InsufficientPrivilege) as refusal:
            db.value(actor, "select public.revoke_api_key(%s)", key_id)
        assert refusal.value.diag.message_primary == (
            "the API key does not exist, or you are not a member of its account"
        )
    assert db.verify(key["key"])["valid"] is True


def test_an_expired_key_is_invalid(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert db.verify(key["key"]) == INVALID


def test_a_key_is_deleted_with_its_account(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    db.admin("delete from public.accounts where id = %s", tenant.account_id)
    assert db.verify(key["key"]) == INVALID
    assert count_keys(db, tenant) == 0


def test_a_key_stays_valid_after_its_creator_is_deleted(db: Database, tenant: Tenant) -> None:
    maker = db.add_user(uuid4())
    db.add_member(tenant.account_id, maker)
    (key,) = db.rows(user(maker), CREATE, tenant.account_id, "ci", "[]", None)
    db.admin("delete from auth.users where id = %s", maker)
    assert db.verify(key["key"])["valid"] is True


LOG = "select * from public.log_api_key_usage(%s, %s, %s, %s, %s, %s)"


def test_a_use_is_logged(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    (result,) = db.rows(SERVICE_ROLE, LOG, key["id"], "/v1/x", "GET", 200, "::1", "curl/8")
    assert list(result) == ["success", "log_id", "timestamp", "error", "error_code"]
    assert result["success"] is True
    assert result["error"] is result["error_code"] is None
    (log,) = db.admin(
        "select id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp"
        " from api_keys_private.api_key_logs where api_key_id = %s",
        key["id"],
    )
    assert log == {
        "id": result["log_id"],
        "api_key_id": key["id"],
        "endpoint": "/v1/x",
        "method": "GET",
        "status_code": 200,
        "ip_address": "::1",
        "user_agent": "curl/8",
        "timestamp": result["timestamp"],
    }
    (listed,) = db.rows(
        tenant.member, "select last_used_at from public.list_api_keys(%s)", tenant.account_id
    )
    assert listed["last_used_at"] == result["timestamp"]


@pytest.mark.parametrize(
    ("known", "endpoint", "code"), [(False, "/", "23503"), (True, None, "23502")]
)
def test_an_error_while_logging_is_part_of_the_result(
    db: Database, tenant: Tenant, known: bool, endpoint: str | None, code: str
) -> None:
    key_id = db.create_key(tenant)["id"] if known else uuid4()
    (result,) = db.rows(SERVICE_ROLE, LOG, key_id, endpoint, "GET", 200, None, None)
    assert result["success"] is False
    assert result["error_code"] == code
    assert result["error"]
    assert result["log_id"] is result["timestamp"] is None


def test_fifty_concurrent_uses_are_fifty_rows(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    with ThreadPoolExecutor(10) as pool:
        results = list(
            pool.map(
                lambda _: db.rows(SERVICE_ROLE, LOG, key["id"], "/", "GET", 200, None, None)[0],
                range(50),
            )
        )
    assert all(result["success"] for result in results)
    (row,) = db.admin(
        "select count(*) from api_keys_private.api_key_logs where api_key_id = %s", key["id"]
    )
    assert row["count"] == 50


def test_last_used_at_is_updated_at_most_once_a_minute(db: Database, tenant: Tenant) -> None:
    def last_used_at() -> datetime:
        (row,) = db.admin(
            "select last_used_at from api_keys_private.api_keys where id = %s", key["id"]
        )
        assert isinstance(row["last_used_at"], datetime)
        return row["last_used_at"]

    key = db.create_key(tenant)
    db.rows(SERVICE_ROLE, LOG, key["id"], "/", "GET", 200, None, None)
    first = last_used_at()
    db.rows(SERVICE_ROLE, LOG, key["id"], "/", "GET", 200, None, None)
    assert last_used_at() == first
    db.admin(
        "update api_keys_private.api_keys set last_used_at = %s where id = %s",
        first - timedelta(seconds=61),
        key["id"],
    )
    db.rows(SERVICE_ROLE, LOG, key["id"], "/", "GET", 200, None, None)
    assert last_used_at() > first


def test_logging_does_not_wait_for_a_locked_key(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    with psycopg.connect(db.admin_url) as busy:
        busy.execute(
            "update api_keys_private.api_keys set last_used_at = null where id = %s", [key["id"]]
        )
        with db.acting(SERVICE_ROLE) as connection:
            connection.execute("set local lock_timeout = '2s'")
            result = connection.execute(LOG, [key["id"], "/", "GET", 200, None, None]).fetchone()
    assert result is not None
    assert result[0] is True


@pytest.mark.parametrize("entity_type", ["segment", "*"])
@pytest.mark.parametrize("entity_id", ["s1", "*"])
@pytest.mark.parametrize("action", ["read", "*"])
def test_a_scope_covers_every_combination_of_wildcards(
    db: Database, tenant: Tenant, entity_type: str, entity_id: str, action: str
) -> None:
    scope = {"entity_type": entity_type, "entity_id": entity_id, "action": action}
    key = api_key(db.create_key(tenant, [scope])["id"])

    def has(*request: str | None) -> bool:
        result = db.value(key, "select public.has_scope(%s, %s, %s)", *request)
        assert isinstance(result, bool)
        return result

    assert has("segment", "s1", "read")
    assert has("enrichment", "s1", "read") is (entity_type == "*")
    assert has("segment", "s2", "read") is (entity_id == "*")
    assert has("segment", "s1", "write") is (action == "*")
    assert has("segment", "*", "read") is (entity_id == "*")
    assert not has(None, "s1", "read")
    assert not has("segment", None, "read")
    assert not has("segment", "s1", None)


def test_fields_of_different_scopes_are_not_combined(db: Database, tenant: Tenant) -> None:
    scopes = [
        {"entity_type": "segment", "entity_id": "s1", "action": "read"},
        {"entity_type": "enrichment", "entity_id": "*", "action": "write"},
    ]
    key = api_key(db.create_key(tenant, scopes)["id"])
    has = "select public.has_scope(%s, %s, %s)"
    assert db.value(key, has, "enrichment", "e1", "write") is True
    assert db.value(key, has, "segment", "s1", "write") is False
    assert db.value(key, has, "enrichment", "e1", "read") is False


@pytest.mark.parametrize(
    "column", [{"is_active": False}, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}]
)
def test_a_revoked_or_expired_key_has_no_scope_and_no_account(
    db: Database, tenant: Tenant, column: dict[str, object]
) -> None:
    live = api_key(db.create_key(tenant, [EVERYTHING])["id"])
    dead = api_key(db.create_key(tenant, [EVERYTHING], **column)["id"])
    no_key = api_key(uuid4())
    for actor, works in ((live, True), (dead, False), (no_key, False), (Actor("api_key"), False)):
        assert db.value(actor, "select public.has_scope('segment', 's1', 'read')") is works
        account_id = db.value(actor, "select public.get_api_key_account_id()")
        assert account_id == (tenant.account_id if works else None)


def test_a_key_can_verify_keys(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant)
    assert db.value(api_key(key["id"]), "select valid from public.verify_api_key(%s)", key["key"])


def test_anon_cannot_call_any_function_for_keys(db: Database, tenant: Tenant) -> None:
    for statement in (
        "select public.create_api_key(null, null, null)",
        "select public.list_api_keys(null)",
        "select public.revoke_api_key(null)",
        "select public.verify_api_key(null)",
        "select public.log_api_key_usage(null, null, null, null, null, null)",
        "select public.has_scope(null, null, null)",
        "select public.get_api_key_account_id()",
        "select * from api_keys_private.api_keys",
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            db.rows(ANON, statement)
