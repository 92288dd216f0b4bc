"""The synchronous and the asynchronous classes have the same interface."""

import inspect
from types import FunctionType

import pytest

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncEnrichmentRun,
    AsyncPage,
    AsyncProgress,
    AudienceLab,
    EnrichmentRun,
    Page,
    Progress,
)
from tests.unit._both_clients import in_sync_words

PAIRS: list[tuple[type, type]] = [
    (AudienceLab, AsyncAudienceLab),
    (Page, AsyncPage),
    (Progress, AsyncProgress),
    (EnrichmentRun, AsyncEnrichmentRun),
]
RENAMED = {"close": "aclose"}
NOT_AWAITED = {"__init__", "from_env", "from_supabase", "as_user", "as_api_key", "with_options"}


def functions(cls: type) -> dict[str, FunctionType]:
    """Return the constructor, the public methods and the class methods of the class itself."""
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


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_classes_have_the_same_public_names(sync: type, twin: type) -> None:
    names = {name for name in vars(sync) if not name.startswith("_")}
    twin_names = {name for name in vars(twin) if not name.startswith("_")}
    assert {RENAMED.get(name, name) for name in names} == twin_names - RENAMED.keys()


@pytest.mark.parametrize(("name", "function", "twin"), pairs())
def test_methods_have_the_same_signatures(
    name: str, function: FunctionType, twin: FunctionType
) -> None:
    assert str(inspect.signature(function)) == in_sync_words(str(inspect.signature(twin)))


@pytest.mark.parametrize(("name", "function", "twin"), pairs())
def test_methods_that_perform_io_are_coroutines(
    name: str, function: FunctionType, twin: FunctionType
) -> None:
    assert not inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(twin) is (name.split(".")[1] not in NOT_AWAITED)
