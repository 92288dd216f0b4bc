"""The log of requests, the audit trail and the counts of requests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import respx

from audiencelab_sdk import InvalidArgumentError
from audiencelab_sdk._http._operation import Operation
from tests.unit._both_clients import maybe_await
from tests.unit._operations import api_keys, drive, listing_of
from tests.unit._samples import ACCOUNT, KEY_ID

START = datetime(2025, 1, 1, tzinfo=UTC)
END = START + timedelta(days=31)
LOGGED: dict[str, Any] = {
    "id": KEY_ID,
    "api_key_id": KEY_ID,
    "endpoint": "/v1/segments",
    "method": "GET",
    "status_code": 200,
    "ip_address": None,
    "user_agent": None,
    "timestamp": "2025-01-02T03:04:05.678901+00:00",
}
EVENT: dict[str, Any] = {
    "id": KEY_ID,
    "api_key_id": KEY_ID,
    "event": "update",
    "actor_type": "user",
    "actor_id": ACCOUNT,
    "changes": {"name": {"old": "a", "new": "b"}},
    "created_at": "2025-01-02T03:04:05.678901+00:00",
}


def count(day: int, key: int = 1) -> dict[str, Any]:
    return {
        "api_key_id": str(UUID(int=key)),
        "bucket": f"2025-01-{day:02}T00:00:00+00:00",
        "requests": 10,
        "errors": 1,
        "last_used_at": f"2025-01-{day:02}T23:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("path", "row", "call"),
    [
        ("/rpc/api_key_log", LOGGED, lambda client: client.api_keys.log(ACCOUNT)),
        ("/rpc/list_api_key_events", EVENT, lambda client: client.api_keys.events(ACCOUNT)),
    ],
)
async def test_a_list_of_a_function_continues_after_its_last_row(
    client: Any, api: respx.MockRouter, path: str, row: dict[str, Any], call: Callable[[Any], Any]
) -> None:
    route = api.post(path).mock(
        side_effect=[httpx.Response(200, json=rows) for rows in ([row], [])]
    )
    page = await maybe_await(call(client))
    assert await maybe_await(page.next()) is None
    first, second = (json_of(sent) for sent in route.calls)
    assert [item.id for item in page.items] == [UUID(KEY_ID)]
    assert first == {
        "p_account_id": ACCOUNT,
        "p_limit": 100,
        "p_before": None,
        "p_before_id": None,
    }
    assert second["p_before"] == "2025-01-02T03:04:05.678901+00:00"
    assert second["p_before_id"] == KEY_ID


def json_of(call: Any) -> Any:
    return httpx.Response(200, content=call.request.content).json()


def test_lists_of_one_key() -> None:
    for method in (api_keys.log, api_keys.events):
        listing = listing_of(method, ACCOUNT, api_key_id=KEY_ID, page_size=7)
        assert KEY_ID in listing.identity
        assert listing.page_size == 7


def test_usage_fetches_all_counts() -> None:
    operation = api_keys.usage(ACCOUNT, start=START, end=END, bucket="month", api_key_id=KEY_ID)
    requests, counts = drive(operation, [count(1), count(1, key=2)], [count(2)], [])

    assert [(each.bucket.day, each.api_key_id.int) for each in counts] == [(1, 1), (1, 2), (2, 1)]
    assert [each.requests for each in counts] == [10] * 3
    arguments = {
        "p_account_id": ACCOUNT,
        "p_api_key_id": KEY_ID,
        "p_from": START.isoformat(),
        "p_to": END.isoformat(),
        "p_bucket": "month",
    }
    order = {"order": "bucket.asc,api_key_id.asc", "limit": "1000"}
    first, second, _ = requests
    assert first == ("/rest/v1/rpc/api_key_usage", order, arguments)
    bucket = "2025-01-01T00:00:00+00:00"
    assert second[1] == {
        **order,
        "bucket": f"gte.{bucket}",
        "or": f"(bucket.gt.{bucket},api_key_id.gt.{UUID(int=2)})",
    }


def test_purging_continues_until_nothing_is_left() -> None:
    progress: list[int] = []
    operation = api_keys.purge_logs(START, on_progress=progress.append)
    requests, total = drive(operation, 10_000, 7, 0)
    assert total == 10_007
    assert progress == [10_000, 10_007]
    assert (
        requests == [("/rest/v1/rpc/purge_api_key_logs", {}, {"p_before": START.isoformat()})] * 3
    )
    assert drive(api_keys.purge_logs(START), 3, 0)[1] == 3


REFUSED: list[tuple[Callable[[], Operation[Any]], str]] = [
    (lambda: api_keys.usage("a", start=START, end=END), "account_id must be a UUID"),
    (lambda: api_keys.usage(ACCOUNT, start="2025", end=END), "start must be a datetime"),
    (
        lambda: api_keys.usage(ACCOUNT, start=START, end=END.replace(tzinfo=None)),
        "end has no time zone",
    ),
    (lambda: api_keys.usage(ACCOUNT, start=START, end=END, bucket=""), "bucket is empty"),
    (lambda: api_keys.purge_logs(7), "before must be a datetime"),
]


@pytest.mark.parametrize(("call", "problem"), REFUSED)
def test_invalid_arguments_raise_before_any_request(
    call: Callable[[], Operation[Any]], problem: str
) -> None:
    operation = call()
    with pytest.raises(InvalidArgumentError, match=problem):
        next(operation)
