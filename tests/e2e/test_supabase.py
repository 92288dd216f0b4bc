"""A client made from one of supabase-py acts as its user, under row security.

Supabase Auth is a function here, since the embedded stack has none; the REST API is real.
"""

import httpx
import pytest
import supabase

from audiencelab_sdk import (
    AsyncAudienceLab,
    AudienceLab,
    AuthenticationError,
    PermissionDeniedError,
)
from tests.e2e._project import Project, Tenant
from tests.e2e._supabase_auth import Auth, credentials


def test_the_synchronous_client_follows_the_session(project: Project, tenant: Tenant) -> None:
    with httpx.Client(transport=httpx.MockTransport(Auth(project))) as auth:
        options = supabase.ClientOptions(httpx_client=auth, auto_refresh_token=False)
        base = supabase.create_client(project.url, project.anon_key, options)
        with AudienceLab.from_supabase(base) as client:
            with pytest.raises((AuthenticationError, PermissionDeniedError)):
                client.api_keys.create(tenant.account_id, "nobody")
            base.auth.sign_in_with_password(credentials(tenant))
            created = client.api_keys.create(tenant.account_id, "member")
            assert [key.id for key in client.api_keys.list(tenant.account_id)] == [created.id]
            base.auth.sign_in_with_password(credentials(project.add_tenant()))
            with pytest.raises(PermissionDeniedError):
                client.api_keys.create(tenant.account_id, "stranger")
            base.auth.sign_out()
            with pytest.raises((AuthenticationError, PermissionDeniedError)):
                client.api_keys.list(tenant.account_id)
    assert project.count_keys(tenant.account_id) == 1


async def test_the_asynchronous_client_follows_the_session(
    project: Project, tenant: Tenant
) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(Auth(project))) as auth:
        options = supabase.AsyncClientOptions(httpx_client=auth, auto_refresh_token=False)
        base = await supabase.create_async_client(project.url, project.anon_key, options)
        async with AsyncAudienceLab.from_supabase(base) as client:
            with pytest.raises((AuthenticationError, PermissionDeniedError)):
                await client.api_keys.create(tenant.account_id, "nobody")
            await base.auth.sign_in_with_password(credentials(tenant))
            created = await client.api_keys.create(tenant.account_id, "member")
            page = await client.api_keys.list(tenant.account_id)
            assert [key.id async for key in page] == [created.id]
            await base.auth.sign_in_with_password(credentials(project.add_tenant()))
            with pytest.raises(PermissionDeniedError):
                await client.api_keys.create(tenant.account_id, "stranger")
            await base.auth.sign_out()
            with pytest.raises((AuthenticationError, PermissionDeniedError)):
                await client.api_keys.list(tenant.account_id)
    assert project.count_keys(tenant.account_id) == 1
