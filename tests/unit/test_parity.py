"""The two clients are one interface."""

import inspect
import re
from types import FunctionType

import pytest

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncPage,
    AsyncProgress,
    AudienceLab,
    Page,
    Progress,
)
from audiencelab_sdk._resources.api_keys import ApiKeys, AsyncApiKeys
from audiencelab_sdk._resources.enrichment import AsyncEnrichment, Enrichment
from audiencelab_sdk._resources.segments import AsyncSegments, Segments

PAIRS: list[tuple[type, type]] = [
    (AudienceLab, AsyncAudienceLab),
    (ApiKeys, AsyncApiKeys),
    (Segments, AsyncSegments),
    (Enrichment, AsyncEnrichment),
    (Page, AsyncPage),
    (Progress, AsyncProgress),
]
RENAMED = {"close": "aclose"}
NOT_AWAITED = {
    "__init__",
    "from_env",
    "from_supabase",
    "as_user",
    "as_api_key",
    "with_options",
    "track",
}


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
    text = re.sub(r"Async(?=AudienceLab|Client|Page|ApiKeys|Runner|Progress)", "", text)
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


@pytest.mark.parametrize(("name", "function", "twin"), pairs())
def test_docstrings_lead_to_the_synchronous_ones(
    name: str, function: FunctionType, twin: FunctionType
) -> None:
    if name.endswith("__init__"):
        return
    awaited = ", awaited." if name.split(".")[1] not in NOT_AWAITED else "."
    assert function.__doc__
    assert (twin.__doc__ or "").startswith(f"Like :meth:`{name}`{awaited}")


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_class_docstrings(sync: type, twin: type) -> None:
    assert (twin.__doc__ or "").startswith(f"Like :class:`{sync.__name__}`, awaited")
