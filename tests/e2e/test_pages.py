"""Paging through tables: each row once, even while others insert rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

START = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def insert(project: Project, tenant: Tenant, moments: Sequence[datetime]) -> list[UUID]:
    rows = project.sql(
        "insert into public.segments"
        " (account_id, name, source_type, source_id, created_by, created_at)"
        " select %s, 'n', 'audience', 'a', %s, moment from unnest(%s::timestamptz[]) as moment"
        " returning id",
        tenant.account_id,
        tenant.user_id,
        list(moments),
    )
    return [row["id"] for row in rows]


# Few times, so that many rows share one and the id decides where a page ends.
moments = st.integers(0, 3).map(lambda microseconds: START + timedelta(microseconds=microseconds))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.lists(moments, max_size=30),
    meanwhile=st.lists(st.lists(moments, max_size=5), max_size=6),
    page_size=st.integers(1, 8),
)
def test_concurrent_inserts_neither_repeat_nor_hide_rows(
    backend: Client,
    project: Project,
    before: list[datetime],
    meanwhile: list[list[datetime]],
    page_size: int,
) -> None:
    tenant = project.add_tenant()
    member = backend.as_user(project.access_token(tenant.user_id))
    steady = insert(project, tenant, before)
    inserts = iter(meanwhile)
    page = member.call("segments.list", account_id=tenant.account_id, page_size=page_size)
    walked = []
    while page is not None:
        walked += page.items
        assert len(walked) <= len(before) + sum(map(len, meanwhile))
        insert(project, tenant, next(inserts, []))
        page = member.next_page(page)
    ids = [segment.id for segment in walked]
    assert len(ids) == len(set(ids))
    assert set(steady) <= set(ids)
    keys = [(segment.created_at, segment.id.int) for segment in walked]
    assert keys == sorted(keys, reverse=True)


@pytest.mark.parametrize("page_size", [1000, 999])
def test_list_returns_more_than_a_thousand_rows(
    member: Client, project: Project, tenant: Tenant, page_size: int
) -> None:
    ids = insert(project, tenant, [START] * 1500 + [START + timedelta(days=1)] * 700)
    segments = member.walk_all("segments.list", account_id=tenant.account_id, page_size=page_size)
    assert len(segments) == 2200
    assert {segment.id for segment in segments} == set(ids)


def test_the_cursor_uses_the_index(project: Project, tenant: Tenant) -> None:
    """PostgreSQL starts to read the index where the page begins."""
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in project.sql(
            "explain select * from public.segments where account_id = %s"
            " and created_at <= %s and (created_at < %s or id < %s) and not deleted"
            " order by created_at desc, id desc limit 100",
            tenant.account_id,
            START,
            START,
            uuid4(),
        )
    )
    assert "Index Cond: ((account_id = " in plan
    assert "created_at <= " in plan.split("Index Cond", 1)[1].split("\n", 1)[0]


ODD_MOMENTS = (
    *("infinity", "-infinity", "9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00"),
    *("20000-01-01 00:00:00+00", "294276-12-31 23:59:59.999999+00", "0044-03-15 12:00:00+00 BC"),
    "2026-01-01 00:00:00+00",
)
ODD_JSON = (
    *("[" * 250 + "]" * 250, '{"a":' * 3000 + "1" + "}" * 3000, "[1e5000]", f"[{'9' * 6000}]"),
    '{"error": "none"}',
)


@pytest.mark.parametrize("page_size", [1, 2, 100])
def test_unreadable_rows_do_not_hide_others(
    backend: Client, project: Project, tenant: Tenant, page_size: int
) -> None:
    """Rows from before the limits of the database may be unreadable."""
    limit = "trigger enrichment_tracking_metadata_limit"
    project.sql(f"alter table public.enrichment_tracking disable {limit}")
    try:
        rows = project.sql(
            "insert into public.enrichment_tracking"
            " (account_id, audience_id, enrichment_type, created_by, created_at, metadata)"
            " select %s, %s, 'email', %s, moment::timestamptz, metadata::jsonb"
            " from unnest(%s::text[]) as moment, unnest(%s::text[]) as metadata"
            " returning id, metadata::text = %s and created_at between '0001-01-01 00:00:00+00'"
            " and '9999-12-31 23:59:59.999999+00' as is_readable",
            *(tenant.account_id, tenant.account_id, tenant.user_id),
            *([*ODD_MOMENTS], [*ODD_JSON], ODD_JSON[-1]),
        )
    finally:
        project.sql(f"alter table public.enrichment_tracking enable {limit}")
    items, unreadable = [], []
    page = backend.call("enrichment.list", account_id=tenant.account_id, page_size=page_size)
    while page is not None:
        items += [job.id for job in page.items]
        unreadable += [row.id for row in page.unreadable]
        assert len(items) + len(unreadable) <= len(rows)
        page = backend.next_page(page)
    walked = backend.walk_all("enrichment.list", account_id=tenant.account_id, page_size=page_size)
    assert sorted(items) == sorted(row["id"] for row in rows if row["is_readable"])
    assert [job.id for job in walked] == items
    assert sorted(items + unreadable) == sorted(row["id"] for row in rows)
