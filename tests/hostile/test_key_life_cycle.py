"""An attacker changes, rotates or authenticates keys that he may not, or hides that he did."""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._attempts import World, through_sql
from tests.database._matrix import OUTCOMES, outcomes_of
from tests.database._sql import EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, api_key, user
from tests.database.test_authentication import authenticate, code
from tests.database.test_old_keys import add_old_key, crypt_calls

GET = "select * from public.get_api_key(%s)"
UPDATE = "select * from public.update_api_key(%s, %s)"
DISABLE = "select * from public.disable_api_key(%s)"
ENABLE = "select * from public.enable_api_key(%s)"
ROTATE = "select * from public.rotate_api_key(%s)"
REVOKE = "select public.revoke_api_key(%s)"
EVENTS = "select * from public.list_api_key_events(%s, %s)"
CHANGES: tuple[tuple[str, ...], ...] = (
    (UPDATE, json.dumps({"name": "stolen", "scopes": [EVERYTHING], "expires_at": None})),
    (DISABLE,),
    (ENABLE,),
    (ROTATE,),
)
MANY = 1000


def row(db: Database, key_id: UUID) -> dict[str, Any]:
    (key,) = db.admin("select * from api_keys_private.api_keys where id = %s", key_id)
    return key


def change(db: Database, actor: Actor, key_id: UUID, **changes: object) -> dict[str, Any]:
    (key,) = db.rows(actor, UPDATE, key_id, json.dumps(changes))
    return key


def sqlstate(db: Database, actor: Actor, statement: str, *arguments: object) -> str | None:
    """None when it succeeds."""
    try:
        db.rows(actor, statement, *arguments)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_to_change_a_key_of_another_account(db: Database, tenant: Tenant) -> None:
    former = db.add_user(uuid4())
    db.add_member(tenant.account_id, former)
    db.admin("delete from public.accounts_memberships where user_id = %s", former)
    key_id = db.create_key(tenant)["id"]
    before = row(db, key_id)
    for attacker in (db.add_tenant().member, user(former), user(key_id)):
        for statement, *arguments in ((GET,), *CHANGES):
            said = []
            for requested in (key_id, uuid4()):
                with pytest.raises(psycopg.Error) as refusal:
                    db.rows(attacker, statement, requested, *arguments)
                assert refusal.value.sqlstate == "PT404"
                said.append(str(refusal.value))
            # Nothing tells whether the key exists.
            assert said[0] == said[1]
    assert row(db, key_id) == before


def test_to_change_keys_without_a_user(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant, [EVERYTHING])["id"]
    before = row(db, key_id)
    for attacker in (api_key(key_id), Actor("api_key", tenant.user_id), Actor("anon")):
        for statement, *arguments in ((GET,), *CHANGES, (REVOKE,)):
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
                db.rows(attacker, statement, key_id, *arguments)
    assert row(db, key_id) == before


def test_to_be_the_service_role_by_a_claim(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    attacker = db.add_tenant().member
    claims = {"role": "service_role", "sub": str(attacker.subject)}
    for statement, *arguments in ((GET,), *CHANGES):
        with db.acting(attacker) as connection:
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
            )
            with pytest.raises(psycopg.Error) as refusal:
                connection.execute(statement.encode(), [key_id, *arguments])
        assert refusal.value.sqlstate == "PT404"


@pytest.mark.usefixtures("owners_only")
def test_to_change_keys_without_the_account_role_for_it(db: Database, tenant: Tenant) -> None:
    junior = user(db.add_user(uuid4()))
    assert junior.subject
    db.add_member(tenant.account_id, junior.subject)
    key_id = db.create_key(tenant)["id"]
    before = row(db, key_id)
    for statement, *arguments in CHANGES:
        with pytest.raises(errors.InsufficientPrivilege, match="the account role owner"):
            db.rows(junior, statement, key_id, *arguments)
        assert sqlstate(db, db.add_tenant().member, statement, key_id, *arguments) == "PT404"
    assert row(db, key_id) == before
    assert len(db.rows(junior, GET, key_id)) == 1
    assert len(db.rows(junior, EVENTS, tenant.account_id, key_id)) == 1
    for statement, *arguments in CHANGES:
        db.rows(SERVICE_ROLE, statement, key_id, *arguments)


def test_to_block_a_key_by_locks_without_access_to_it(db: Database, tenant: Tenant) -> None:
    """Who may not change a key waits for nobody, and lets nobody wait."""
    key_id = db.create_key(tenant)["id"]
    attacker = db.add_tenant().member
    with psycopg.connect(db.admin_url) as busy:
        busy.execute("select from api_keys_private.api_keys where id = %s for update", [key_id])
        for statement, *arguments in CHANGES:
            with db.acting(attacker) as connection:
                connection.execute("set local lock_timeout = '2s'")
                with pytest.raises(psycopg.Error) as refusal:
                    connection.execute(statement.encode(), [key_id, *arguments])
            assert refusal.value.sqlstate == "PT404"


def test_to_use_the_token_of_a_disabled_key(db: Database, tenant: Tenant, world: World) -> None:
    target = world.target()
    key_id = db.create_key(
        Tenant(target.account_id, target.created_by), [EVERYTHING], disabled_at=datetime.now(UTC)
    )["id"]
    for operation in OUTCOMES:
        expected = outcomes_of(operation)["revoked key"]
        assert through_sql(db, api_key(key_id), operation, world.target()) == expected, operation
    with pytest.raises(errors.InsufficientPrivilege, match="revoked, disabled or expired"):
        db.rows(api_key(key_id), "select public.verify_api_key('sk_')")


def test_to_undo_a_revocation_by_changes_at_the_same_time(db: Database, tenant: Tenant) -> None:
    for _ in range(5):
        key = db.create_key(tenant)
        attempts = [(statement, key["id"], *arguments) for statement, *arguments in CHANGES[:3]] * 4
        attempts.append((REVOKE, key["id"]))
        random.shuffle(attempts)
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(lambda it: sqlstate(db, tenant.member, *it), attempts))
        assert set(outcomes) <= {None, "PT409"}
        assert row(db, key["id"])["is_active"] is False
        assert authenticate(db, key["key"])["code"] == "revoked"


def test_to_keep_access_by_rotating_a_colleagues_key_before_leaving(
    db: Database, tenant: Tenant
) -> None:
    leaver = db.add_user(uuid4())
    db.add_member(tenant.account_id, leaver)
    (successor,) = db.rows(user(leaver), ROTATE, db.create_key(tenant)["id"])
    revoke = "select public.revoke_api_keys_of(%s, %s)"
    assert db.value(tenant.member, revoke, leaver, tenant.account_id) == 1
    assert code(db, successor["key"]) == "revoked"


def fill(db: Database, tenant: Tenant, count: int, **columns: object) -> list[UUID]:
    """Add keys to the account, without the checks of the functions."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(", %s" for _ in columns)
    rows = db.admin(
        "insert into api_keys_private.api_keys"
        f" (account_id, name, key_prefix, key_hash, created_by{names})"
        f" select %s, 'n', 'sk_0000', gen_random_uuid()::text, %s{values}"
        " from generate_series(1, %s) returning id",
        *(tenant.account_id, tenant.user_id, *columns.values(), count),
    )
    return [row["id"] for row in rows]


def count_unrevoked(db: Database, tenant: Tenant) -> int:
    (found,) = db.admin(
        "select count(*) from api_keys_private.api_keys where account_id = %s and is_active"
        " and (expires_at is null or expires_at > now())",
        tenant.account_id,
    )
    return int(found["count"])


def test_to_have_more_keys_by_disabling_some(db: Database, tenant: Tenant) -> None:
    fill(db, tenant, MANY, disabled_at=datetime.now(UTC))
    with pytest.raises(psycopg.Error, match="the account has 1000 live API keys") as refusal:
        db.create_key(tenant)
    assert refusal.value.sqlstate == "PT409"


def test_to_have_more_keys_by_extending_expired_ones(db: Database, tenant: Tenant) -> None:
    fill(db, tenant, MANY - 3)
    expired = fill(db, tenant, 8, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    never = json.dumps({"expires_at": None})
    with ThreadPoolExecutor(8) as pool:
        outcomes = Counter(
            pool.map(lambda key_id: sqlstate(db, tenant.member, UPDATE, key_id, never), expired)
        )
    assert outcomes == {None: 3, "PT409": 5}
    assert count_unrevoked(db, tenant) == MANY
    # Other changes of an expired key do not make it live.
    change(db, tenant.member, expired[-1], name="new")
    assert count_unrevoked(db, tenant) == MANY


def test_to_have_more_keys_by_extending_rotated_ones(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    db.rows(tenant.member, ROTATE, key_id)
    later = (datetime.now(UTC) + timedelta(days=31)).isoformat()
    for expires_at in (None, later):
        with pytest.raises(errors.InvalidParameterValue, match="the API key was rotated"):
            change(db, tenant.member, key_id, expires_at=expires_at)


def deep(levels: int) -> str:
    return '{"a": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@pytest.mark.parametrize(
    "metadata",
    [deep(101), deep(2000), '{"a": 1e400}', '{"a": -1e400}', json.dumps({"a": "x" * 5_000_000})],
)
def test_to_break_or_slow_the_readers_of_keys_by_metadata(
    db: Database, tenant: Tenant, metadata: str
) -> None:
    key_id = db.create_key(tenant)["id"]
    direct = "update api_keys_private.api_keys set metadata = %s where id = %s"
    with pytest.raises(errors.CheckViolation, match="api_keys_metadata_limit is exceeded"):
        db.rows(tenant.member, UPDATE, key_id, f'{{"metadata": {metadata}}}')
    with pytest.raises(errors.CheckViolation, match="api_keys_metadata_limit is exceeded"):
        db.affected(SERVICE_ROLE, direct, metadata, key_id)
    with pytest.raises(errors.CheckViolation, match="api_keys_metadata_limit is exceeded"):
        db.affected(SERVICE_ROLE, direct, "[]", key_id)
    assert row(db, key_id)["metadata"] == {}


def test_to_keep_the_database_busy_with_a_long_list_of_networks(
    db: Database, tenant: Tenant
) -> None:
    key_id = db.create_key(tenant)["id"]
    changes = json.dumps({"allowed_ips": ["192.0.2.1"] * 300_000})
    with db.acting(tenant.member) as connection:
        connection.execute("set local statement_timeout = '5s'")
        with pytest.raises(errors.CheckViolation, match="api_keys_allowed_ips_limit"):
            connection.execute(UPDATE.encode(), [key_id, changes])


TEXTS = (
    "'; drop table api_keys_private.api_keys; --",
    "%s %I %L %1$s",
    "$$ || pg_sleep(10) || $$",
    '"}, "is_active": {"x',
    "\\",
    "\n\r\t\u202e",
    "<script>alert(1)</script>",
)


@pytest.mark.parametrize("text", TEXTS)
def test_to_run_sql_by_the_texts_of_a_key(db: Database, tenant: Tenant, text: str) -> None:
    key = db.create_key(tenant)
    scope = EVERYTHING | {"entity_id": text}
    changed = change(db, tenant.member, key["id"], name=text, metadata={text: text}, scopes=[scope])
    assert (changed["name"], changed["metadata"]) == (text, {text: text})
    assert changed["scopes"] == [scope]
    result = authenticate(db, key["key"])
    assert (result["name"], result["metadata"]) == (text, {text: text})
    (event, _) = db.rows(tenant.member, EVENTS, tenant.account_id, key["id"])
    assert event["changes"]["name"]["new"] == text
    for changes in ({text: 1}, {"expires_at": text}, {"allowed_ips": [text]}):
        with pytest.raises(errors.InvalidParameterValue):
            change(db, tenant.member, key["id"], **changes)


def test_to_receive_megabytes_by_an_error(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    text = "x" * 3_000_000
    for changes in ({text: 1}, {"expires_at": text}, {"allowed_ips": [text]}):
        with pytest.raises(errors.InvalidParameterValue) as refusal:
            change(db, tenant.member, key_id, **changes)
        assert len(refusal.value.diag.message_primary or "") < 300


@pytest.mark.parametrize(
    "network",
    [
        *("10", "10/8", "10.1/16", "0x0a.0.0.1", "010.0.0.0/8", "10.0.0.010", "167772160"),
        *("192.0.2.5/24", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2.0/", "192.0.2.0/24/24"),
        *("::ffff:192.0.2.5/120", "::ffff:010.0.0.1", "2001:db8::1/32", "fe80::1%eth0", ":"),
        *("", " 192.0.2.0/24", "192.0.2.0/24 ", "192.0.2.0/24,0.0.0.0/0", "*", "localhost"),
        *("\u0661\u0662\u0667.0.0.1", None, 5, True, {}, ["192.0.2.0/24"]),
    ],
)
def test_to_store_a_network_that_others_read_differently(
    db: Database, tenant: Tenant, network: object
) -> None:
    key_id = db.create_key(tenant)["id"]
    with pytest.raises(
        errors.InvalidParameterValue, match=r"allowed_ips\[1\] must be a network, not "
    ):
        change(db, tenant.member, key_id, allowed_ips=["192.0.2.0/24", network])
    assert row(db, key_id)["allowed_ips"] is None


def test_a_mapped_network_is_stored_as_ipv4(db: Database, tenant: Tenant) -> None:
    mapped = ["::ffff:192.0.2.0/120", "::FFFF:C000:0201", "::ffff:0:0/96"]
    stored = change(db, tenant.member, db.create_key(tenant)["id"], allowed_ips=mapped)
    assert stored["allowed_ips"] == [
        *(ip_network("192.0.2.0/24"), ip_network("192.0.2.1/32"), ip_network("0.0.0.0/0"))
    ]


@pytest.mark.parametrize(
    "ip",
    [
        # Wider than the network of the key.
        *("0.0.0.0/0", "192.0.2.1/8", "::ffff:192.0.2.1/100", "::/0", "::ffff:0:0/95"),
        # IPv6 addresses that contain an address of the network, but are not that address.
        *("::192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:0201::", "::ffff:0:192.0.2.1"),
        None,
    ],
)
def test_to_pass_as_an_address_of_the_network(db: Database, tenant: Tenant, ip: str | None) -> None:
    key = db.create_key(tenant, allowed_ips=["192.0.2.0/24"])
    assert code(db, key["key"], ip) == "ip_not_allowed"


@pytest.mark.parametrize("text", ["sk_" + "a" * 10_000_000, "a" * 10_000_000, "sk_abcd", ""])
def test_to_wear_down_authentication_by_long_texts(db: Database, text: str) -> None:
    before = crypt_calls(db)
    assert code(db, text) == "not_found"
    assert crypt_calls(db) == before


def test_to_spend_bcrypt_by_changing_between_verify_and_authenticate(
    db: Database, tenant: Tenant
) -> None:
    prefix = f"sk_{uuid4().hex[:4]}"
    add_old_key(db, tenant, prefix + uuid4().hex)
    before = crypt_calls(db)
    states: Counter[str | None] = Counter()
    for number in range(40):
        function = ("verify_api_key", "authenticate_api_key")[number % 2]
        guess = prefix + uuid4().hex
        states[sqlstate(db, SERVICE_ROLE, f"select public.{function}(%s)", guess)] += 1
    # Six comparisons in each of two periods, and one in each slot of two seconds.
    assert crypt_calls(db) - before < 30
    assert states.keys() == {None, "PGRST"}
    assert states["PGRST"] > 5


def test_to_change_the_audit_trail(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    table = "api_keys_private.api_key_events"
    before = db.admin(f"select * from {table} where api_key_id = %s", key_id)
    for attacker in (tenant.member, api_key(key_id), Actor("anon"), SERVICE_ROLE):
        for statement in (
            f"delete from {table}",
            f"update {table} set actor_type = 'service'",
            (
                f"insert into {table} (account_id, api_key_id, event, actor_type, changes)"
                f" values ('{tenant.account_id}', '{key_id}', 'update', 'service', '{{}}')"
            ),
            f"truncate {table}",
            f"alter table {table} disable row level security",
            "alter table api_keys_private.api_keys disable trigger api_keys_record_change",
            "set local session_replication_role = replica",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                db.rows(attacker, statement)
    assert db.admin(f"select * from {table} where api_key_id = %s", key_id) == before


def test_to_blame_the_service_role_for_a_change(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    claims = {"role": "service_role", "sub": str(tenant.user_id)}
    with db.acting(tenant.member) as connection:
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
        )
        connection.execute(DISABLE.encode(), [key_id])
    (event, _) = db.rows(tenant.member, EVENTS, tenant.account_id, key_id)
    assert (event["actor_type"], event["actor_id"]) == ("user", tenant.user_id)


def test_to_read_the_trail_of_another_account(db: Database, tenant: Tenant) -> None:
    key_id = db.create_key(tenant)["id"]
    attacker = db.add_tenant()
    for requested in (None, key_id):
        assert sqlstate(db, attacker.member, EVENTS, tenant.account_id, requested) == "42501"
    # By the id of the key, from the attacker's own account.
    said = []
    for requested in (key_id, uuid4()):
        with pytest.raises(psycopg.Error) as refusal:
            db.rows(attacker.member, EVENTS, attacker.account_id, requested)
        assert refusal.value.sqlstate == "PT404"
        said.append(str(refusal.value))
    assert said[0] == said[1]
