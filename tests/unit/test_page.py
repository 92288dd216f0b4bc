"""Walking pages with either client."""

import gc
import weakref
from typing import Any
from uuid import UUID

import httpx
import pytest
import respx

from audiencelab_sdk import Page, ServerError, UnexpectedResponseError, UnreadableRow
from tests.unit._both_clients import settle
from tests.unit._samples import ACCOUNT, LISTED

# All made at the same moment.
ROWS = [{**LISTED, "id": str(UUID(int=9 - number)), "name": f"key {number}"} for number in range(5)]


def answer(api: respx.MockRouter, *pages: Any) -> respx.Route:
    responses = [
        page if isinstance(page, httpx.Response) else httpx.Response(200, json=page)
        for page in pages
    ]
    return api.post("/rpc/list_api_keys").mock(side_effect=responses)


async def names(page: Any) -> list[str]:
    if hasattr(page, "__aiter__"):
        return [key.name async for key in page]
    return [key.name for key in page]


async def test_iterating_walks_all_pages(client: Any, api: respx.MockRouter) -> None:
    route = answer(api, ROWS[:2], ROWS[2:4], ROWS[4:], [])
    page = await settle(client.api_keys.list(ACCOUNT, page_size=2))
    assert await names(page) == [f"key {number}" for number in range(5)]
    assert route.call_count == 4
    assert [call.request.url.params["limit"] for call in route.calls] == ["2"] * 4


async def test_a_page_that_the_server_cut_is_not_the_last(
    client: Any, api: respx.MockRouter
) -> None:
    answer(api, ROWS[:2], ROWS[2:4], ROWS[4:], [])
    page = await settle(client.api_keys.list(ACCOUNT, page_size=1000))
    assert len(await names(page)) == 5


async def test_pages_are_fetched_when_they_are_needed(client: Any, api: respx.MockRouter) -> None:
    route = answer(api, ROWS[:2], ROWS[2:], [])
    page = await settle(client.api_keys.list(ACCOUNT, page_size=2))
    assert [key.name for key in page.items] == ["key 0", "key 1"]
    assert route.call_count == 1
    second = await settle(page.next())
    assert type(second) is type(page)
    assert [key.name for key in second.items] == ["key 2", "key 3", "key 4"]
    assert await settle(second.next()) is None
    assert route.call_count == 3


async def test_an_empty_list(client: Any, api: respx.MockRouter) -> None:
    route = answer(api, [])
    page = await settle(client.api_keys.list(ACCOUNT))
    assert page.items == []
    assert await settle(page.next()) is None
    assert await names(page) == []
    assert route.call_count == 1


async def test_a_walk_may_be_left(client: Any, api: respx.MockRouter) -> None:
    route = answer(api, ROWS[:2], ROWS[2:4])
    page = await settle(client.api_keys.list(ACCOUNT, page_size=2))
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
    gc.collect()  # what is left open warns here, and so is an error
    assert seen == ["key 0", "key 1", "key 2"]
    assert route.call_count == 2


async def test_a_row_that_cannot_be_read_ends_the_walk(client: Any, api: respx.MockRouter) -> None:
    answer(api, ROWS[:1], [ROWS[1], {**ROWS[2], "id": "no uuid"}])
    page = await settle(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match=r"see: 1\.id"):
        await names(page)


@pytest.mark.parametrize("body", ["[{", "<html>", "", "{}"])
async def test_a_walk_that_meets_something_else(
    client: Any, api: respx.MockRouter, body: str
) -> None:
    answer(api, ROWS[:1], httpx.Response(200, text=body))
    page = await settle(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match="does the URL lead to"):
        await names(page)


async def test_a_page_may_be_walked_again(client: Any, api: respx.MockRouter) -> None:
    answer(api, ROWS, [], [])
    page = await settle(client.api_keys.list(ACCOUNT))
    assert await names(page) == await names(page)


async def test_a_page_that_fails_may_be_asked_for_again(client: Any, api: respx.MockRouter) -> None:
    answer(api, ROWS[:2], httpx.Response(500), ROWS[2:], [])
    page = await settle(client.api_keys.list(ACCOUNT, page_size=2))
    with pytest.raises(ServerError):
        await settle(page.next())
    second = await settle(page.next())
    assert len(second.items) == 3


async def test_a_server_that_ignores_the_cursor_is_no_endless_walk(
    client: Any, api: respx.MockRouter
) -> None:
    answer(api, ROWS, ROWS)
    page = await settle(client.api_keys.list(ACCOUNT))
    with pytest.raises(UnexpectedResponseError, match="rows of the page before"):
        await names(page)


class Item:
    """Something that can be seen to be gone."""


def test_a_walk_lets_go_of_a_page_before_it_fetches_the_next() -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    seen: list[int] = []

    def page() -> Page[Item]:
        seen.append(len(alive))
        items = [Item() for _ in range(3 if len(seen) < 5 else 0)]
        alive.update(items)
        return Page(items, [], page if items else None)

    first = page()
    assert sum(1 for _ in first) == 12
    # Those of the first page, and the item that the walk gave last.
    assert seen == [0, 3, 4, 4, 4]


async def test_repr(client: Any, api: respx.MockRouter) -> None:
    answer(api, [])
    page = await settle(client.api_keys.list(ACCOUNT))
    assert repr(page) == f"{type(page).__name__}(items=[])"


def test_the_repr_of_an_unreadable_row_does_not_show_it() -> None:
    row = UnreadableRow(UUID(int=1), '{"name": "secret"}', "created_at: too late")
    assert "secret" not in repr(row)
