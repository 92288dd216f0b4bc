"""API keys through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from audiencelab_sdk import (
    APIStatusError,
    AudienceLab,
    AuthenticationError,
    CreatedApiKey,
    InvalidRequestError,
    PermissionDeniedError,
    Scope,
)
from audiencelab_sdk._key_format import checksum
from tests.e2e._scenarios import EVERYTHING

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client


def set_column(project: Project, key_id: UUID, column: str, value: object) -> None:
    project.sql(f"update api_keys_private.api_keys set {column} = %s where id = %s", value, key_id)


def test_a_member_creates_a_key_that_verifies(
    member: Client, backend: Client, tenant: Tenant
) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    key = member.call("create", tenant.account_id, "ci", scopes=[EVERYTHING], expires_at=expires_at)
    assert key.name == "ci"
    assert key.account_id == tenant.account_id
    assert key.scopes == (EVERYTHING,)
    assert key.expires_at == expires_at
    text = key.key.get_secret_value()
    assert text.startswith(key.key_prefix)
    assert text[43:] == checksum(text[:43])
    verification = backend.call("verify", text)
    assert verification
    assert verification.valid is True
    assert verification.api_key_id == key.id
    assert verification.account_id == tenant.account_id
    assert verification.error is None


def test_only_members_create_keys(
    project: Project,
    tenant: Tenant,
    created: CreatedApiKey,
    backend: Client,
    stranger: Client,
    anon: Client,
) -> None:
    nobody = backend.as_user(project.access_token(uuid4()))
    as_key = backend.as_api_key(created.id, project.jwt_secret)
    for actor, error in (
        (stranger, PermissionDeniedError),
        (nobody, PermissionDeniedError),
        (as_key, PermissionDeniedError),
        (anon, AuthenticationError),
    ):
        for method, arguments in (
            ("create", (tenant.account_id, "theirs")),
            ("list", (tenant.account_id,)),
            ("revoke", (created.id,)),
        ):
            with pytest.raises(error) as refusal:
                actor.call(method, *arguments)
            assert refusal.value.code == "42501"
    assert project.count_keys(tenant.account_id) == 1
    assert backend.call("verify", created.key)


def test_the_service_role_lists_and_revokes_keys_but_creates_none(
    tenant: Tenant, created: CreatedApiKey, backend: Client
) -> None:
    with pytest.raises(PermissionDeniedError):
        backend.call("create", tenant.account_id, "theirs")
    (key,) = backend.walk(tenant.account_id)
    assert key.id == created.id
    backend.call("revoke", created.id)
    assert not backend.call("verify", created.key)


def test_errors_do_not_reveal_what_exists(
    project: Project, tenant: Tenant, created: CreatedApiKey, stranger: Client
) -> None:
    def refusal(method: str, *arguments: object) -> str:
        with pytest.raises(PermissionDeniedError) as refused:
            stranger.call(method, *arguments)
        return str(refused.value)

    assert refusal("revoke", created.id) == refusal("revoke", uuid4())
    assert refusal("list", tenant.account_id) == refusal("list", uuid4())
    assert refusal("create", tenant.account_id, "x") == refusal("create", uuid4(), "x")


def test_forged_and_expired_tokens_are_rejected(
    project: Project, tenant: Tenant, backend: Client
) -> None:
    good = project.access_token(tenant.user_id)
    for token in (good[:-4] + "AAAA", "not.a.token"):
        with pytest.raises(AuthenticationError):
            backend.as_user(token).call("list", tenant.account_id)


def test_only_the_service_role_and_keys_verify_and_only_the_service_role_logs(
    created: CreatedApiKey, project: Project, member: Client, anon: Client, backend: Client
) -> None:
    as_key = backend.as_api_key(created.id, project.jwt_secret)
    assert as_key.call("verify", created.key)
    for actor in (member, anon):
        with pytest.raises((PermissionDeniedError, AuthenticationError)):
            actor.call("verify", created.key)
    for actor in (member, anon, as_key):
        with pytest.raises((PermissionDeniedError, AuthenticationError)):
            actor.call("log_usage", created.id, endpoint="/", method="GET")
    assert (
        project.sql(
            "select id from api_keys_private.api_key_logs where api_key_id = %s", created.id
        )
        == []
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "sk_",
        "sk_" + "A" * 20,
        "sk_" + "A" * 43,
        "sk_" + "A" * 46,
        "sk_" + "A" * 47,
        "sk_" + "A" * 10_000,
        "x" * 10_000,
        "sk_\x00",
        "sk_🔑",
        "\ud800",
        "'; select 1; --",
    ],
)
def test_malformed_and_unknown_keys_are_invalid(backend: Client, text: str) -> None:
    verification = backend.call("verify", text)
    assert not verification
    assert verification.valid is False
    assert verification.error == "Invalid API key"
    assert verification.api_key_id is verification.account_id is None


def test_revoked_and_expired_keys_are_invalid_and_have_no_permissions(
    project: Project, tenant: Tenant, member: Client, backend: Client
) -> None:
    def key() -> CreatedApiKey:
        made = member.call("create", tenant.account_id, "test", scopes=[EVERYTHING])
        assert isinstance(made, CreatedApiKey)
        return made

    live, revoked, expired = key(), key(), key()
    member.call("revoke", revoked.id)
    member.call("revoke", revoked.id)
    set_column(project, expired.id, "expires_at", datetime.now(UTC) - timedelta(seconds=1))
    for made, works in ((live, True), (revoked, False), (expired, False)):
        assert bool(backend.call("verify", made.key)) is works
        as_key = backend.as_api_key(made.id, project.jwt_secret)
        assert as_key.call("has_scope", "segment", "s1", "read") is works
        assert as_key.call("account_id") == (tenant.account_id if works else None)
    listed = member.walk(tenant.account_id)
    assert [key.id for key in listed] == [expired.id, revoked.id, live.id]
    assert [key.is_active for key in listed] == [True, False, True]


def test_the_keys_of_a_deleted_account_are_invalid(
    project: Project, tenant: Tenant, created: CreatedApiKey, backend: Client
) -> None:
    project.sql("delete from public.accounts where id = %s", tenant.account_id)
    assert not backend.call("verify", created.key)


def test_an_old_bcrypt_key_verifies(project: Project, tenant: Tenant, backend: Client) -> None:
    text = "sk_" + uuid4().hex
    project.sql(
        "insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)"
        " values (%s, 'old', left(%s, 7), extensions.crypt(%s, extensions.gen_salt('bf', 12)), %s)",
        tenant.account_id,
        text,
        text,
        tenant.user_id,
    )
    for _ in range(2):
        assert backend.call("verify", text).account_id == tenant.account_id


@pytest.mark.parametrize("entity_type", ["segment", "*"])
@pytest.mark.parametrize("entity_id", ["s1", "*"])
@pytest.mark.parametrize("action", ["read", "*"])
def test_scopes_with_all_combinations_of_wildcards(
    project: Project,
    tenant: Tenant,
    member: Client,
    backend: Client,
    entity_type: str,
    entity_id: str,
    action: str,
) -> None:
    scope = Scope(entity_type=entity_type, entity_id=entity_id, action=action)
    key = member.call("create", tenant.account_id, "test", scopes=[scope])
    as_key = backend.as_api_key(key.id, project.jwt_secret)
    assert as_key.call("has_scope", "segment", "s1", "read") is True
    assert as_key.call("has_scope", "audience", "s1", "read") is (entity_type == "*")
    assert as_key.call("has_scope", "segment", "s2", "read") is (entity_id == "*")
    assert as_key.call("has_scope", "segment", "s1", "write") is (action == "*")


def test_only_api_keys_have_scopes(member: Client) -> None:
    with pytest.raises(PermissionDeniedError, match="as_api_key"):
        member.call("has_scope", "segment", "s1", "read")
    with pytest.raises(PermissionDeniedError, match="as_api_key"):
        member.call("account_id")


def test_list_returns_more_than_1000_rows(project: Project, tenant: Tenant, member: Client) -> None:
    # All have the same creation time, so the ids alone order them.
    project.sql(
        "insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)"
        " select %s, i::text, 'sk_aaaa', gen_random_uuid()::text, %s"
        " from generate_series(1, 1203) as i",
        tenant.account_id,
        tenant.user_id,
    )
    for page_size in (1000, 401):
        keys = member.walk(tenant.account_id, page_size=page_size)
        assert len(keys) == 1203
        assert {key.name for key in keys} == {str(i) for i in range(1, 1204)}
        order = [(key.created_at, key.id) for key in keys]
        assert order == sorted(order, reverse=True)


def test_a_scope_that_the_database_rejects_is_an_invalid_request(
    project: Project, tenant: Tenant
) -> None:
    with AudienceLab(project.url, project.anon_key) as client:
        user = client.as_user(project.access_token(tenant.user_id))
        scope = Scope.model_validate(
            {"entity_type": "segment", "entity_id": "*", "action": "read", "note": "x"}
        )
        with pytest.raises(InvalidRequestError, match=r"scopes\[0\] has an unknown") as refusal:
            user.api_keys.create(tenant.account_id, "x", scopes=[scope])
    assert refusal.value.code == "22023"
    assert refusal.value.status == 400
    assert project.count_keys(tenant.account_id) == 0


def test_only_the_response_of_create_contains_the_key(
    project: Project,
    tenant: Tenant,
    member: Client,
    backend: Client,
    stranger: Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    key = member.call("create", tenant.account_id, "test")
    text = key.key.get_secret_value()
    texts = [repr(key), str(key), key.model_dump_json(), repr(backend.call("verify", text))]
    backend.call("log_usage", key.id, endpoint="/", method="GET")
    texts += [repr(member.walk(tenant.account_id)), str(member.walk(tenant.account_id))]
    with pytest.raises(APIStatusError) as refusal:
        stranger.call("verify", text)
    texts += [repr(refusal.value), *traceback.format_exception(refusal.value)]
    with psycopg.connect(project.db_url) as connection:
        for table in ("api_keys", "api_key_logs"):
            statement = f"select t::text from api_keys_private.{table} as t"
            texts += [row[0] for row in connection.execute(statement.encode())]
    texts += [caplog.text, *capfd.readouterr()]
    assert "verify_api_key" in caplog.text
    assert key.key_prefix in "".join(texts)
    assert text[7:] not in "".join(texts)
    for secret in (project.service_role_key, project.access_token(tenant.user_id)):
        assert secret.rpartition(".")[2] not in "".join(texts)


def test_revoke_all_of_revokes_all_keys_of_a_user(
    project: Project, backend: Client, member: Client, stranger: Client, tenant: Tenant
) -> None:
    keys = [member.call("create", tenant.account_id, f"key {number}").key for number in range(3)]
    for account_id in (tenant.account_id, None):
        with pytest.raises(PermissionDeniedError):
            stranger.call("revoke_all_of", tenant.user_id, account_id)
    assert all(backend.call("verify", key) for key in keys)
    assert member.call("revoke_all_of", tenant.user_id, tenant.account_id) == 3
    assert not any(backend.call("verify", key) for key in keys)
    member.call("create", tenant.account_id, "another")
    assert backend.call("revoke_all_of", tenant.user_id) == 1
    assert backend.call("revoke_all_of", tenant.user_id) == 0
