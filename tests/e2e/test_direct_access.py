"""Clients that act as an API key with nothing but its text."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from anyio.from_thread import start_blocking_portal

from audiencelab_sdk import (
    AsyncAudienceLab,
    AudienceLab,
    AuthenticationError,
    CreatedApiKey,
    InvalidRequestError,
    PermissionDeniedError,
    Scope,
)
from tests._waiting import wait_until
from tests.e2e.conftest import AsyncClient, Client, SyncClient
from tests.e2e.test_examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e._project import Project, Tenant

SEGMENT = {"source_type": "audience", "source_id": "1"}


@contextmanager
def customer(client_kind: str, project: Project, text: str) -> Iterator[Client]:
    """A client that knows the project's public key and the text of an API key."""
    arguments = (project.url, project.anon_key)
    if client_kind == "sync":
        with AudienceLab(*arguments, api_key=text) as client:
            yield SyncClient(client)
        return
    with start_blocking_portal("trio" if client_kind == "trio" else "asyncio") as portal:
        async_client = AsyncAudienceLab(*arguments, api_key=text)
        try:
            yield AsyncClient(async_client, portal)
        finally:
            portal.call(async_client.aclose)


@pytest.fixture
def direct(client_kind: str, project: Project, created: CreatedApiKey) -> Iterator[Client]:
    with customer(client_kind, project, created.key.get_secret_value()) as client:
        yield client


def key_of(project: Project, member: Client, tenant: Tenant, *scopes: tuple[str, str, str]) -> str:
    made = [Scope(entity_type=kind, entity_id=which, action=act) for kind, which, act in scopes]
    created: CreatedApiKey = member.call("create", tenant.account_id, "k", scopes=made)
    return created.key.get_secret_value()


def test_it_knows_its_account_and_scopes(direct: Client, tenant: Tenant) -> None:
    assert direct.call("api_keys.account_id") == tenant.account_id
    assert direct.call("api_keys.has_scope", "segment", "*", "write") is True


def test_it_manages_segments_in_the_name_of_its_creator(direct: Client, tenant: Tenant) -> None:
    made = direct.call("segments.create", tenant.account_id, "one", **SEGMENT)
    assert made.created_by == tenant.user_id
    changed = direct.call("segments.update", made.id, name="two")
    assert [found.name for found in direct.walk_all("segments.list")] == ["two"]
    direct.call("segments.delete", changed.id)
    assert direct.walk_all("segments.list") == []
    assert direct.call("segments.restore", made.id).name == "two"


def test_it_runs_enrichment_jobs(direct: Client, tenant: Tenant) -> None:
    job = direct.call("enrichment.create", tenant.account_id, uuid4(), "email", total_records=3)
    assert job.created_by == tenant.user_id
    ended = direct.track(job, lambda advance: advance(3, failed=1))
    assert (ended.status, ended.processed_records, ended.failed_records) == ("completed", 3, 1)


def test_it_sees_nothing_of_other_accounts(
    direct: Client, stranger: Client, project: Project
) -> None:
    other = project.add_tenant()
    owner = stranger.as_user(project.access_token(other.user_id))
    theirs = owner.call("segments.create", other.account_id, "theirs", **SEGMENT)
    assert theirs.id not in {found.id for found in direct.walk_all("segments.list")}
    with pytest.raises(PermissionDeniedError, match="no scope") as caught:
        direct.call("segments.create", other.account_id, "mine", **SEGMENT)
    assert "publishable" not in str(caught.value)


def test_a_missing_scope_is_a_denied_permission_that_says_so(
    client_kind: str, project: Project, member: Client, tenant: Tenant
) -> None:
    text = key_of(project, member, tenant, ("segment", "*", "read"))
    with customer(client_kind, project, text) as reader:
        assert reader.walk_all("segments.list") == []
        with pytest.raises(PermissionDeniedError, match="scope") as caught:
            reader.call("segments.create", tenant.account_id, "no", **SEGMENT)
        assert (caught.value.status, caught.value.http_status) == (403, 401)
        assert "publishable" not in str(caught.value)


def test_what_only_members_may_do_is_a_denied_permission(direct: Client, tenant: Tenant) -> None:
    for call in (
        lambda: direct.call("api_keys.list", tenant.account_id),
        lambda: direct.call("api_keys.create", tenant.account_id, "another"),
        lambda: direct.walk_all("api_keys.events", tenant.account_id),
    ):
        with pytest.raises(PermissionDeniedError, match="An API key may not do this"):
            call()


def test_a_revoked_key_is_refused(direct: Client, member: Client, created: CreatedApiKey) -> None:
    assert direct.call("api_keys.account_id") is not None
    member.call("revoke", created.id)
    with pytest.raises(AuthenticationError, match="Invalid API key") as caught:
        direct.call("api_keys.account_id")
    assert caught.value.code == "PT401"
    assert created.key.get_secret_value() not in str(caught.value)


def test_a_token_beside_the_header_is_refused(project: Project, created: CreatedApiKey) -> None:
    """A gateway or a program of the user may add the header."""
    headers = {"x-api-key": created.key}
    with (
        AudienceLab(project.url, project.service_role_key, headers=headers) as client,
        pytest.raises(InvalidRequestError, match="both an API key and a token"),
    ):
        client.api_keys.verify(created.key)


def test_other_identities_of_the_client_do_not_act_as_the_key(
    direct: Client, project: Project, tenant: Tenant
) -> None:
    user = direct.as_user(project.access_token(tenant.user_id))
    assert len(user.walk(tenant.account_id)) == 1


def test_requests_are_neither_logged_nor_counted(
    direct: Client, project: Project, created: CreatedApiKey
) -> None:
    direct.call("api_keys.account_id")
    (key,) = project.sql(
        "select last_used_at from api_keys_private.api_keys where id = %s", created.id
    )
    assert key["last_used_at"] is None


@pytest.fixture
def without_direct_access(project: Project) -> Iterator[None]:
    def is_on() -> bool:
        with AudienceLab(project.url, project.anon_key, api_key="sk_nobody") as client:
            try:
                client.api_keys.account_id()
            except AuthenticationError:
                return True
            except PermissionDeniedError:
                return False
        raise AssertionError

    project.sql("select api_keys_direct.disable()")
    wait_until(lambda: not is_on())
    yield
    project.sql("select api_keys_direct.enable()")
    wait_until(is_on)


@pytest.mark.usefixtures("without_direct_access")
def test_where_direct_access_is_off_the_error_says_so(direct: Client, tenant: Tenant) -> None:
    for call in (
        lambda: direct.walk_all("segments.list"),
        lambda: direct.call("api_keys.has_scope", "segment", "*", "read"),
        lambda: direct.call("enrichment.create", tenant.account_id, uuid4(), "email"),
        lambda: direct.call("segments.create", tenant.account_id, "n", **SEGMENT),
    ):
        with pytest.raises(PermissionDeniedError, match=r"select api_keys_direct\.enable\(\)"):
            call()


def test_the_curl_command_of_the_readme(
    project: Project, member: Client, tenant: Tenant, created: CreatedApiKey
) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    begin = readme.index('curl "$SUPABASE_URL/rest/v1/segments')
    command = readme[begin : readme.index("```", begin)]
    member.call("segments.create", tenant.account_id, "US engineers", **SEGMENT)
    result = subprocess.run(
        ["sh", "-c", command],
        env={
            "PATH": os.environ["PATH"],
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.anon_key,
            "AUDIENCELAB_API_KEY": created.key.get_secret_value(),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert '"name":"US engineers"' in result.stdout
