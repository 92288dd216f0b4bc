"""Lists that are fetched a page at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Page(Generic[T]):
    """Some items of a list; iterating walks all of them, over this page and those after it.

    The pages after it are fetched when the walk gets there, so iterating raises what `next` does.

    Attributes:
        items: The items of this page, in the list's order.
    """

    __slots__ = ("_fetch_next", "items")

    def __init__(self, items: list[T], fetch_next: "Callable[[], Page[T]]") -> None:
        self.items: list[T] = items
        self._fetch_next = fetch_next

    def next(self) -> "Page[T] | None":
        """The page after this one, or None when this is the last.

        Raises:
            AudienceLabError: The request for it failed; calling again is another try.
        """
        # A page with fewer items than were asked for need not be the last: the server cuts every
        # answer at its own limit and does not say so. Only an empty page is the end.
        if not self.items:
            return None
        page = self._fetch_next()
        return page if page.items else None

    def __iter__(self) -> Iterator[T]:
        page: Page[T] | None = self
        while page is not None:
            yield from page.items
            page = page.next()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(items={self.items!r})"


class AsyncPage(Generic[T]):
    """Like :class:`Page`, awaited: ``await page.next()`` and ``async for item in page``."""

    __slots__ = ("_fetch_next", "items")

    def __init__(self, items: list[T], fetch_next: "Callable[[], Awaitable[AsyncPage[T]]]") -> None:
        self.items: list[T] = items
        self._fetch_next = fetch_next

    async def next(self) -> "AsyncPage[T] | None":
        """Like :meth:`Page.next`, awaited."""
        if not self.items:
            return None
        page = await self._fetch_next()
        return page if page.items else None

    async def __aiter__(self) -> AsyncIterator[T]:
        page: AsyncPage[T] | None = self
        while page is not None:
            for item in page.items:
                yield item
            page = await page.next()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(items={self.items!r})"
