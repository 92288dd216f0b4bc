"""Operations: generators that yield requests, get responses and return a result.

An operation performs no I/O. For each :class:`Request` that it yields it is sent a successful
:class:`Response`, or thrown the error. A driver in ``_drivers`` performs the I/O, synchronously or
asynchronously.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from pydantic import SecretStr

if TYPE_CHECKING:
    import httpx
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient

T = TypeVar("T")

PostgrestClient: TypeAlias = "SyncPostgrestClient | AsyncPostgrestClient"


class BuiltRequest(Protocol):
    """A request of postgrest-py's synchronous or asynchronous client."""

    @property
    def http_method(self) -> str:
        """Return the HTTP method."""
        ...

    @property
    def path(self) -> Any:
        """Return the URL without the query."""

    def send(self, additional_headers: "httpx.Headers") -> Any:
        """Return the :class:`Response`, or an awaitable of it."""


class RequestBuilder(Protocol):
    """A request builder of postgrest-py's synchronous or asynchronous client."""

    @property
    def request(self) -> BuiltRequest:
        """Return the built request."""
        ...


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        build: Builds the request from a postgrest-py client.
        repeatable: Whether the request is idempotent, so that it may be retried after a lost
            response.
        delay: Seconds to wait before the request is sent.
        retried: Whether the driver retries it. False where the operation does so itself.
    """

    build: Callable[[PostgrestClient], RequestBuilder]
    repeatable: bool
    delay: float = 0.0
    retried: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """A successful HTTP response.

    Attributes:
        method: The HTTP method of the request.
        path: The path of the request.
        status: The HTTP status.
        content: The whole body, decompressed.
        content_type: The Content-Type header. Empty if there is none.
        request_id: The request's id in the logs of Supabase or of a proxy.
    """

    method: str
    path: str
    status: int
    content: bytes = field(repr=False)
    content_type: str = ""
    request_id: str | None = None


Operation: TypeAlias = Generator[Request, Response, T]


def rpc(
    function: str,
    arguments: Mapping[str, Any],
    *,
    repeatable: bool,
    delay: float = 0.0,
    retried: bool = True,
) -> Request:
    """Return the request that calls a database function. SecretStr arguments are unwrapped."""

    def build(api: PostgrestClient) -> RequestBuilder:
        return api.rpc(function, {name: _plain(value) for name, value in arguments.items()})

    return Request(build, repeatable=repeatable, delay=delay, retried=retried)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
