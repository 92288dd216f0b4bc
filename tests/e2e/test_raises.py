"""Each caller gets the error that the table expects, and the docstrings name the same errors.

The rule: a method raises what its own ``Raises:``
names, and what the docstring of its resource class names for all of its methods. A base class
documents none of its subclasses, except where a method passes on the errors of others. Errors of
the connection and of the server depend on neither the caller nor the arguments: the class names
them, and they are not in the table.
"""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import audiencelab_sdk
from audiencelab_sdk import (
    APIConnectionError,
    APIStatusError,
    AudienceLab,
    AudienceLabError,
    ClientClosedError,
    RateLimitError,
    ServerError,
    UnexpectedResponseError,
)
from tests.e2e._calls import SPECIAL, call
from tests.e2e._expected_errors import ROWS, Row
from tests.e2e._scenarios import EVERYBODY, World

if TYPE_CHECKING:
    from tests.e2e._project import Project
    from tests.e2e.conftest import Client


@pytest.fixture(scope="session")
def world(project: Project, backend: Client, anon: Client) -> World:
    # Without retries: a throttled call would wait until it is admitted.
    return World(project, backend.with_options(max_retries=0), anon.with_options(max_retries=0))


# Without trio: the errors do not depend on the event loop.
@pytest.mark.parametrize("client_kind", ["sync", "asyncio"], indirect=True, scope="session")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_caller_gets_the_expected_error(world: World, row: Row) -> None:
    client = world.caller(row.caller)
    run = SPECIAL.get(row.call) or partial(call, row.call)

    with world.thing(row.thing) as thing:
        if row.expected is None:
            run(client, thing)
            return
        with pytest.raises(row.expected.error) as caught:
            run(client, thing)

    found: Any = caught.value
    code = getattr(found, "code", None)
    assert type(found) is row.expected.error
    assert (getattr(found, "status", None), code) == (row.expected.status, row.expected.code)
    texts = [getattr(found, "message", str(found)), getattr(found, "hint", None) or ""]
    assert any(text.startswith(row.expected.begins) for text in texts), texts


def errors_named(pattern: str, text: str) -> set[type[AudienceLabError]]:
    return {getattr(audiencelab_sdk, name) for name in re.findall(pattern, text, re.MULTILINE)}


def raises(documented: object) -> set[type[AudienceLabError]]:
    """Return the classes in the section ``Raises:`` of a docstring."""
    docstring = inspect.getdoc(documented) or ""
    section = re.search(r"^Raises:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    return errors_named(r"^ {4}(\w+):", section[1]) if section else set()


def members(owner: object) -> dict[str, Any]:
    names = set(dir(owner)) - set(dir(BaseModel)) - set(dir(Exception))
    return {name: getattr(owner, name) for name in sorted(names) if not name.startswith("_")}


with AudienceLab("http://127.0.0.1", "key") as example:
    RESOURCES = {
        name: value
        for name, value in members(example).items()
        if not callable(value) and type(value).__module__.startswith("audiencelab_sdk.")
    }
METHODS = {
    f"{name}.{method}": bound
    for name, resource in RESOURCES.items()
    for method, bound in members(resource).items()
    if callable(bound)
}
# The asynchronous classes raise the same errors.
CLASSES = {
    name: value
    for name, value in ((name, getattr(audiencelab_sdk, name)) for name in audiencelab_sdk.__all__)
    if inspect.isclass(value) and not name.startswith("Async")
}
OWN = {
    **{name: raises(method) for name, method in METHODS.items()},
    **{f"{name}.__init__": raises(cls) for name, cls in CLASSES.items() if raises(cls)},
    **{
        f"{name}.{member}": raises(value)
        for name, cls in CLASSES.items()
        for member, value in members(cls).items()
        if raises(value)
    },
}
GENERAL = {
    name: errors_named(r"\b\w+Error\b", inspect.getdoc(type(resource)) or "")
    for name, resource in RESOURCES.items()
}
BASES = {AudienceLabError, APIStatusError}
# These raise the errors of other calls.
PASSING_ON = {"Page.next", "Outcome.unwrap", "KeyAuthenticator.authenticate"}
OUTAGES = {
    *(APIConnectionError, ClientClosedError, RateLimitError, ServerError, UnexpectedResponseError),
}


def raised_by(method: str) -> set[type[AudienceLabError]]:
    return {row.expected.error for row in ROWS if row.method == method and row.expected}


@pytest.mark.parametrize("method", METHODS)
def test_the_table_covers_every_caller(method: str) -> None:
    callers = {row.caller for row in ROWS if row.method == method}
    assert callers >= EVERYBODY


@pytest.mark.parametrize("method", OWN)
def test_documented_errors_are_raised(method: str) -> None:
    raised = raised_by(method)
    if method in PASSING_ON:
        assert all(any(issubclass(error, base) for error in raised) for base in OWN[method])
    else:
        assert OWN[method] - raised == set()


@pytest.mark.parametrize("method", sorted({row.method for row in ROWS}))
def test_raised_errors_are_documented(method: str) -> None:
    if method in PASSING_ON:
        assert all(issubclass(error, tuple(OWN[method])) for error in raised_by(method))
    else:
        general = GENERAL.get(method.partition(".")[0], set())
        assert raised_by(method) - (OWN[method] | general) == set()


@pytest.mark.parametrize("resource", RESOURCES)
def test_errors_documented_by_a_class_are_raised(resource: str) -> None:
    methods = [method for method in METHODS if method.startswith(f"{resource}.")]
    raised = {error for method in methods for error in raised_by(method)}
    assert GENERAL[resource] - BASES - OUTAGES - raised == set()
