"""Pages by keyset, and rows that Python cannot read."""

import json
import logging
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from audiencelab_sdk import (
    EnrichmentStatus,
    InvalidCursorError,
    SourceType,
    UnexpectedResponseError,
)
from audiencelab_sdk._http._listing import Place
from tests.unit._both_clients import maybe_await
from tests.unit._operations import (
    api_keys,
    enrichment,
    listing_of,
    result_of,
    segments,
    sent,
    text_response,
)
from tests.unit._samples import ACCOUNT, JOB, KEY_ID, LISTED, ODD_JSON, SEGMENT

# Times that Python cannot read, and their place in PostgreSQL's order.
ODD_MOMENTS = {
    "infinity": (3, 0),
    "294276-12-31T23:59:59.999999+00:00": (2, 1),
    "20000-01-01T00:00:00+00:00": (2, 0),
    "0044-03-15T12:00:00+00:00 BC": (-2, 0),
    "4713-11-24T00:00:00+00:00 BC": (-2, -1),
    "-infinity": (-3, 0),
}
moments = st.one_of(
    st.sampled_from([*ODD_MOMENTS]),
    st.sampled_from(
        [
            "9999-12-31T23:59:59.999999+00:00",
            "0001-01-01T00:00:00+00:00",
            "2026-01-01T00:00:00.5+05:30",
        ]
    ),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
)
metadata = st.one_of(
    st.sampled_from([*ODD_JSON.values()]),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2).map(json.dumps),
    st.just("1e-400"),
)
tables = st.lists(
    st.tuples(moments, st.integers(0, 2**128 - 1), metadata),
    max_size=12,
    unique_by=lambda row: row[1],
)


def rank(moment: str) -> tuple[int, Any]:
    """Return the place of a time in PostgreSQL's order."""
    return ODD_MOMENTS.get(moment) or (0, datetime.fromisoformat(moment))


def raw_job(moment: str, number: int, metadata_text: str) -> str:
    row = JOB | {"id": str(UUID(int=number)), "created_at": moment, "metadata": "?"}
    return json.dumps(row).replace('"?"', metadata_text)


def page_for(query: dict[str, str], table: list[tuple[str, int, str]], cut: int) -> str:
    """Return PostgREST's page: the rows after the cursor, newest first, up to the limit."""
    rows = sorted(table, key=lambda row: (rank(row[0]), row[1]), reverse=True)
    if "or" in query:
        cursor = re.fullmatch(
            r'\(created_at\.lt\."?([^"]*?)"?,id\.lt\.([0-9a-f-]{36})\)', query["or"]
        )
        assert cursor
        assert query["created_at"] == f"lte.{cursor[1]}"
        place = (rank(cursor[1]), UUID(cursor[2]).int)
        rows = [row for row in rows if (rank(row[0]), row[1]) < place]
    return "[" + ", \n ".join(raw_job(*row) for row in rows[: min(int(query["limit"]), cut)]) + "]"


@given(table=tables, page_size=st.integers(1, 5), cut=st.integers(1, 5))
def test_paging_ends_and_returns_each_row_once(
    table: list[tuple[str, int, str]], page_size: int, cut: int
) -> None:
    listing = listing_of(enrichment.list, page_size=page_size)
    met: list[UUID] = []
    after: Place | None = None
    for _ in range(len(table) + 1):
        operation = listing.page(after)
        body = page_for(sent(next(operation))[1], table, cut)
        with pytest.raises(StopIteration) as stop:
            operation.send(text_response(body))
        fetched = stop.value.value
        met += [row.id for row in (*fetched.items, *fetched.unreadable)]
        after = fetched.last
        if after is None:
            break
    assert after is None
    assert sorted(met) == sorted(UUID(int=number) for _, number, _ in table)


def job_row(number: int, **columns: Any) -> dict[str, Any]:
    return JOB | {"id": str(UUID(int=number)), **columns}


async def test_unreadable_rows_are_reported_and_logged(
    client: Any, api: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    bad = job_row(3, created_at="infinity", metadata={"secret": "value"})
    worse = job_row(2, total_records="a secret value")
    pages = [[bad], [worse, job_row(1)], []]
    api.get("/enrichment_tracking").mock(
        side_effect=[httpx.Response(200, json=page) for page in pages]
    )
    page = await maybe_await(client.enrichment.list(page_size=2))
    assert page.items == []
    assert [row.id for row in page.unreadable] == [UUID(int=3)]
    assert json.loads(page.unreadable[0].raw) == bad
    assert page.unreadable[0].reason.startswith("created_at: ")
    second = await maybe_await(page.next())
    assert [job.id for job in second.items] == [UUID(int=1)]
    assert second.unreadable[0].reason.startswith("total_records: ")
    assert await maybe_await(second.next()) is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings] == ["audiencelab_sdk"] * 2
    assert str(UUID(int=3)) in caplog.text
    shown = caplog.text + repr(page) + repr(second)
    assert "secret" not in shown


async def test_iteration_continues_after_an_unreadable_page(
    client: Any, api: respx.MockRouter
) -> None:
    pages = [[job_row(3, created_at="infinity")], [job_row(2)], [job_row(1, status=7)], []]
    api.get("/enrichment_tracking").mock(
        side_effect=[httpx.Response(200, json=page) for page in pages]
    )
    page = await maybe_await(client.enrichment.list(page_size=1))
    met = [job.id async for job in page] if hasattr(page, "__aiter__") else [job.id for job in page]
    assert met == [UUID(int=2)]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([job_row(2, account_id=str(UUID(int=7)))], "whose account_id is not"),
        ([job_row(1), job_row(2)], "another order"),
    ],
)
async def test_unrequested_rows_are_rejected(
    client: Any, api: respx.MockRouter, rows: list[Any], problem: str
) -> None:
    api.get("/enrichment_tracking").respond(json=rows)
    with pytest.raises(UnexpectedResponseError, match=f"{problem}.* proxy on the way drop"):
        await maybe_await(client.enrichment.list(account_id=ACCOUNT))


def test_the_cursor_keeps_microseconds() -> None:
    last = {**LISTED, "created_at": "2025-01-02T03:04:05.000001+05:30"}
    listing = listing_of(api_keys.list, ACCOUNT, page_size=2)
    fetched = result_of(listing.page(), [LISTED, last])
    assert sent(next(listing.page(fetched.last)))[1] == {
        "order": "created_at.desc,id.desc",
        "limit": "2",
        "created_at": "lte.2025-01-02T03:04:05.000001+05:30",
        "or": f"(created_at.lt.2025-01-02T03:04:05.000001+05:30,id.lt.{KEY_ID})",
    }


@pytest.mark.parametrize(
    "moment",
    [
        *("infinity", "-infinity", "20000-01-01T00:00:00+00:00"),
        *("2025-01-02T03:04:05.000001+05:30", "1883-11-18T12:03:57.999-04:56:02"),
    ],
)
def test_the_cursor_keeps_times_that_python_cannot_read(moment: str) -> None:
    listing = listing_of(segments.list)
    fetched = result_of(listing.page(), [SEGMENT | {"created_at": moment}])
    query = sent(next(listing.page(fetched.last)))[1]
    assert query["created_at"] == f"lte.{moment}"
    assert query["or"] == f"(created_at.lt.{moment},id.lt.{KEY_ID})"


@pytest.mark.parametrize("value", ["{}", ODD_JSON["long"], ODD_JSON["deeper"]], ids=str.__len__)
@pytest.mark.parametrize("column", ["id", "created_at"])
def test_a_row_without_a_readable_id_or_creation_time_raises(column: str, value: str) -> None:
    row = json.dumps(JOB | {column: "?"}).replace('"?"', value)
    operation = listing_of(enrichment.list).page()
    next(operation)
    with pytest.raises(UnexpectedResponseError):
        operation.send(text_response(f"[{row}]"))


LISTS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("/rpc/list_api_keys", lambda client, cursor: client.api_keys.list(ACCOUNT, cursor=cursor)),
    ("/segments", lambda client, cursor: client.segments.list(tags=["a"], cursor=cursor)),
    ("/enrichment_tracking", lambda client, cursor: client.enrichment.list(cursor=cursor)),
]


@pytest.mark.parametrize(("path", "list_"), LISTS)
async def test_a_list_continues_from_a_cursor(
    client: Any, api: respx.MockRouter, path: str, list_: Any
) -> None:
    row = {"/segments": SEGMENT, "/enrichment_tracking": JOB}.get(path, LISTED)
    route = api.route(path__regex=f"{path}$").mock(
        side_effect=[httpx.Response(200, json=rows) for rows in ([row], [], [], [])]
    )
    page = await maybe_await(list_(client, None))
    assert await maybe_await(page.next()) is None
    resumed = await maybe_await(list_(client, page.cursor))

    assert page.cursor.isascii()
    assert resumed.cursor is None
    urls = [call.request.url for call in route.calls]
    assert urls[2] == urls[1]
    assert urls[0] != urls[1]


@pytest.mark.parametrize("moment", ["2025-01-02T03:04:05.000001+05:30", "infinity", "-infinity"])
async def test_a_cursor_has_the_place_of_the_last_row(
    client: Any, api: respx.MockRouter, moment: str
) -> None:
    route = api.get("/enrichment_tracking")
    pages = [[job_row(1, created_at=moment)], []]
    route.mock(side_effect=[httpx.Response(200, json=rows) for rows in pages])
    page = await maybe_await(client.enrichment.list())
    await maybe_await(client.enrichment.list(cursor=page.cursor))
    assert route.calls.last.request.url.params["created_at"] == f"lte.{moment}"


def cursor_of(listing: Any) -> str:
    return cast("str", listing.cursor(Place("2025-01-02T03:04:05+00:00", UUID(KEY_ID))))


OURS = cursor_of(listing_of(segments.list, account_id=ACCOUNT))


def forged(created_at: str, row_id: str) -> str:
    """Return a cursor with a correct checksum, which anybody can calculate."""
    listing = listing_of(segments.list, account_id=ACCOUNT)
    text = f"{created_at}|{row_id}"
    return urlsafe_b64encode(f"{listing._checksum(text)}{text}".encode()).decode().rstrip("=")


FORGED = "2025-01-02T03:04:05+00:00,deleted.is.true"


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ü",
        OURS[:-1],
        OURS + "A",
        OURS[1:],
        OURS.swapcase(),
        "A" * 100_000,
        cursor_of(listing_of(segments.list)),
        cursor_of(listing_of(segments.list, account_id=KEY_ID)),
        cursor_of(listing_of(segments.list, account_id=ACCOUNT, tags=["a"])),
        cursor_of(listing_of(enrichment.list, account_id=ACCOUNT)),
        listing_of(segments.list, account_id=ACCOUNT).cursor(Place(FORGED, UUID(KEY_ID))),
        listing_of(segments.list, account_id=ACCOUNT).cursor(Place("ABC", UUID(KEY_ID))),
        forged("2025-01-02T03:04:05+00:00", "-" * 36),
    ],
    ids=lambda cursor: cursor[-20:],
)
def test_a_damaged_or_foreign_cursor_is_rejected(cursor: str) -> None:
    with pytest.raises(InvalidCursorError, match="cursor is damaged or belongs to another list"):
        listing_of(segments.list, account_id=ACCOUNT, cursor=cursor)


def test_a_cursor_must_be_text() -> None:
    with pytest.raises(InvalidCursorError, match="cursor must be a str, not int"):
        listing_of(segments.list, cursor=7)


def test_the_page_size_may_change_from_page_to_page() -> None:
    assert listing_of(segments.list, account_id=ACCOUNT, page_size=3, cursor=OURS).start


def test_equal_arguments_make_equal_lists() -> None:
    for method, text, member in (
        (segments.list, {"source_type": "audience"}, {"source_type": SourceType.AUDIENCE}),
        (enrichment.list, {"status": "failed"}, {"status": EnrichmentStatus.FAILED}),
        (segments.list, {"account_id": ACCOUNT}, {"account_id": UUID(ACCOUNT)}),
    ):
        assert listing_of(method, **text).identity == listing_of(method, **member).identity


async def test_a_server_that_goes_back_is_an_error(client: Any, api: respx.MockRouter) -> None:
    pages = [[job_row(1)], [job_row(2)], [job_row(1)]]
    api.get("/enrichment_tracking").mock(
        side_effect=[httpx.Response(200, json=page) for page in pages]
    )
    page = await maybe_await(client.enrichment.list(page_size=1))
    with pytest.raises(UnexpectedResponseError, match="rows before the page"):
        await maybe_await(page.next())
