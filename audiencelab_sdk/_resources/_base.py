"""What all resources share: a driver, and pages made of slices."""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from audiencelab_sdk._operations._paging import Slice
from audiencelab_sdk._run import AsyncRunner, Runner
from audiencelab_sdk._steps import Steps
from audiencelab_sdk.models import AsyncPage, Page

T = TypeVar("T")

UserId = Callable[[], UUID | None]
"""Tells the user that a client acts as at this moment; None when it acts as none."""


class Resource:
    """Calls that one client makes."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def _page(self, steps: Steps[Slice[T]]) -> Page[T]:
        part = self._run(steps)
        return Page(part.items, lambda: self._page(part.following()))


class AsyncResource:
    """Like :class:`Resource`, awaited."""

    def __init__(self, run: AsyncRunner) -> None:
        self._run = run

    async def _page(self, steps: Steps[Slice[T]]) -> AsyncPage[T]:
        part = await self._run(steps)
        return AsyncPage(part.items, lambda: self._page(part.following()))


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
