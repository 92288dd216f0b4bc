"""Iteration over pages."""

import asyncio
import gc
import weakref
from typing import Any
from uuid import UUID

import httpx
import pytest
import respx

from audiencelab_sdk import (
    AsyncAudienceLab,
    Page,
    PermissionDeniedError,
    ServerError,
    UnexpectedResponseError,
    UnreadableRow,
)
from tests.unit._both_clients import maybe_await
from tests.unit._samples import ACCOUNT, KEY, LISTED, URL

# All have the same creation time, so the ids alone order them.
ROWS = [{**LISTED, "id": str(UUID(int=9 - number)), "name": f"key {number}"} for number in range(5)]


def respond(api: respx.MockRouter, *pages: Any) -> respx.Route:
    """Mock the pages of `api_keys.list`: rows, or a response."""
    responses = [
        page if isinstance(page, httpx.Response) else httpx.Response(200, json=page)
        for page in pages
    ]
    return api.post("/rpc/list_api_keys").mock(side_effect=responses)


async def names(page: Any) -> list[str]:
    if hasattr(page, "__aiter__"):
        return [key.name async for key in page]
    return [key.name for key in page]


async def test_iteration_fetches_all_pages(client: Any, api: respx.MockRouter) -> None:
    route = respond(api, ROWS[:2], ROWS[2:4], ROWS[4:], [])
    page = await maybe_await(client.api_keys.list(ACCOUNT, page_size=2))
    assert await names(page) == [f"key {number}" for number in range(5)]
    assert route.call_count == 4
    assert [call.request.url.params["limit"] for call in route.calls] == ["2"] * 4


async def test_iteration_continues_after_a_page_cut_by_the_server(
    client: Any, api: respx.MockRouter
) -> None:
    respond(api, ROWS[:2], ROWS[2:4], ROWS[4:], [])
    page = await maybe_await(client.api_keys.list(ACCOUNT, page_size=1000))
    assert len(await names(page)) == 5


async def test_pages_are_fetched_on_demand(client: Any, api: respx.MockRouter) -> None:
    route = respond(api, ROWS[:2], ROWS[2:], [])
    page = await maybe_await(client.api_keys.list(ACCOUNT, page_size=2))
    assert [key.name for key in page.items] == ["key 0", "key 1"]
    assert route.call_count == 1
    second = await maybe_await(page.next())
    assert type(second) is type(page)
    assert [key.name for key in second.items] == ["key 2", "key 3", "key 4"]
    assert await maybe_await(second.next()) is None
    assert route.call_count == 3


async def test_an_empty_list(client: Any, api: respx.MockRouter) -> None:
    route = respond(api, [])
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    assert page.items == []
    assert await maybe_await(page.next()) is None
    assert await names(page) == []
    assert route.call_count == 1


async def test_iteration_can_be_stopped(client: Any, api: respx.MockRouter) -> None:
    route = respond(api, ROWS[:2], ROWS[2:4])
    page = await maybe_await(client.api_keys.list(ACCOUNT, page_size=2))
    seen: list[str] = []
    if hasattr(page, "__aiter__"):
        async for key in page:
            seen.append(key.name)
            if len(seen) == 3:
                break
    else:
        for key in page:
            seen.append(key.name)
            if len(seen) == 3:
                break
    gc.collect()  # an unclosed generator warns here, which fails the test
    assert seen == ["key 0", "key 1", "key 2"]
    assert route.call_count == 2


async def test_a_row_without_a_valid_id_ends_the_iteration(
    client: Any, api: respx.MockRouter
) -> None:
    respond(api, ROWS[:1], [ROWS[1], {**ROWS[2], "id": "no uuid"}])
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match=r"see: 1\.id"):
        await names(page)


@pytest.mark.parametrize("body", ["[{", "<html>", "", "{}"])
async def test_an_unexpected_response_ends_the_iteration(
    client: Any, api: respx.MockRouter, body: str
) -> None:
    respond(api, ROWS[:1], httpx.Response(200, text=body))
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match="does the URL lead to"):
        await names(page)


async def test_a_page_can_be_iterated_again(client: Any, api: respx.MockRouter) -> None:
    respond(api, ROWS, [], [])
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    assert await names(page) == await names(page)


async def test_next_can_be_called_again_after_an_error(client: Any, api: respx.MockRouter) -> None:
    respond(api, ROWS[:2], httpx.Response(500), ROWS[2:], [])
    page = await maybe_await(client.api_keys.list(ACCOUNT, page_size=2))
    with pytest.raises(ServerError):
        await maybe_await(page.next())
    second = await maybe_await(page.next())
    assert len(second.items) == 3


async def test_a_server_that_ignores_the_cursor_ends_the_iteration(
    client: Any, api: respx.MockRouter
) -> None:
    respond(api, ROWS, ROWS)
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match="rows of the page before"):
        await names(page)


class Item:
    """Supports weak references."""


def test_iteration_frees_a_page_before_it_fetches_the_next() -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    seen: list[int] = []

    def page() -> Page[Item]:
        seen.append(len(alive))
        items = [Item() for _ in range(3 if len(seen) < 5 else 0)]
        alive.update(items)
        return Page(items, [], None, page if items else None)

    first = page()
    assert sum(1 for _ in first) == 12
    # The items of the first page, and the item that was yielded last.
    assert seen == [0, 3, 4, 4, 4]


async def test_repr(client: Any, api: respx.MockRouter) -> None:
    respond(api, [])
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    assert repr(page) == f"{type(page).__name__}(items=[])"


def test_repr_of_an_unreadable_row_hides_its_data() -> None:
    row = UnreadableRow(UUID(int=1), '{"name": "secret"}', "created_at: too late")
    assert "secret" not in repr(row)


async def test_an_iterator_of_a_page_is_its_own_iterator(
    client: Any, api: respx.MockRouter
) -> None:
    respond(api, ROWS, [])
    page = await maybe_await(client.api_keys.list(ACCOUNT))
    if hasattr(page, "__aiter__"):
        items = aiter(page)
        assert aiter(items) is items
    else:
        assert [*iter(iter(page))] == page.items


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_list_is_iterated_without_an_await(client: Any, api: respx.MockRouter) -> None:
    respond(api, ROWS[:1], ROWS[1:2], [])
    names = [key.name async for key in client.api_keys.list(ACCOUNT)]
    assert names == [row["name"] for row in ROWS[:2]]


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_list_that_is_iterated_raises_the_errors_of_its_first_page(
    client: Any, api: respx.MockRouter
) -> None:
    respond(api, httpx.Response(403, json={"message": "no"}))
    items = aiter(client.api_keys.list(ACCOUNT))
    with pytest.raises(PermissionDeniedError):
        await anext(items)


def test_a_list_is_a_coroutine_for_asyncio(api: respx.MockRouter) -> None:
    respond(api, ROWS, ROWS, ROWS)
    client = AsyncAudienceLab(URL, KEY)

    async def both() -> list[Any]:
        task = asyncio.create_task(client.api_keys.list(ACCOUNT))
        gathered = await asyncio.gather(task, client.api_keys.list(ACCOUNT))
        await client.aclose()
        return list(gathered)

    pages = [asyncio.run(client.api_keys.list(ACCOUNT)), *asyncio.run(both())]
    assert [len(page.items) for page in pages] == [len(ROWS)] * 3


def test_a_list_that_is_cancelled_stops(api: respx.MockRouter) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError

    api.post("/rpc/list_api_keys").mock(side_effect=hang)

    async def cancel() -> None:
        async with AsyncAudienceLab(URL, KEY) as client:
            task = asyncio.create_task(client.api_keys.list(ACCOUNT))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())


def test_a_list_that_is_not_awaited_warns(api: respx.MockRouter) -> None:
    client = AsyncAudienceLab(URL, KEY)
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        client.api_keys.list(ACCOUNT)


def test_a_closed_list_does_not_warn() -> None:
    client = AsyncAudienceLab(URL, KEY)
    client.api_keys.list(ACCOUNT).close()
    gc.collect()


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_list_can_be_used_again(client: Any, api: respx.MockRouter) -> None:
    respond(api, httpx.Response(500), ROWS[:1], [], ROWS[:2], [], ROWS[:3])
    keys = client.api_keys.list(ACCOUNT)
    items = aiter(keys)
    with pytest.raises(ServerError):
        await anext(items)
    assert (await anext(items)).name == ROWS[0]["name"]
    assert [key.name async for key in items] == []
    assert [key.name async for key in keys] == [row["name"] for row in ROWS[:2]]
    assert len((await keys).items) == 3


async def test_asyncio_shows_what_a_task_is_about() -> None:
    client = AsyncAudienceLab(URL, KEY)
    keys = client.api_keys.list(ACCOUNT)
    shown: Any = keys
    assert shown.__name__ == "list"
    assert shown.cr_frame
    assert not hasattr(keys, "items")
    keys.close()
    await client.aclose()
