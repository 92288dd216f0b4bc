"""The two clients are one interface."""

import inspect
import pydoc
import re
import typing
from functools import partial
from types import FunctionType
from typing import Any
from unittest import mock

import pytest

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncPage,
    AsyncProgress,
    AudienceLab,
    Page,
    Progress,
)
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from tests.unit._operations import KEY, URL

PAIRS: list[tuple[type, type]] = [
    (AudienceLab, AsyncAudienceLab),
    (Page, AsyncPage),
    (Progress, AsyncProgress),
]
RENAMED = {"close": "aclose"}
NOT_AWAITED = {"__init__", "from_env", "from_supabase", "as_user", "as_api_key", "with_options"}
METHODS = [
    (subject, name)
    for subject, resource in {
        "api_keys": ApiKeys,
        "segments": Segments,
        "enrichment": Enrichment,
    }.items()
    for name in vars(resource)
    if not name.startswith("_")
]


def functions(cls: type) -> dict[str, FunctionType]:
    """The public methods that a class itself defines, classmethods too, and its constructor."""
    unwrapped = {name: getattr(value, "__func__", value) for name, value in vars(cls).items()}
    return {
        name: value
        for name, value in unwrapped.items()
        if isinstance(value, FunctionType) and (name == "__init__" or not name.startswith("_"))
    }


def pairs() -> list[tuple[str, FunctionType, FunctionType]]:
    return [
        (f"{sync.__name__}.{name}", function, functions(twin)[RENAMED.get(name, name)])
        for sync, twin in PAIRS
        for name, function in functions(sync).items()
    ]


def in_sync_words(text: str) -> str:
    text = re.sub(r"Async(?=AudienceLab|Client|Page|Driver|Progress)", "", text)
    awaitable = re.compile(r"(?:collections\.abc\.)?Awaitable\[")
    while found := awaitable.search(text):
        end, depth = found.end(), 1
        while depth:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        text = text[: found.start()] + text[found.end() : end - 1] + text[end:]
    return text


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_same_names(sync: type, twin: type) -> None:
    names = {name for name in vars(sync) if not name.startswith("_")}
    twin_names = {name for name in vars(twin) if not name.startswith("_")}
    assert {RENAMED.get(name, name) for name in names} == twin_names


@pytest.mark.parametrize(("name", "function", "twin"), pairs())
def test_same_signatures(name: str, function: FunctionType, twin: FunctionType) -> None:
    assert str(inspect.signature(function)) == in_sync_words(str(inspect.signature(twin)))


@pytest.mark.parametrize(("name", "function", "twin"), pairs())
def test_what_does_input_or_output_is_awaited(
    name: str, function: FunctionType, twin: FunctionType
) -> None:
    assert not inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(twin) is (name.split(".")[1] not in NOT_AWAITED)


@pytest.fixture(scope="module")
def sync_client() -> AudienceLab:
    return AudienceLab(URL, KEY)


@pytest.fixture(scope="module")
def async_client() -> AsyncAudienceLab:
    return AsyncAudienceLab(URL, KEY)


@pytest.mark.parametrize(("subject", "name"), METHODS)
def test_a_method_is_an_ordinary_one_in_both_clients(
    sync_client: AudienceLab, async_client: AsyncAudienceLab, subject: str, name: str
) -> None:
    plain = getattr(getattr(sync_client, subject), name)
    awaited = getattr(getattr(async_client, subject), name)

    assert inspect.ismethod(plain)
    assert inspect.ismethod(awaited)
    assert plain.__name__ == awaited.__name__ == name
    assert plain.__doc__
    assert inspect.getdoc(plain) == inspect.getdoc(awaited)
    signature = inspect.signature(plain)
    assert "Operation" not in str(signature)
    assert "Generator" not in str(signature)
    assert "Listing" not in str(signature)
    assert str(signature) == in_sync_words(str(inspect.signature(awaited)))
    assert typing.get_type_hints(plain)["return"] == signature.return_annotation
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(awaited) is (name != "track")
    assert inspect.iscoroutinefunction(partial(awaited)) is (name != "track")


def test_help_shows_the_methods_of_a_resource() -> None:
    text = pydoc.plain(pydoc.render_doc(ApiKeys))

    assert "verify(self, api_key: str | pydantic.types.SecretStr) -> audiencelab_sdk" in text
    assert "Check whether a text is a valid API key, and whose." in text


@pytest.mark.parametrize("method", ["create", "verify", "log_usage_batch"])
def test_an_autospec_checks_the_arguments(
    sync_client: AudienceLab, async_client: AsyncAudienceLab, method: str
) -> None:
    plain: Any = getattr(mock.create_autospec(sync_client).api_keys, method)
    awaited: Any = getattr(mock.create_autospec(async_client).api_keys, method)

    with pytest.raises(TypeError, match="missing a required argument"):
        plain()
    assert inspect.iscoroutinefunction(awaited)


def test_an_argument_that_is_missing_is_named_as_for_a_function(sync_client: AudienceLab) -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'api_key'"):
        sync_client.api_keys.verify()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
