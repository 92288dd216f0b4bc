"""The methods of a resource, bound to either client."""

import inspect
import pydoc
import sys
import typing
from functools import partial
from typing import Any
from unittest import mock

import pytest

from audiencelab_sdk import (
    AsyncAudienceLab,
    AudienceLab,
)
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from tests.unit._both_clients import in_sync_words
from tests.unit._samples import KEY, URL

METHODS = [
    (subject, name)
    for subject, resource in {
        "api_keys": ApiKeys,
        "segments": Segments,
        "enrichment": Enrichment,
    }.items()
    for name in dir(resource)
    if not name.startswith("_")
]


@pytest.fixture(scope="module")
def sync_client() -> AudienceLab:
    return AudienceLab(URL, KEY)


@pytest.fixture(scope="module")
def async_client() -> AsyncAudienceLab:
    return AsyncAudienceLab(URL, KEY)


@pytest.mark.parametrize(("subject", "name"), METHODS)
def test_methods_are_ordinary_methods_of_both_clients(
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
    # A method that returns pages is not an `async def`, which Python 3.11 cannot be told.
    is_known = name not in {"list", "log", "events"} or sys.version_info >= (3, 12)
    is_awaited = name not in {"track", "run"} and is_known
    assert inspect.iscoroutinefunction(awaited) is is_awaited
    assert inspect.iscoroutinefunction(partial(awaited)) is is_awaited


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
    # On Python 3.13.0, `inspect.iscoroutinefunction` is false for all methods of an autospec.
    assert isinstance(awaited, mock.AsyncMock)
    assert not isinstance(plain, mock.AsyncMock)


async def test_an_autospec_awaits_lists(async_client: AsyncAudienceLab) -> None:
    spec = mock.create_autospec(async_client)
    spec.segments.list.return_value = "page"

    assert await spec.segments.list() == "page"


def test_a_missing_argument_raises_the_usual_type_error(sync_client: AudienceLab) -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'api_key'"):
        sync_client.api_keys.verify()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
