"""Common requests of supabase-py and postgrest-py on the embedded stack."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import httpx
import pytest
import supabase
from postgrest import AsyncPostgrestClient, SyncPostgrestClient
from postgrest.exceptions import APIError
from postgrest.types import CountMethod
from supabase.lib.client_options import AsyncClientOptions, SyncClientOptions

from audiencelab_sdk.local import LocalStack

Client = SyncPostgrestClient | supabase.Client


@pytest.fixture(params=["postgrest", "supabase", "supabase with a secret key"])
def client(request: pytest.FixtureRequest, stack: LocalStack) -> Iterator[Client]:
    key = stack.secret_key if "secret" in request.param else stack.service_role_key
    if request.param != "postgrest":
        with httpx.Client() as http:
            options = SyncClientOptions(httpx_client=http)
            yield supabase.create_client(stack.url, key, options)
        return
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    with SyncPostgrestClient(f"{stack.url}/rest/v1", headers=headers) as client:
        yield client


@pytest.fixture
def accounts(stack: LocalStack, client: Client) -> list[dict[str, Any]]:
    owner = str(stack.create_user())
    rows = [{"name": f"Account {n}", "primary_owner_user_id": owner} for n in range(5)]
    inserted = client.table("accounts").insert(rows).execute()
    return [dict(row) for row in inserted.data if isinstance(row, dict)]


def test_read(client: Client, accounts: list[dict[str, Any]]) -> None:
    ids = [account["id"] for account in accounts]
    response = (
        client.table("accounts")
        .select("name", count=CountMethod.exact)
        .in_("id", ids)
        .order("name", desc=True)
        .range(1, 2)
        .execute()
    )
    assert response.data == [{"name": "Account 3"}, {"name": "Account 2"}]
    assert response.count == 5


def test_filters(client: Client, accounts: list[dict[str, Any]]) -> None:
    owner = accounts[0]["primary_owner_user_id"]

    def names(query: Any) -> list[str]:
        return [row["name"][-1] for row in query.order("name").execute().data]

    def rows() -> Any:
        return client.table("accounts").select("name").eq("primary_owner_user_id", owner)

    assert names(rows().neq("name", "Account 0")) == list("1234")
    assert names(rows().gte("name", "Account 3")) == list("34")
    assert names(rows().like("name", "%1")) == ["1"]
    assert names(rows().ilike("name", "account _")) == list("01234")
    assert names(rows().is_("slug", "null")) == list("01234")
    assert names(rows().not_.is_("slug", "null")) == []
    assert names(rows().or_("name.eq.Account 1,and(name.gt.Account 3)")) == list("14")
    assert names(rows().in_("name", ["Account 2", 'with "quotes", (and) more'])) == ["2"]
    assert names(rows().filter("name", "match", "[02]$")) == list("02")


def test_single(client: Client, accounts: list[dict[str, Any]]) -> None:
    table = client.table("accounts")
    first = accounts[0]
    assert table.select("name").eq("id", first["id"]).single().execute().data == {
        "name": "Account 0"
    }
    assert table.select("*").eq("name", "nobody's").maybe_single().execute() is None
    with pytest.raises(APIError) as caught:
        table.select("*").in_("id", [account["id"] for account in accounts]).single().execute()
    assert caught.value.code == "PGRST116"


def test_write(client: Client, accounts: list[dict[str, Any]]) -> None:
    first = accounts[0]
    table = client.table("accounts")
    updated = table.update({"slug": first["id"]}).eq("id", first["id"]).execute()
    assert updated.data == [{**first, "slug": first["id"], "updated_at": ANY}]
    merged = table.upsert({**first, "name": "Merged"}).execute()
    assert merged.data == [{**first, "name": "Merged", "updated_at": ANY}]
    ignored = table.upsert({**first, "name": "Ignored"}, ignore_duplicates=True).execute()
    assert ignored.data == []
    deleted = table.delete(count=CountMethod.exact).eq("id", first["id"]).execute()
    assert deleted.count == 1
    assert table.select("id").eq("id", first["id"]).execute().data == []


def test_csv_and_head(client: Client, accounts: list[dict[str, Any]]) -> None:
    table = client.table("accounts")
    csv = table.select("name").eq("id", accounts[0]["id"]).csv().execute()
    assert csv.data == 'name\n"Account 0"'
    head = (
        table.select("*", count=CountMethod.exact, head=True).eq("id", accounts[0]["id"]).execute()
    )
    assert head.count == 1


def test_functions(client: Client) -> None:
    posted = client.rpc("verify_api_key", {"p_api_key": "sk_none"}).execute()
    assert posted.data == {
        "valid": False,
        "api_key_id": None,
        "account_id": None,
        "error": "Invalid API key",
    }
    with pytest.raises(APIError) as caught:
        client.rpc("no_such_function", {"a": "1"}).execute()
    assert caught.value.code == "PGRST202"


async def test_async(stack: LocalStack) -> None:
    key = stack.service_role_key
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    async with AsyncPostgrestClient(f"{stack.url}/rest/v1", headers=headers) as client:
        response = await client.table("roles").select("name").order("hierarchy_level").execute()
    assert response.data == [{"name": "owner"}, {"name": "member"}]


@pytest.mark.parametrize("form", ["anon_key", "publishable_key"])
async def test_async_supabase(stack: LocalStack, form: str) -> None:
    async with httpx.AsyncClient() as http:
        client = await supabase.acreate_client(
            stack.url, getattr(stack, form), AsyncClientOptions(httpx_client=http)
        )
        with pytest.raises(APIError) as caught:
            await client.table("segments").select("id").execute()
        assert caught.value.code == "42501"
        user = stack.create_user()
        account = stack.create_account("Supabase", owner=user)
        client.postgrest.auth(stack.access_token(user))
        made = await client.rpc(
            "create_studio_segment",
            {
                "p_account_id": str(account),
                "p_name": "Visitors",
                "p_source_type": "audience",
                "p_source_id": "1",
            },
        ).execute()
        found = await client.table("segments").select("id, created_by").execute()
    assert found.data == [{"id": made.data, "created_by": str(user)}]
