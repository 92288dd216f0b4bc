"""How an operation asks for a request, without sending it.

An operation is a generator: it yields a :class:`Call`, is sent the HTTP answer (a success, with
all of its body) or thrown the error, and returns its result. A driver in ``_run`` does the input
and output, in either colour.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import httpx
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")

PostgrestClient: TypeAlias = "SyncPostgrestClient | AsyncPostgrestClient"


class Request(Protocol):
    """What postgrest-py's requests, sync and async, have in common."""

    def send(self, additional_headers: "httpx.Headers") -> Any:
        """The HTTP answer; from the asynchronous ones, an awaitable."""


class RequestBuilder(Protocol):
    """What postgrest-py's request builders, sync and async, have in common."""

    @property
    def request(self) -> Request:
        """The request, built."""
        ...


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        build: Makes the request from a postgrest-py client.
        repeatable: Whether doing it twice is as good as once, so that it may be sent again when
            nobody knows whether it was done.
        delay: Seconds to wait before it.
        retried: Whether the driver sends it again; not where the operation does so itself.
    """

    build: Callable[[PostgrestClient], RequestBuilder]
    repeatable: bool
    delay: float = 0.0
    retried: bool = True


Steps: TypeAlias = Generator[Call, "httpx.Response", T]
