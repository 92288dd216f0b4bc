"""Every identity of a client that is created with a publishable or a secret key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import supabase

from audiencelab_sdk import (
    AsyncAudienceLab,
    AudienceLab,
    AuthenticationError,
    PermissionDeniedError,
)
from tests.e2e._scenarios import EVERYTHING, READ_SEGMENTS
from tests.e2e._supabase_auth import Auth, credentials
from tests.e2e.conftest import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audiencelab_sdk import CreatedApiKey
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client


@pytest.fixture(autouse=True)
def known_keys(project: Project) -> None:
    if not (project.publishable_key and project.secret_key and project.signing_keys):
        pytest.skip("the project's publishable, secret and signing keys are not in the environment")


@pytest.fixture
def publishable(client_kind: str, project: Project) -> Iterator[Client]:
    with open_client(client_kind, project, project.publishable_key) as client:
        yield client


@pytest.fixture
def secret(client_kind: str, project: Project) -> Iterator[Client]:
    with open_client(client_kind, project, project.secret_key) as client:
        yield client


def test_the_publishable_key_alone_has_no_access(
    publishable: Client, tenant: Tenant, created: CreatedApiKey
) -> None:
    advice = r"The publishable \(anon\) key alone has no access"
    for call, argument in (("verify", created.key), ("list", tenant.account_id)):
        with pytest.raises(AuthenticationError, match=advice):
            publishable.call(call, argument)


def test_the_secret_key_alone_is_the_service_role(
    secret: Client, tenant: Tenant, created: CreatedApiKey
) -> None:
    assert secret.call("verify", created.key).account_id == tenant.account_id
    issued = secret.call("issue", tenant.account_id, "issued", created_by=tenant.user_id)
    assert {key.id for key in secret.walk(tenant.account_id)} == {created.id, issued.id}
    with pytest.raises(PermissionDeniedError, match="Only a user may do this"):
        secret.call("create", tenant.account_id, "nobody")


@pytest.mark.usefixtures("client_kind")
@pytest.mark.parametrize("form", ["publishable", "secret"])
def test_as_user(
    form: str, request: pytest.FixtureRequest, project: Project, tenant: Tenant
) -> None:
    client: Client = request.getfixturevalue(form)
    member = client.as_user(project.access_token(tenant.user_id))
    created = member.call("create", tenant.account_id, "n")
    assert [key.id for key in member.walk(tenant.account_id)] == [created.id]
    job = member.call("enrichment.create", tenant.account_id, tenant.account_id, "email")
    assert job.created_by == tenant.user_id
    stranger = client.as_user(project.access_token(project.add_tenant().user_id))
    with pytest.raises(PermissionDeniedError):
        stranger.call("create", tenant.account_id, "n")
    with pytest.raises(AuthenticationError, match="The access token has expired"):
        client.as_user(project.access_token(tenant.user_id, -60)).walk(tenant.account_id)


@pytest.mark.parametrize("form", ["publishable", "secret", "backend"])
@pytest.mark.parametrize("signature", ["jwt_secret", 0, 1])
def test_as_api_key(
    form: str,
    signature: str | int,
    request: pytest.FixtureRequest,
    project: Project,
    tenant: Tenant,
    created: CreatedApiKey,
) -> None:
    client: Client = request.getfixturevalue(form)
    options: dict[str, Any] = {"jwt_secret": project.jwt_secret}
    if isinstance(signature, int):
        if signature >= len(project.signing_keys):
            pytest.skip("the project has no further signing key")
        options = {"signing_key": project.signing_keys[signature]}
    as_key = client.as_api_key(created.id, **options)
    assert as_key.call("account_id") == tenant.account_id
    segment_id = as_key.call(
        "segments.create", tenant.account_id, "n", source_type="audience", source_id="1"
    ).id
    assert [segment.id for segment in as_key.walk_all("segments.list")] == [segment_id]
    assert as_key.call("segments.get", segment_id).created_by == tenant.user_id
    with pytest.raises(PermissionDeniedError, match="An API key may not do this"):
        as_key.walk(tenant.account_id)


def test_a_signing_key_of_another_project(
    secret: Client, created: CreatedApiKey, project: Project
) -> None:
    jwk = {**json.loads(project.signing_keys[0]), "kid": "another"}
    for as_key in (
        secret.as_api_key(created.id, "x" * 40),
        secret.as_api_key(created.id, signing_key=jwk),
    ):
        with pytest.raises(AuthenticationError, match="check jwt_secret, or signing_key and"):
            as_key.call("account_id")


def test_from_supabase(project: Project, tenant: Tenant, created: CreatedApiKey) -> None:
    with httpx.Client(transport=httpx.MockTransport(Auth(project))) as auth:
        options = supabase.ClientOptions(httpx_client=auth, auto_refresh_token=False)
        base = supabase.create_client(project.url, project.publishable_key, options)
        with AudienceLab.from_supabase(base) as client:
            with pytest.raises(AuthenticationError, match="alone has no access"):
                client.api_keys.list(tenant.account_id)
            base.auth.sign_in_with_password(credentials(tenant))
            assert [key.id for key in client.api_keys.list(tenant.account_id)] == [created.id]
            base.auth.sign_out()
            with pytest.raises(AuthenticationError, match="alone has no access"):
                client.api_keys.list(tenant.account_id)
    base = supabase.create_client(project.url, project.secret_key)
    with AudienceLab.from_supabase(base) as client:
        assert client.api_keys.verify(created.key)


async def test_from_supabase_asynchronously(
    project: Project, tenant: Tenant, created: CreatedApiKey
) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(Auth(project))) as auth:
        options = supabase.AsyncClientOptions(httpx_client=auth, auto_refresh_token=False)
        base = await supabase.create_async_client(project.url, project.publishable_key, options)
        async with AsyncAudienceLab.from_supabase(base) as client:
            with pytest.raises(AuthenticationError, match="alone has no access"):
                await client.api_keys.list(tenant.account_id)
            await base.auth.sign_in_with_password(credentials(tenant))
            page = await client.api_keys.list(tenant.account_id)
            assert [key.id async for key in page] == [created.id]
            await base.auth.sign_out()
            with pytest.raises(AuthenticationError, match="alone has no access"):
                await client.api_keys.list(tenant.account_id)
    base = await supabase.create_async_client(project.url, project.secret_key)
    async with AsyncAudienceLab.from_supabase(base) as client:
        assert await client.api_keys.verify(created.key)


def test_no_error_shows_a_key(
    publishable: Client, secret: Client, project: Project, tenant: Tenant
) -> None:
    for client, key in (
        (publishable, project.publishable_key),
        (secret, project.secret_key),
    ):
        with pytest.raises((AuthenticationError, PermissionDeniedError)) as caught:
            client.call("create", tenant.account_id, "n", scopes=[EVERYTHING, READ_SEGMENTS])
        assert key not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
