"""Keys hashed with bcrypt: compared once, then re-hashed with SHA-256."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from tests.database._sql import Database, Tenant

OLD_KEY = "sk_k9XbQ2mVf7TzPp4LrWc8NsYd1HgJa6Ue3Ro5Mi0KtBx"


def add_old_key(db: Database, tenant: Tenant, text: str, **columns: object) -> UUID:
    """Insert a key as the first key system did, with a cost of 4 instead of 12."""
    values = {"is_active": True, "expires_at": None} | columns
    (row,) = db.admin(
        "insert into api_keys_private.api_keys"
        " (account_id, name, key_prefix, key_hash, created_by, is_active, expires_at)"
        " values (%s, 'old', left(%s, 7), extensions.crypt(%s, extensions.gen_salt('bf', 4)), %s,"
        " %s, %s) returning id",
        tenant.account_id,
        text,
        text,
        tenant.user_id,
        values["is_active"],
        values["expires_at"],
    )
    assert isinstance(row["id"], UUID)
    return row["id"]


def key_hash(db: Database, key_id: UUID) -> str:
    (row,) = db.admin("select key_hash from api_keys_private.api_keys where id = %s", key_id)
    return str(row["key_hash"])


def crypt_calls(db: Database) -> int:
    rows = db.admin(
        "select calls from pg_stat_user_functions"
        " where schemaname = 'extensions' and funcname = 'crypt'"
    )
    return int(rows[0]["calls"]) if rows else 0


@pytest.mark.parametrize("text", [OLD_KEY, OLD_KEY[:30], "sk_abcd"])
def test_a_bcrypt_key_is_valid_and_is_rehashed(db: Database, tenant: Tenant, text: str) -> None:
    key_id = add_old_key(db, tenant, text)
    assert key_hash(db, key_id).startswith("$2a$")
    for _ in range(2):
        assert db.verify(text) == {
            "valid": True,
            "api_key_id": key_id,
            "account_id": tenant.account_id,
            "error": None,
        }
        assert key_hash(db, key_id) == hashlib.sha256(text.encode()).hexdigest()
    db.admin("delete from api_keys_private.api_keys where id = %s", key_id)


def test_a_rehashed_key_is_not_compared_with_bcrypt(db: Database, tenant: Tenant) -> None:
    text = "sk_" + uuid4().hex
    add_old_key(db, tenant, text)
    before = crypt_calls(db)
    db.verify(text)
    assert crypt_calls(db) == before + 1
    db.verify(text)
    assert crypt_calls(db) == before + 1


def test_a_text_that_cannot_be_a_bcrypt_key_is_not_compared_with_bcrypt(
    db: Database, tenant: Tenant
) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    before = crypt_calls(db)
    new_style = text[:7] + "A" * 42
    assert len(new_style) == 49
    for other in (
        "",
        "x" * 10_000,
        "sk_" + uuid4().hex,
        new_style,
        text[:7] + "!" * 20,
        text[:6],
    ):
        assert db.verify(other)["valid"] is False
    assert crypt_calls(db) == before
    assert db.verify(text[:7] + "wrong")["valid"] is False
    assert crypt_calls(db) == before + 1
    assert key_hash(db, key_id).startswith("$2a$")


@pytest.mark.parametrize(
    "column", [{"is_active": False}, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}]
)
def test_a_revoked_or_expired_bcrypt_key_is_invalid(
    db: Database, tenant: Tenant, column: dict[str, object]
) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text, **column)
    assert db.verify(text)["valid"] is False
    assert key_hash(db, key_id).startswith("$2a$")


def test_bcrypt_keys_with_the_same_prefix_are_distinguished(db: Database, tenant: Tenant) -> None:
    texts = ["sk_same" + uuid4().hex for _ in range(3)]
    ids = [add_old_key(db, tenant, text) for text in texts]
    assert [db.verify(text)["api_key_id"] for text in reversed(texts)] == list(reversed(ids))


def test_concurrent_verifications_of_a_bcrypt_key_succeed(db: Database, tenant: Tenant) -> None:
    text = "sk_" + uuid4().hex
    key_id = add_old_key(db, tenant, text)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(db.verify, [text] * 16))
    assert {result["api_key_id"] for result in results} == {key_id}
    assert key_hash(db, key_id) == hashlib.sha256(text.encode()).hexdigest()
