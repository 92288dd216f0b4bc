"""The life of an API key, through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest

from audiencelab_sdk import (
    APIStatusError,
    AsyncAudienceLab,
    AudienceLab,
    AuthenticationError,
    CreatedApiKey,
    InvalidRequestError,
    PermissionDeniedError,
    Scope,
    UsageEvent,
    UsageLogError,
)
from audiencelab_sdk._key_format import checksum

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

EVERYTHING = Scope(entity_type="*", entity_id="*", action="*")


@pytest.fixture
def created(member: Client, tenant: Tenant) -> CreatedApiKey:
    key = member.call("create", tenant.account_id, "test", scopes=[EVERYTHING])
    assert isinstance(key, CreatedApiKey)
    return key


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


def test_who_is_no_member_is_refused_and_nothing_is_written(
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
        (backend, PermissionDeniedError),  # the service role has no account either
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


def test_refusals_do_not_tell_what_exists(
    project: Project, tenant: Tenant, created: CreatedApiKey, stranger: Client
) -> None:
    def refusal(method: str, *arguments: object) -> str:
        with pytest.raises(PermissionDeniedError) as refused:
            stranger.call(method, *arguments)
        return str(refused.value)

    assert refusal("revoke", created.id) == refusal("revoke", uuid4())
    assert refusal("list", tenant.account_id) == refusal("list", uuid4())
    assert refusal("create", tenant.account_id, "x") == refusal("create", uuid4(), "x")


def test_forged_and_expired_tokens_are_refused(
    project: Project, tenant: Tenant, backend: Client
) -> None:
    good = project.access_token(tenant.user_id)
    for token in (good[:-4] + "AAAA", "not.a.token"):
        with pytest.raises(AuthenticationError):
            backend.as_user(token).call("list", tenant.account_id)


def test_only_the_service_role_and_keys_verify_and_only_the_former_logs(
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
def test_what_is_no_key_is_invalid(backend: Client, text: str) -> None:
    verification = backend.call("verify", text)
    assert not verification
    assert verification.valid is False
    assert verification.error == "Invalid API key"
    assert verification.api_key_id is verification.account_id is None


def test_a_key_that_is_not_live_is_invalid_and_may_nothing(
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
def test_all_combinations_of_wildcards(
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


def test_scopes_are_asked_of_an_api_key_only(member: Client) -> None:
    with pytest.raises(PermissionDeniedError, match="as_api_key"):
        member.call("has_scope", "segment", "s1", "read")
    with pytest.raises(PermissionDeniedError, match="as_api_key"):
        member.call("account_id")


def test_a_use_is_logged(
    project: Project, tenant: Tenant, created: CreatedApiKey, member: Client, backend: Client
) -> None:
    (before,) = member.walk(tenant.account_id)
    assert before.last_used_at is None
    log = backend.call(
        "log_usage",
        created.id,
        endpoint="/v1/x",
        method="POST",
        status_code=201,
        ip_address="203.0.113.7",
        user_agent="curl/8 🔑",
    )
    (row,) = project.sql(
        "select * from api_keys_private.api_key_logs where api_key_id = %s", created.id
    )
    assert row == {
        "id": log.log_id,
        "api_key_id": created.id,
        "endpoint": "/v1/x",
        "method": "POST",
        "status_code": 201,
        "ip_address": "203.0.113.7",
        "user_agent": "curl/8 🔑",
        "timestamp": log.timestamp,
    }
    (after,) = member.walk(tenant.account_id)
    assert after.last_used_at == log.timestamp


def test_a_use_that_cannot_be_logged_is_an_error(backend: Client) -> None:
    with pytest.raises(UsageLogError, match="api_key_logs_api_key_id_fkey") as failure:
        backend.call("log_usage", uuid4(), endpoint="/", method="GET")
    assert failure.value.code == "23503"


def test_fifty_uses_at_once_are_fifty_rows(
    project: Project, created: CreatedApiKey, backend: Client
) -> None:
    with ThreadPoolExecutor(50) as pool:
        logs = list(
            pool.map(
                lambda _: backend.call("log_usage", created.id, endpoint="/", method="GET"),
                range(50),
            )
        )
    rows = project.sql(
        "select id from api_keys_private.api_key_logs where api_key_id = %s", created.id
    )
    assert {row["id"] for row in rows} == {log.log_id for log in logs}
    assert len(rows) == 50


def test_a_list_goes_past_the_1000_rows_of_one_answer(
    project: Project, tenant: Tenant, member: Client
) -> None:
    # All made in the same instant, so that only the id tells their order.
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


def test_what_the_database_refuses_is_an_invalid_request(project: Project, tenant: Tenant) -> None:
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


def test_the_key_itself_is_in_the_answer_of_create_and_nowhere_else(
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
    said = [repr(key), str(key), key.model_dump_json(), repr(backend.call("verify", text))]
    backend.call("log_usage", key.id, endpoint="/", method="GET")
    said += [repr(member.walk(tenant.account_id)), str(member.walk(tenant.account_id))]
    with pytest.raises(APIStatusError) as refusal:
        stranger.call("verify", text)
    said += [repr(refusal.value), *traceback.format_exception(refusal.value)]
    with psycopg.connect(project.db_url) as connection:
        for table in ("api_keys", "api_key_logs"):
            statement = f"select t::text from api_keys_private.{table} as t"
            said += [row[0] for row in connection.execute(statement.encode())]
    said += [caplog.text, *capfd.readouterr()]
    assert "verify_api_key" in caplog.text
    assert key.key_prefix in "".join(said)
    assert text[7:] not in "".join(said)
    for secret in (project.service_role_key, project.access_token(tenant.user_id)):
        assert secret.rpartition(".")[2] not in "".join(said)


def verify_in_threads(client: AudienceLab, texts: list[str]) -> list[Any]:
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(client.api_keys.verify, texts))


def test_thirty_two_threads_share_a_client(
    project: Project, tenant: Tenant, created: CreatedApiKey
) -> None:
    text = created.key.get_secret_value()
    unknown = "sk_" + "A" * 20
    with AudienceLab(project.url, project.service_role_key) as client:
        answers = verify_in_threads(client, [text, unknown] * 160)
    assert [bool(answer) for answer in answers] == [True, False] * 160
    assert {answer.account_id for answer in answers} == {tenant.account_id, None}


async def test_two_hundred_tasks_share_a_client(project: Project) -> None:
    tenants = [project.add_tenant() for _ in range(4)]
    names: dict[UUID, set[str]] = {tenant.account_id: set() for tenant in tenants}
    async with AsyncAudienceLab(project.url, project.service_role_key) as client:
        users = [client.as_user(project.access_token(tenant.user_id)) for tenant in tenants]

        async def one(number: int) -> None:
            user, tenant = users[number % 4], tenants[number % 4]
            key = await user.api_keys.create(tenant.account_id, f"key {number}")
            verification = await client.api_keys.verify(key.key)
            assert verification.account_id == tenant.account_id

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(one, number)
        for user, tenant in zip(users, tenants, strict=True):
            page = await user.api_keys.list(tenant.account_id, page_size=20)
            names[tenant.account_id] = {key.name async for key in page}
    for offset, tenant in enumerate(tenants):
        assert names[tenant.account_id] == {f"key {n}" for n in range(offset, 200, 4)}


def test_usage_is_logged_in_batches(
    backend: Client, member: Client, created: CreatedApiKey, project: Project
) -> None:
    event = UsageEvent(api_key_id=created.id, endpoint="/\x00\ud800", method="GET", user_agent="")
    unknown = event.model_copy(update={"api_key_id": uuid4()})
    dated = event.model_copy(update={"timestamp": datetime(2025, 1, 2, tzinfo=UTC)})
    outcomes = backend.call("log_usage_batch", [*[event] * 1100, unknown, dated])
    assert [outcome.index for outcome in outcomes if not outcome] == [1100]
    assert outcomes[1100].error.code == "23503"
    assert outcomes[1101].value.timestamp == datetime(2025, 1, 2, tzinfo=UTC)
    rows = project.sql(
        "select id, endpoint, user_agent from api_keys_private.api_key_logs where api_key_id = %s",
        created.id,
    )
    assert {row["id"] for row in rows} == {o.value.log_id for o in outcomes if o}
    assert {(row["endpoint"], row["user_agent"]) for row in rows} == {("/\ufffd\ufffd", None)}
    (refused,) = member.call("log_usage_batch", [event])
    assert isinstance(refused.error, PermissionDeniedError)


def test_all_keys_of_a_user_are_revoked(
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
