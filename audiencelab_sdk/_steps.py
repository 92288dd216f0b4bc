"""How an operation asks for a request, without sending it.

An operation is a generator: it yields a :class:`Call`, is sent the answer or thrown the error,
and returns its result. A driver in ``_run`` does the input and output, in either colour.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from postgrest import APIResponse, AsyncPostgrestClient, SyncPostgrestClient
from postgrest.base_request_builder import RequestConfig

T = TypeVar("T")

PostgrestClient: TypeAlias = SyncPostgrestClient | AsyncPostgrestClient


class RequestBuilder(Protocol):
    """What postgrest-py's request builders, sync and async, have in common."""

    request: RequestConfig[Any]

    def execute(self) -> Any:
        """Send the request; the asynchronous builders return an awaitable."""


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        build: Makes the request from a postgrest-py client.
        repeatable: Whether doing it twice is as good as once, so that it may be sent again when
            nobody knows whether it was done.
        delay: Seconds to wait before it.
    """

    build: Callable[[PostgrestClient], RequestBuilder]
    repeatable: bool
    delay: float = 0.0


Steps: TypeAlias = Generator[Call, APIResponse, T]
