"""What all resources share: a driver, and pages of what it fetches."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar
from uuid import UUID

from audiencelab_sdk._operations._paging import Listing, Place, Row
from audiencelab_sdk._run import AsyncRunner, Runner
from audiencelab_sdk.models import AsyncPage, Page

R = TypeVar("R", bound=Row)

UserId = Callable[[], UUID | None]
"""Tells the user that a client acts as at this moment; None when it acts as none."""


class Resource:
    """Calls that one client makes."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def _page(self, listing: Listing[R], after: Place | None = None) -> Page[R]:
        fetched = self._run(listing.page(after))
        fetch_next = partial(self._page, listing, fetched.last) if fetched.last else None
        return Page(fetched.items, fetched.unreadable, fetch_next)


class AsyncResource:
    """Like :class:`Resource`, awaited."""

    def __init__(self, run: AsyncRunner) -> None:
        self._run = run

    async def _page(self, listing: Listing[R], after: Place | None = None) -> AsyncPage[R]:
        fetched = await self._run(listing.page(after))
        fetch_next = partial(self._page, listing, fetched.last) if fetched.last else None
        return AsyncPage(fetched.items, fetched.unreadable, fetch_next)


class UserResource(Resource):
    """Calls that may be made in the name of the user that the client acts as."""

    def __init__(self, run: Runner, user_id: UserId) -> None:
        super().__init__(run)
        self._user_id = user_id


class AsyncUserResource(AsyncResource):
    """Like :class:`UserResource`, awaited."""

    def __init__(self, run: AsyncRunner, user_id: UserId) -> None:
        super().__init__(run)
        self._user_id = user_id
