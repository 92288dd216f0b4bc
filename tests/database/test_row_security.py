"""Row level security of the public tables: which rows each caller reads and changes."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from tests.database._sql import ANON, NOT_A_MEMBER, SERVICE_ROLE, Database, Tenant, user

COUNT = "select count(*) from public.segments where id = %s"
SOFT_DELETE = "update public.segments set deleted = true where id = %s"


@pytest.fixture
def segment(db: Database, tenant: Tenant) -> UUID:
    return db.create_segment(tenant)


def test_members_read_only_the_segments_of_their_accounts(
    db: Database, tenant: Tenant, segment: UUID
) -> None:
    other = db.add_tenant()
    theirs = db.create_segment(other)
    colleague = db.add_user(uuid4())
    db.add_member(tenant.account_id, colleague)
    for actor, sees_ours, sees_theirs in (
        (tenant.member, 1, 0),
        (user(colleague), 1, 0),
        (other.member, 0, 1),
        (user(uuid4()), 0, 0),
        (SERVICE_ROLE, 1, 1),
    ):
        assert db.value(actor, COUNT, segment) == sees_ours
        assert db.value(actor, COUNT, theirs) == sees_theirs


def test_a_former_member_reads_no_segments(db: Database, tenant: Tenant, segment: UUID) -> None:
    db.admin("delete from public.accounts_memberships where user_id = %s", tenant.user_id)
    assert db.value(tenant.member, COUNT, segment) == 0
    assert db.affected(tenant.member, "update public.segments set name = 'x'") == 0
    assert db.affected(tenant.member, "delete from public.segments") == 0


def test_a_non_member_cannot_change_segments(db: Database, tenant: Tenant, segment: UUID) -> None:
    stranger = db.add_tenant()
    rename = "update public.segments set name = 'x' where id = %s"
    assert db.affected(stranger.member, rename, segment) == 0
    assert db.affected(stranger.member, "delete from public.segments where id = %s", segment) == 0
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        db.affected(
            stranger.member,
            "insert into public.segments (account_id, name, source_type, source_id, created_by)"
            " values (%s, 'x', 'audience', '1', %s)",
            tenant.account_id,
            stranger.user_id,
        )
    assert db.admin("select name from public.segments where id = %s", segment) == [
        {"name": "segment"}
    ]


def test_a_segment_cannot_be_moved_to_another_account(
    db: Database, tenant: Tenant, segment: UUID
) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="cannot be changed"):
        db.affected(
            tenant.member,
            "update public.segments set account_id = %s where id = %s",
            db.add_tenant().account_id,
            segment,
        )


@pytest.mark.parametrize("returning", ["", " returning id"])
def test_a_soft_delete_works_and_hides_the_segment(
    db: Database, tenant: Tenant, segment: UUID, returning: str
) -> None:
    assert db.affected(tenant.member, SOFT_DELETE + returning, segment) == 1
    assert db.value(tenant.member, COUNT, segment) == 0
    assert db.affected(tenant.member, SOFT_DELETE, segment) == 0
    undelete = "update public.segments set deleted = false where id = %s"
    assert db.affected(tenant.member, undelete, segment) == 0
    assert db.value(SERVICE_ROLE, COUNT, segment) == 1


def test_a_statement_without_a_where_clause_does_not_affect_deleted_segments(
    db: Database, tenant: Tenant, segment: UUID
) -> None:
    kept = db.create_segment(tenant, "kept")
    db.affected(tenant.member, SOFT_DELETE, segment)
    # PostgreSQL does not apply the policy for SELECT to an UPDATE without a WHERE clause.
    assert db.affected(tenant.member, "update public.segments set deleted = false") == 1
    assert db.affected(tenant.member, "delete from public.segments") == 1
    rows = db.admin("select id, deleted from public.segments where id in (%s, %s)", kept, segment)
    assert rows == [{"id": segment, "deleted": True}]


def test_one_update_can_soft_delete_many_segments(db: Database, tenant: Tenant) -> None:
    for name in "abc":
        db.create_segment(tenant, name)
    delete = "update public.segments set deleted = true where account_id = %s"
    assert db.affected(tenant.member, delete, tenant.account_id) == 3


def test_a_reader_does_not_see_a_segment_deleted_at_the_time_of_its_transaction(
    db: Database, tenant: Tenant, segment: UUID
) -> None:
    with db.acting(tenant.member) as reader:
        # The row has the updated_at of a row that was deleted when the reader's transaction began.
        with psycopg.connect(db.admin_url) as writer:
            writer.execute("set local session_replication_role = replica")  # no trigger
            now = reader.execute("select now()").fetchone()
            assert now is not None
            writer.execute(
                "update public.segments set deleted = true, updated_at = %s where id = %s",
                [now[0], segment],
            )
        count = reader.execute(COUNT, [segment]).fetchone()
    assert count == (0,)


def test_an_update_sets_updated_at_and_keeps_created_at(
    db: Database, tenant: Tenant, segment: UUID
) -> None:
    read = "select created_at, updated_at from public.segments where id = %s"
    (before,) = db.admin(read, segment)
    db.affected(
        tenant.member,
        "update public.segments set name = 'x', created_at = now() - interval '9 days',"
        " updated_at = now() - interval '9 days' where id = %s",
        segment,
    )
    (after,) = db.admin(read, segment)
    assert after["created_at"] == before["created_at"]
    assert after["updated_at"] > before["updated_at"]


def test_members_create_and_update_jobs_but_cannot_delete_them(
    db: Database, tenant: Tenant
) -> None:
    job_id = db.create_job(tenant)
    start = "update public.enrichment_tracking set status = 'processing' where id = %s"
    assert db.affected(tenant.member, start, job_id) == 1
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        db.affected(tenant.member, "delete from public.enrichment_tracking")
    stranger = db.add_tenant().member
    assert db.affected(stranger, start, job_id) == 0
    assert db.value(stranger, "select count(*) from public.enrichment_tracking") == 0
    delete = "delete from public.enrichment_tracking where id = %s"
    assert db.affected(SERVICE_ROLE, delete, job_id) == 1


@pytest.mark.parametrize("table", ["segments", "enrichment_tracking"])
def test_anon_cannot_read_the_tables(db: Database, table: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        db.rows(ANON, f"select * from public.{table}")


def test_a_scan_evaluates_the_accounts_of_the_caller_once(db: Database) -> None:
    tenant = db.add_tenant()
    for name in "abcdefgh":
        db.create_segment(tenant, name)
    db.create_job(tenant)
    calls = (
        "select funcname, calls from pg_stat_xact_user_functions"
        " where funcname in ('member_account_ids', 'has_role_on_account') order by funcname"
    )
    for table, count in (("segments", 8), ("enrichment_tracking", 1)):
        with db.acting(tenant.member) as connection:
            seen = connection.execute(f"select count(*) from public.{table}".encode()).fetchone()
            assert seen == (count,)
            connection.execute("reset role")
            assert connection.execute(calls).fetchall() == [("member_account_ids", 1)]


def test_a_member_creates_a_segment(db: Database, tenant: Tenant) -> None:
    filters = [{"field": "country", "operator": "=", "value": "US"}]
    columns = [{"field": "score", "headerName": "Score", "type": "number"}]
    segment_id = db.value(
        tenant.member,
        "select public.create_studio_segment(%s, 'US', 'csv_upload', 'u1', 'all of them', %s,"
        " '{email,phone}', %s, '{a,b}')",
        tenant.account_id,
        json.dumps(filters),
        json.dumps(columns),
    )
    (row,) = db.admin("select * from public.segments where id = %s", segment_id)
    assert row.pop("created_at") == row.pop("updated_at")
    assert row == {
        "id": segment_id,
        "account_id": tenant.account_id,
        "name": "US",
        "description": "all of them",
        "source_type": "csv_upload",
        "source_id": "u1",
        "filters": filters,
        "enrichment_fields": ["email", "phone"],
        "custom_columns": columns,
        "tags": ["a", "b"],
        "created_by": tenant.user_id,
        "deleted": False,
    }


def test_a_non_member_cannot_create_a_segment(db: Database, tenant: Tenant) -> None:
    save = "select public.create_studio_segment(%s, 'x', 'audience', '1')"
    for actor, account_id in (
        (db.add_tenant().member, tenant.account_id),
        (tenant.member, uuid4()),
        (tenant.member, None),
    ):
        with pytest.raises(errors.InsufficientPrivilege) as refusal:
            db.value(actor, save, account_id)
        assert refusal.value.diag.message_primary == NOT_A_MEMBER
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        db.value(ANON, save, tenant.account_id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("p_name => ' '", "the name of a segment must not be blank"),
        ("p_name => null", "the name of a segment must not be blank"),
        ("p_source_id => ''", "the source id of a segment must not be blank"),
        (
            "p_source_type => 'fax'",
            "the source type of a segment must be audience, webhook_upload or csv_upload",
        ),
        ("p_filters => '{}'", "filters must be an array of objects"),
        ("p_filters => '[[]]'", "filters must be an array of objects"),
        ("p_filters => '[[{}]]'", "filters must be an array of objects"),
        ("p_custom_columns => '[1]'", "custom columns must be an array of objects"),
        ("p_custom_columns => 'null'", "custom columns must be an array of objects"),
    ],
)
def test_a_malformed_segment_raises_22023(
    db: Database, tenant: Tenant, arguments: str, message: str
) -> None:
    given = {"p_name": "'x'", "p_source_type": "'audience'", "p_source_id": "'1'"}
    name, _, value = arguments.partition(" => ")
    named = ", ".join(f"{name} => {value}" for name, value in (given | {name: value}).items())
    statement = f"select public.create_studio_segment(%s, {named})"
    with pytest.raises(errors.InvalidParameterValue) as refusal:
        db.value(tenant.member, statement, tenant.account_id)
    assert refusal.value.diag.message_primary == message


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("segments", "source_type", "fax"),
        ("enrichment_tracking", "enrichment_type", "fax"),
        ("enrichment_tracking", "status", "lost"),
    ],
)
def test_unknown_types_and_statuses_violate_check_constraints(
    db: Database, tenant: Tenant, segment: UUID, table: str, column: str, value: str
) -> None:
    db.create_job(tenant)
    with pytest.raises(errors.CheckViolation):
        db.affected(tenant.member, f"update public.{table} set {column} = %s", value)
