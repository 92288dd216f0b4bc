"""Methods that are written once and serve both clients.

A method is a function of the resource that performs no I/O. Accessed on a resource of the
synchronous client it is a plain method, on one of the asynchronous client a coroutine method, with
the same parameters and the same docstring.
"""

# The descriptors and the resources belong together.
# pyright: reportPrivateUsage=false

import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial, wraps
from types import MethodType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, get_args, overload

from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._http._listing import Listing, Place, Row
from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk.models import AsyncPage, AsyncPages, Page

D = TypeVar("D", Driver, AsyncDriver)
P = ParamSpec("P")
R = TypeVar("R", bound=Row)
T = TypeVar("T")
S = TypeVar("S")
A = TypeVar("A")

Creator = Callable[[], Mapping[str, str] | None]
"""Returns the columns that say in whose name a client currently creates rows.

None if it acts as no user or API key.
"""


class Resource(Generic[D]):
    """The methods of a client about one subject.

    Attributes:
        _subject: The attribute of the client that holds the resource.
    """

    _subject: ClassVar[str]

    def __init__(self, driver: D, creator: Creator) -> None:
        self._driver: D = driver
        self._creator = creator


class Method(Generic[P, S, A]):
    """A descriptor: a method with result S on synchronous resources, A on asynchronous ones."""

    def __init__(self, synchronous: Callable[..., S], asynchronous: Callable[..., A]) -> None:
        self._synchronous = synchronous
        self._asynchronous = asynchronous
        self.__doc__ = synchronous.__doc__

    @overload
    def __get__(
        self, instance: None, owner: type[Resource[Any]]
    ) -> Callable[Concatenate[Any, P], S]: ...
    @overload
    def __get__(self, instance: Resource[Driver], owner: type[Resource[Any]]) -> Callable[P, S]: ...
    @overload
    def __get__(
        self, instance: Resource[AsyncDriver], owner: type[Resource[Any]]
    ) -> Callable[P, A]: ...

    def __get__(self, instance: Resource[Any] | None, owner: type[Resource[Any]]) -> Any:
        if instance is None:
            return self._synchronous
        is_async = isinstance(instance._driver, AsyncDriver)
        return MethodType(self._asynchronous if is_async else self._synchronous, instance)


def operation(
    function: Callable[Concatenate[Any, P], Operation[T]],
) -> Method[P, T, Coroutine[Any, Any, T]]:
    """Make a method of an operation: it returns the operation's result."""
    _, _, result = get_args(inspect.signature(function).return_annotation)
    return Method(_plain(function, _run, result), _coroutine(function, _run, result))


def listing(
    function: Callable[Concatenate[Any, P], Listing[R]],
) -> Method[P, Page[R], AsyncPages[R]]:
    """Make a method of a function that returns a listing: it returns the first page."""
    row = get_args(inspect.signature(function).return_annotation)
    return Method(
        _plain(function, _page, cast("Any", Page)[row]),
        _pages(function, cast("Any", AsyncPages)[row]),
    )


def made_by(
    synchronous: Callable[[Driver, str, T], S], asynchronous: Callable[[AsyncDriver, str, T], A]
) -> Callable[[Callable[Concatenate[Any, P], T]], Method[P, S, A]]:
    """Make a method that passes the function's result on to one of two classes."""

    def decorate(function: Callable[Concatenate[Any, P], T]) -> Method[P, S, A]:
        return Method(
            _plain(function, synchronous, synchronous),
            _plain(function, asynchronous, asynchronous),
        )

    return decorate


def overloaded(
    decorate: Callable[[Callable[..., Any]], Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave the types of a decorated method to its overloads."""
    return decorate


def _plain(
    function: Callable[..., Any], finish: Callable[[Any, str, Any], Any], result: Any
) -> Callable[..., Any]:
    """Return a method that calls `finish` with the driver, its name and what `function` returns."""
    name = function.__name__

    @wraps(function)
    def method(self: Resource[Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            made = function(self, *args, **kwargs)
        finally:
            # Error reporters may show the local variables of each frame, and an argument may be
            # an API key.
            del args, kwargs
        return finish(self._driver, f"{self._subject}.{name}", made)

    return _with_result(method, result)


def _coroutine(
    function: Callable[..., Any], finish: Callable[[Any, str, Any], Any], result: Any
) -> Callable[..., Any]:
    """Return a coroutine method that calls `finish` as the method of :func:`_plain` does."""
    name = function.__name__

    @wraps(function)
    async def method(self: Resource[Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            made = function(self, *args, **kwargs)
        finally:
            del args, kwargs  # as above
        return await finish(self._driver, f"{self._subject}.{name}", made)

    return _with_result(method, result)


def _pages(function: Callable[..., Any], result: Any) -> Callable[..., Any]:
    """Return a method that returns the :class:`AsyncPages` of a listing."""
    first = _coroutine(function, _async_page, result)

    @wraps(first)
    def method(self: Resource[Any], /, *args: Any, **kwargs: Any) -> Any:
        return AsyncPages(partial(first, self, *args, **kwargs))

    _mark_as_coroutine_function(method)
    return method


def _mark_as_coroutine_function(method: Any) -> None:
    """Let `inspect` and `unittest.mock` take a function for a coroutine function."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(method)
    else:
        _unmarked.append(method)


_unmarked: list[Any] = []


def mark_coroutine_functions() -> None:
    """Mark those that are not marked, when the first asynchronous client imports asyncio.

    asyncio and `unittest.mock` look at this mark. Python 3.11 has none for `inspect`.
    """
    from asyncio import coroutines  # noqa: PLC0415 - see _client

    for method in _unmarked:
        method._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def _with_result(method: Callable[..., Any], result: Any) -> Callable[..., Any]:
    """Document that `method` returns `result`, for `help` and `inspect.signature`."""
    signature = inspect.signature(method).replace(return_annotation=result)
    method.__annotations__ = {**method.__annotations__, "return": result}
    cast("Any", method).__signature__ = signature
    return method


def _run(driver: Callable[[str, Operation[T]], A], name: str, made: Operation[T]) -> A:
    return driver(name, made)


def _page(driver: Driver, name: str, listed: Listing[R], after: Place | None = None) -> Page[R]:
    fetched = driver(name, listed.page(after))
    if fetched.last is None:
        return Page(fetched.items, fetched.unreadable, None, None)
    fetch_next = partial(_page, driver, name, listed, fetched.last)
    return Page(fetched.items, fetched.unreadable, listed.cursor(fetched.last), fetch_next)


async def _async_page(
    driver: AsyncDriver, name: str, listed: Listing[R], after: Place | None = None
) -> AsyncPage[R]:
    fetched = await driver(name, listed.page(after))
    if fetched.last is None:
        return AsyncPage(fetched.items, fetched.unreadable, None, None)
    fetch_next = partial(_async_page, driver, name, listed, fetched.last)
    return AsyncPage(fetched.items, fetched.unreadable, listed.cursor(fetched.last), fetch_next)
