"""Lists that are fetched a page at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Page(Generic[T]):
    """Some items of a list; iterating walks all of them, over this page and those after it.

    The pages after it are fetched when the walk gets there, so iterating raises what `next` does.

    Attributes:
        items: The items of this page, in the list's order.
    """

    __slots__ = ("_fetch_after", "items")

    def __init__(self, items: list[T], fetch_after: "Callable[[T], Page[T]]") -> None:
        self.items: list[T] = items
        self._fetch_after = fetch_after

    def next(self) -> "Page[T] | None":
        """The page after this one, or None when this is the last.

        Raises:
            AudienceLabError: The request for it failed; calling again is another try.
        """
        # A page with fewer items than were asked for need not be the last: the server cuts every
        # answer at its own limit and does not say so. Only an empty page is the end.
        if not self.items:
            return None
        page = self._fetch_after(self.items[-1])
        return page if page.items else None

    def __iter__(self) -> Iterator[T]:
        items: Sequence[T] = self.items
        while items:
            yield from items
            last, items = items[-1], ()  # gone before the next ones come
            items = self._fetch_after(last).items

    def __repr__(self) -> str:
        return f"{type(self).__name__}(items={self.items!r})"


class AsyncPage(Generic[T]):
    """Like :class:`Page`, awaited: ``await page.next()`` and ``async for item in page``."""

    __slots__ = ("_fetch_after", "items")

    def __init__(
        self, items: list[T], fetch_after: "Callable[[T], Awaitable[AsyncPage[T]]]"
    ) -> None:
        self.items: list[T] = items
        self._fetch_after = fetch_after

    async def next(self) -> "AsyncPage[T] | None":
        """Like :meth:`Page.next`, awaited."""
        if not self.items:
            return None
        page = await self._fetch_after(self.items[-1])
        return page if page.items else None

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncWalk(self.items, self._fetch_after)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(items={self.items!r})"


class _AsyncWalk(Generic[T]):
    """No generator: trio warns of one that is left before its end."""

    def __init__(
        self, items: Sequence[T], fetch_after: Callable[[T], Awaitable[AsyncPage[T]]]
    ) -> None:
        self._items = iter(items)
        self._fetch_after = fetch_after
        self._last: T | None = None

    def __aiter__(self) -> "_AsyncWalk[T]":
        return self

    async def __anext__(self) -> T:
        item = next(self._items, None)
        if item is None and self._last is not None:
            page = await self._fetch_after(self._last)
            self._items = iter(page.items)
            item = next(self._items, None)
        self._last = item
        if item is None:
            raise StopAsyncIteration
        return item
