"""The exception classes."""

import copy
import pickle
from typing import Any

import pytest

import audiencelab_sdk
from audiencelab_sdk import errors
from audiencelab_sdk.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AudienceLabError,
    ConfigurationError,
    EnrichmentChunkError,
    EnrichmentFailedError,
    EnrichmentRecordError,
    EnrichmentTimeoutError,
    InsecureURLWarning,
    InvalidArgumentError,
    PermissionDeniedError,
    RateLimitError,
    UsageLogError,
)
from audiencelab_sdk.models import EnrichmentJob
from tests.unit._samples import JOB

CLASSES = [
    value for value in vars(errors).values() if getattr(value, "__module__", "") == errors.__name__
]


def rate_limit() -> RateLimitError:
    error = RateLimitError(429, None, "slow down", None, None, "r-1")
    error.retry_after = 3.0
    return error


EXAMPLES = [
    AudienceLabError("something"),
    ConfigurationError("set the URL"),
    APITimeoutError("late", request_sent=False),
    UsageLogError("no such key", "23503"),
    PermissionDeniedError(403, "42501", "permission denied", "details", "ask", "r-2"),
    EnrichmentFailedError(EnrichmentJob.model_validate(JOB)),
    EnrichmentTimeoutError(EnrichmentJob.model_validate(JOB), 2.5),
    EnrichmentRecordError(7, "ValueError: odd"),
    EnrichmentChunkError("records 0 to 9", 1, "BrokenProcessPool: killed"),
    rate_limit(),
]


def test_every_error_is_public_documented_and_in_the_tree() -> None:
    for cls in CLASSES:
        assert issubclass(cls, AudienceLabError | InsecureURLWarning)
        assert getattr(audiencelab_sdk, cls.__name__) is cls
        assert (cls.__doc__ or "").split("\n")[0].endswith((".", ":"))
        assert cls.__name__ in (errors.__doc__ or "")


def test_the_docstring_shows_the_exception_tree() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(InvalidArgumentError, ValueError)
    assert issubclass(APITimeoutError, APIConnectionError)
    drawn = (errors.__doc__ or "").partition("APIStatusError")[2]
    assert {cls.__name__ for cls in APIStatusError.__subclasses__()} == {
        line.split("── ")[1].split()[0] for line in drawn.splitlines() if "── " in line
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_errors_can_be_pickled_and_copied(error: Exception, duplicate: Any) -> None:
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)


def test_str_includes_the_status_the_code_and_the_request_id() -> None:
    error = PermissionDeniedError(
        403, "42501", "permission denied for function x", "row (1)", "Ask an owner.", "req-7"
    )
    assert str(error) == (
        "permission denied for function x (HTTP 403, code 42501, request id req-7). Ask an owner."
    )
    assert str(APIStatusError(500, None, "oops")) == "oops (HTTP 500)"
    assert str(UsageLogError("no such key", "23503")) == "no such key (SQLSTATE 23503)"


@pytest.mark.parametrize(("total", "progress"), [(10, ", with 3 of 10 records processed"), (0, "")])
def test_a_timeout_reports_records_only_if_their_total_is_known(total: int, progress: str) -> None:
    job = EnrichmentJob.model_validate(JOB | {"total_records": total})
    assert str(EnrichmentTimeoutError(job, 2.5)) == (
        f"enrichment job {job.id} is still pending after 2.5 s{progress}: "
        "wait again, or pass a longer timeout"
    )
