"""Pages of lists."""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row of a list that does not fit its model, such as one with a time in the year 20000.

    Attributes:
        id: The row's id.
        raw: The JSON text of the row, as the server sent it. The repr omits it.
        reason: Which fields do not fit, and why. It quotes no values.
    """

    id: UUID
    raw: str = field(repr=False)
    reason: str


class Page(Generic[T]):
    """A page of a list. Iterating over it yields its items and those of all following pages.

    The following pages are fetched as needed, so iteration raises the same errors as `next`.

    Attributes:
        items: The items of this page, in the list's order.
        unreadable: The rows of this page that do not fit their model. Iteration skips them. The log
            has a warning for each.
        cursor: Opaque text for the `cursor` argument of the same method with the same arguments,
            which then returns the page after this one, in any process. None if this page has no
            rows, which is the end of the list. It is not signed.
    """

    __slots__ = ("_fetch_next", "cursor", "items", "unreadable")

    def __init__(
        self,
        items: list[T],
        unreadable: "list[UnreadableRow]",
        cursor: str | None,
        fetch_next: "Callable[[], Page[T]] | None",
    ) -> None:
        self.items: list[T] = items
        self.unreadable: list[UnreadableRow] = unreadable
        self.cursor: str | None = cursor
        self._fetch_next = fetch_next

    def next(self) -> "Page[T] | None":
        """Return the page after this one, or None if this is the last.

        Raises:
            AudienceLabError: The request for it failed. Calling it again retries.
        """
        # A page with fewer items than requested need not be the last, because the server truncates
        # responses at its own limit without saying so. Only a page without rows ends the list.
        if self._fetch_next is None:
            return None
        page = self._fetch_next()
        return page if page._fetch_next else None

    def __iter__(self) -> Iterator[T]:
        items: Sequence[T] = self.items
        fetch_next = self._fetch_next
        while True:
            yield from items
            if fetch_next is None:
                return
            items = ()  # frees them before the next page arrives
            page = fetch_next()
            items, fetch_next = page.items, page._fetch_next
            del page

    def __repr__(self) -> str:
        return _repr(self)


class AsyncPage(Generic[T]):
    """A page of a list. ``async for`` over it yields its items and those of all following pages.

    The following pages are fetched as needed, so iteration raises the same errors as `next`.

    Attributes:
        items: The items of this page, in the list's order.
        unreadable: The rows of this page that do not fit their model. Iteration skips them. The log
            has a warning for each.
        cursor: Opaque text for the `cursor` argument of the same method with the same arguments,
            which then returns the page after this one, in any process. None if this page has no
            rows, which is the end of the list. It is not signed.
    """

    __slots__ = ("_fetch_next", "cursor", "items", "unreadable")

    def __init__(
        self,
        items: list[T],
        unreadable: "list[UnreadableRow]",
        cursor: str | None,
        fetch_next: "Callable[[], Awaitable[AsyncPage[T]]] | None",
    ) -> None:
        self.items: list[T] = items
        self.unreadable: list[UnreadableRow] = unreadable
        self.cursor: str | None = cursor
        self._fetch_next = fetch_next

    async def next(self) -> "AsyncPage[T] | None":
        """Return the page after this one, or None if this is the last.

        Raises:
            AudienceLabError: The request for it failed. Calling it again retries.
        """
        if self._fetch_next is None:
            return None
        page = await self._fetch_next()
        return page if page._fetch_next else None

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncItems(self.items, self._fetch_next)

    def __repr__(self) -> str:
        return _repr(self)


class AsyncPages(Coroutine[Any, Any, AsyncPage[T]]):
    """A list, from a method of the asynchronous client, that is not fetched yet.

    Await it for the first page, or iterate over it for the items of all pages::

        page = await client.segments.list()

        async for segment in client.segments.list():
            print(segment.name)

    It is a coroutine, so ``asyncio.create_task`` and the like accept it. Awaiting it or iterating
    over it again fetches the list again.
    """

    def __init__(self, fetch: Callable[[], Coroutine[Any, Any, AsyncPage[T]]]) -> None:
        self._fetch = fetch
        # Python warns if it is neither awaited nor iterated over.
        self._first = fetch()
        self._is_used = False

    def __await__(self) -> Generator[Any, Any, AsyncPage[T]]:
        return self._page().__await__()

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncItems((), self._page)

    def _page(self) -> Coroutine[Any, Any, AsyncPage[T]]:
        if self._is_used:
            return self._fetch()
        self._is_used = True
        return self._first

    def send(self, value: Any) -> Any:
        """Resume the coroutine with a value."""
        return self._first.send(value)

    def throw(self, *exception: Any) -> Any:
        """Resume the coroutine with an exception."""
        return self._first.throw(*exception)

    def close(self) -> None:
        """Close the coroutine."""
        self._first.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # asyncio shows these of a task's coroutine.
            if name in {"__name__", "__qualname__"} or name.startswith("cr_"):
                return getattr(self._first, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _AsyncItems(Generic[T]):
    """Not a generator, because trio warns about generators that are not exhausted."""

    def __init__(
        self,
        items: Sequence[T],
        fetch_next: "Callable[[], Awaitable[AsyncPage[T]]] | None",
    ) -> None:
        self._items = iter(items)
        self._fetch_next = fetch_next

    def __aiter__(self) -> "_AsyncItems[T]":
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._items:
                return item
            fetch_next = self._fetch_next
            if fetch_next is None:
                raise StopAsyncIteration
            page = await fetch_next()
            self._items = iter(page.items)
            self._fetch_next = page._fetch_next  # pyright: ignore[reportPrivateUsage] # same module


def _repr(page: Page[T] | AsyncPage[T]) -> str:
    unreadable = f", unreadable={page.unreadable!r}" if page.unreadable else ""
    return f"{type(page).__name__}(items={page.items!r}{unreadable})"
