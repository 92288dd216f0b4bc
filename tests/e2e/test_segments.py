"""Segments through the SDK, over HTTP, in PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from audiencelab_sdk import (
    AuthenticationError,
    CustomColumn,
    InvalidArgumentError,
    NewSegment,
    NotFoundError,
    PermissionDeniedError,
    Scope,
    Segment,
    SegmentFilter,
    SourceType,
    UnknownFilter,
)

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

US = SegmentFilter.where("country") == "US"
SCORE = CustomColumn(field="score", header_name="Score", type="number")


def create(client: Client, tenant: Tenant, name: str = "engineers", **options: Any) -> Segment:
    source = {"source_type": "audience", "source_id": "a-1"}
    segment = client.call("segments.create", tenant.account_id, name, **(source | options))
    assert isinstance(segment, Segment)
    return segment


def names(client: Client, tenant: Tenant, **filters: Any) -> list[str]:
    segments = client.walk_all("segments.list", account_id=tenant.account_id, **filters)
    return [segment.name for segment in segments]


def test_create_stores_the_format_of_v3(member: Client, tenant: Tenant, project: Project) -> None:
    segment = create(
        member,
        tenant,
        "ingénieurs 🔧",
        description="all of them",
        filters=[US, SegmentFilter.where("age").op("between", [18, 30.5])],
        enrichment_fields=["email"],
        custom_columns=[SCORE],
        tags=["vip", 'a"b,{c}\\'],
    )
    assert segment == member.call("segments.get", str(segment.id))
    assert (segment.name, segment.description) == ("ingénieurs 🔧", "all of them")
    assert segment.source_type is SourceType.AUDIENCE
    assert segment.filters[0] == US
    assert segment.custom_columns == (SCORE,)
    assert segment.tags == ("vip", 'a"b,{c}\\')
    assert (segment.account_id, segment.created_by) == (tenant.account_id, tenant.user_id)
    (row,) = project.sql("select * from public.segments where id = %s", segment.id)
    assert row["filters"] == [
        {"field": "country", "operator": "=", "value": "US"},
        {"field": "age", "operator": "between", "value": [18, 30.5]},
    ]
    assert row["custom_columns"] == [{"field": "score", "headerName": "Score", "type": "number"}]


ODD: list[Any] = [
    [],
    [{"field": "a", "operator": "=", "value": None}],
    [{"field": "a", "operator": "is_set"}],
    [{"field": "a", "operator": "=", "value": 1, "id": "f1", "nested": {"deep": [1]}}],
    [{"and": [{"field": "a", "operator": "=", "value": 1}]}, "text", 7, None, [1]],
    [{"field": "", "operator": 3}],
    [{"field": "a", "headerName": "A", "header_name": "B", "type": "text", "width": 3}],
    [{"field": "a", "header_name": "B", "type": "text"}],
]


@pytest.mark.parametrize("stored", ODD, ids=str)
def test_any_stored_json_round_trips(
    member: Client, tenant: Tenant, project: Project, stored: Any
) -> None:
    segment = create(member, tenant)
    statement = "update public.segments set filters = %s, custom_columns = %s where id = %s"
    project.sql(statement, json.dumps(stored), json.dumps(stored), segment.id)
    read = member.call("segments.get", segment.id)
    project.sql(statement, "[]", "[]", segment.id)
    member.call(
        "segments.update", segment.id, filters=read.filters, custom_columns=read.custom_columns
    )
    (row,) = project.sql("select * from public.segments where id = %s", segment.id)
    assert row["filters"] == stored
    assert row["custom_columns"] == stored


@pytest.mark.parametrize("stored", [{"and": [1]}, "text", 5])
def test_a_value_that_is_no_array_is_read_as_its_only_item(
    member: Client, tenant: Tenant, project: Project, stored: Any
) -> None:
    segment = create(member, tenant)
    project.sql(
        "update public.segments set filters = %s where id = %s", json.dumps(stored), segment.id
    )
    assert member.call("segments.get", segment.id).filters == (UnknownFilter(raw=stored),)


def test_update_changes_only_the_given_fields(member: Client, tenant: Tenant) -> None:
    segment = create(member, tenant, description="old", tags=["a"], filters=[US])
    renamed = member.call("segments.update", segment.id, name="new")
    changed = {"name", "updated_at"}
    assert renamed.name == "new"
    assert renamed.model_dump(exclude=changed) == segment.model_dump(exclude=changed)
    cleared = member.call("segments.update", segment.id, description=None, tags=[], filters=())
    assert (cleared.description, cleared.tags, cleared.filters) == (None, (), ())
    assert cleared.name == "new"
    assert member.call("segments.update", segment.id, description="").description == ""


def test_delete_and_restore(member: Client, backend: Client, tenant: Tenant) -> None:
    segment = create(member, tenant)
    member.call("segments.delete", segment.id)
    member.call("segments.delete", segment.id)
    for client in (member, backend):
        assert names(client, tenant) == []
        with pytest.raises(NotFoundError, match="the segment does not exist"):
            client.call("segments.get", segment.id)
        with pytest.raises(NotFoundError, match="the segment does not exist"):
            client.call("segments.update", segment.id, name="x")
    for _ in range(2):
        restored = member.call("segments.restore", segment.id)
        assert (restored.id, restored.deleted) == (segment.id, False)
    assert member.call("segments.get", segment.id).name == segment.name


def test_strangers_have_no_access(
    member: Client, stranger: Client, anon: Client, tenant: Tenant
) -> None:
    segment = create(member, tenant)
    assert names(stranger, tenant) == []
    for name, options in (
        ("segments.get", {}),
        ("segments.update", {"name": "theirs"}),
        ("segments.delete", {}),
        ("segments.restore", {}),
    ):
        with pytest.raises(NotFoundError) as theirs:
            stranger.call(name, segment.id, **options)
        with pytest.raises(NotFoundError) as nobodys:
            stranger.call(name, uuid4(), **options)
        assert str(theirs.value) == str(nobodys.value)
        with pytest.raises(AuthenticationError):
            anon.call(name, segment.id, **options)
    with pytest.raises(PermissionDeniedError):
        create(stranger, tenant)
    (outcome,) = stranger.call("segments.create_many", tenant.account_id, [new("x")])
    assert isinstance(outcome.error, PermissionDeniedError)
    assert member.call("segments.get", segment.id) == segment


def test_an_api_key_reads_what_its_scope_covers(
    member: Client, backend: Client, tenant: Tenant, project: Project
) -> None:
    seen, unseen = create(member, tenant, "seen"), create(member, tenant, "unseen")
    scope = Scope(entity_type="segment", entity_id=str(seen.id), action="read")
    key = member.call("create", tenant.account_id, "reader", scopes=[scope])
    as_key = backend.as_api_key(key.id, project.jwt_secret)
    assert names(as_key, tenant) == ["seen"]
    with pytest.raises(NotFoundError):
        as_key.call("segments.get", unseen.id)


def new(name: str, **options: Any) -> NewSegment:
    source: dict[str, Any] = {"source_type": SourceType.CSV_UPLOAD, "source_id": "u-1"}
    return NewSegment(name=name, **(source | options))


def test_create_many(member: Client, backend: Client, tenant: Tenant) -> None:
    segments = [new(f"s{number}", filters=[US], tags=["t"]) for number in range(230)]
    outcomes = member.call("segments.create_many", tenant.account_id, segments)
    assert [outcome.unwrap().name for outcome in outcomes] == [item.name for item in segments]
    assert outcomes[229].value.filters == (US,)
    assert outcomes[0].value.created_by == tenant.user_id
    assert len(names(member, tenant)) == 230
    with pytest.raises(InvalidArgumentError, match="created_by"):
        backend.call("segments.create_many", tenant.account_id, segments)
    (outcome,) = backend.call(
        "segments.create_many", tenant.account_id, [new("b")], created_by=tenant.user_id
    )
    assert outcome.unwrap().created_by == tenant.user_id


def test_create_many_stores_all_but_the_invalid_segment(
    member: Client, tenant: Tenant, project: Project
) -> None:
    constraint = f"no_{uuid4().hex}"
    project.sql(
        f"alter table public.segments add constraint {constraint} check (name <> '{constraint}')"
    )
    try:
        segments = [new("a"), new("b"), new(constraint), new("c")]
        outcomes = member.call("segments.create_many", tenant.account_id, segments)
    finally:
        project.sql(f"alter table public.segments drop constraint {constraint}")
    assert [bool(outcome) for outcome in outcomes] == [True, True, False, True]
    assert getattr(outcomes[2].error, "code", None) == "23514"
    assert sorted(names(member, tenant)) == ["a", "b", "c"]


ODD_NAMES = ["100%", "a_b", "a*b", "a\\b", "(a)[b]{2}^$.|?+", "plain", "ÄRGER", 'q"u,o(t)e:d']


@pytest.mark.parametrize("name", ODD_NAMES)
def test_name_contains_takes_every_character_literally(
    member: Client, tenant: Tenant, name: str
) -> None:
    member.call("segments.create_many", tenant.account_id, [new(f"<{n}>") for n in ODD_NAMES])
    assert names(member, tenant, name_contains=name) == [f"<{name}>"]
    assert names(member, tenant, name_contains=name.swapcase()) == [f"<{name}>"]
    assert names(member, tenant, name_contains=name[:1] + "~") == []


def test_list_filters(member: Client, tenant: Tenant) -> None:
    first = create(member, tenant, "1", tags=["a", "b,c"])
    second = create(member, tenant, "2", tags=["a"], source_type="csv_upload")
    third = create(member, tenant, "3", tags=['"x"\\'])
    assert names(member, tenant) == ["3", "2", "1"]
    assert names(member, tenant, tags=["a"]) == ["2", "1"]
    assert names(member, tenant, tags=["b,c", "a"]) == ["1"]
    assert names(member, tenant, tags=['"x"\\']) == ["3"]
    assert names(member, tenant, source_type=SourceType.CSV_UPLOAD) == ["2"]
    assert names(member, tenant, created_after=first.created_at) == ["3", "2"]
    assert names(member, tenant, created_before=third.created_at) == ["2", "1"]
    assert names(
        member, tenant, created_after=first.created_at, created_before=third.created_at
    ) == [second.name]
