"""The arguments of `run` are checked before a request is sent."""

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import respx

from audiencelab_sdk import AudienceLab, InvalidArgumentError
from audiencelab_sdk._resources._plans import Plan
from tests.unit import _enrichers
from tests.unit._samples import KEY_ID

DEFAULTS: dict[str, Any] = {
    "executor": None,
    "chunk_size": 10,
    "in_flight": 1,
    "attempts": 1,
    "unit": None,
    "on_error": "fail",
    "show": False,
}


class Caller:
    def __call__(self, record: int) -> int:
        return record

    async def later(self, record: int) -> int:
        return record


class AsyncPages:
    def __aiter__(self) -> "AsyncPages":
        return self

    async def __anext__(self) -> int:
        return 1


class AsyncCaller:
    async def __call__(self, record: int) -> int:
        return record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"records": 5}, "records must be an iterable of records, .*, not int"),
        ({"records": aiter(AsyncPages())}, "not AsyncPages. .* needs a plain iterable as well"),
        ({"records": "ada@example.com"}, "records must be .* not str"),
        ({"records": b"ada"}, "records must be .* not bytes"),
        ({"enrich": "find_email"}, "enrich must be a function, not str"),
        ({"job": "7"}, "job must be a UUID"),
        ({"chunk_size": 0}, "chunk_size must be from 1"),
        ({"chunk_size": 1.5}, "chunk_size must be an int"),
        ({"in_flight": 0}, "in_flight must be from 1"),
        ({"attempts": 0}, "attempts must be from 1"),
        ({"unit": ""}, "unit is empty or blank"),
        ({"unit": " "}, "unit is empty or blank"),
        ({"unit": "x" * 256}, "unit has 256 characters"),
        ({"on_error": "ignore"}, "on_error must be 'fail' or 'leave'"),
        ({"executor": 4}, "executor must be a concurrent.futures.Executor, or a function"),
    ],
    ids=str,
)
async def test_invalid_arguments_are_rejected_at_once(
    client: Any, api: respx.MockRouter, arguments: dict[str, Any], message: str
) -> None:
    enrich = _enrichers.double if isinstance(client, AudienceLab) else _enrichers.double_later
    given: dict[str, Any] = {"job": KEY_ID, "records": [1], "enrich": enrich, **arguments}

    with pytest.raises(InvalidArgumentError, match=message):
        client.enrichment.run(**given)
    assert not api.calls


def plan(enrich: Any = _enrichers.double, **options: Any) -> Plan[int, int]:
    return Plan(KEY_ID, [1], enrich, **{**DEFAULTS, **options})


@pytest.mark.parametrize(
    ("enrich", "is_asynchronous"),
    [
        (_enrichers.double, False),
        (_enrichers.double_later, True),
        (partial(_enrichers.double), False),
        (partial(partial(_enrichers.double_later)), True),
        (Caller(), False),
        (Caller().later, True),
        (AsyncCaller(), True),
        (int, False),
    ],
)
def test_coroutine_functions_are_recognized(enrich: Any, is_asynchronous: bool) -> None:
    assert plan(enrich).is_asynchronous is is_asynchronous


def test_an_executor_belongs_to_the_caller_and_a_function_creates_one() -> None:
    with ThreadPoolExecutor() as threads:
        given = plan(executor=threads)
        assert (given.executor, given.new_executor) == (threads, None)
        assert given.checked_executor(threads) is threads
    created = plan(executor=ThreadPoolExecutor)
    assert (created.executor, created.new_executor) == (None, ThreadPoolExecutor)
    with pytest.raises(InvalidArgumentError, match="a function that creates one, not int"):
        created.checked_executor(4)


def test_a_run_is_for_the_whole_job_by_default() -> None:
    assert plan().unit == "all"
    assert plan(unit="first half").unit == "first half"


def test_a_process_pool_needs_a_function_that_can_be_pickled() -> None:
    def local(record: int) -> int:
        return record

    with ProcessPoolExecutor() as processes:
        plan().check_picklable(processes)
        with pytest.raises(InvalidArgumentError, match=r"enrich \(.*local\) cannot be pickled"):
            plan(local).check_picklable(processes)
        with pytest.raises(InvalidArgumentError, match=r"enrich \(partial\) cannot be pickled"):
            plan(partial(local)).check_picklable(processes)
    plan(local).check_picklable(Executor())
