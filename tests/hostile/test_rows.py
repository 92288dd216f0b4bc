"""Rows that a member writes to harm other accounts or other members of the account."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from audiencelab_sdk.local import _migrate as migrate
from tests.database._sql import EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, api_key, user

NEW_ROWS: dict[str, dict[str, Any]] = {
    "segments": {"name": "n", "source_type": "audience", "source_id": "1"},
    "enrichment_tracking": {"audience_id": str(uuid4()), "enrichment_type": "email"},
}
TABLES = list(NEW_ROWS)


def insert(db: Database, actor: Actor, table: str, **columns: Any) -> dict[str, Any]:
    row = NEW_ROWS[table] | columns
    placeholders = ", ".join(["%s"] * len(row))
    (written,) = db.rows(
        actor,
        f"insert into public.{table} ({', '.join(row)}) values ({placeholders}) returning *",
        *row.values(),
    )
    return written


def update(db: Database, actor: Actor, table: str, row_id: UUID, **columns: Any) -> int:
    (column, value), *none = columns.items()
    assert not none
    return db.affected(
        actor, f"update public.{table} set {column} = %s where id = %s", value, row_id
    )


def read(db: Database, table: str, row_id: UUID) -> dict[str, Any]:
    (row,) = db.admin(f"select * from public.{table} where id = %s", row_id)
    return row


def own_row(db: Database, tenant: Tenant, table: str) -> UUID:
    return db.create_segment(tenant) if table == "segments" else db.create_job(tenant)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "created_at",
    ["infinity", "-infinity", "9999-12-31 23:59:59.999999+00", "294276-01-01", "0044-03-15 BC"],
)
def test_to_make_the_operators_list_endless_by_the_time_of_creation(
    db: Database, tenant: Tenant, table: str, created_at: str
) -> None:
    (now,) = db.admin("select now() as before")
    for actor in (tenant.member, SERVICE_ROLE):
        written = insert(
            db,
            actor,
            table,
            account_id=tenant.account_id,
            created_by=tenant.user_id,
            created_at=created_at,
            updated_at=created_at,
        )
        assert written["created_at"] >= now["before"]
        assert written["updated_at"] == written["created_at"]
        assert update(db, actor, table, written["id"], created_at=created_at) == 1
        assert read(db, table, written["id"])["created_at"] == written["created_at"]


@pytest.mark.parametrize("table", TABLES)
def test_to_move_an_accounts_rows_to_another_account(
    db: Database, tenant: Tenant, table: str
) -> None:
    """Not even by a member of both accounts."""
    other = db.add_tenant()
    db.add_member(other.account_id, tenant.user_id)
    row_id = own_row(db, tenant, table)
    for actor in (tenant.member, SERVICE_ROLE):
        with pytest.raises(errors.InsufficientPrivilege, match=r"account_id .* cannot be changed"):
            update(db, actor, table, row_id, account_id=other.account_id)
    assert read(db, table, row_id)["account_id"] == tenant.account_id
    assert update(db, tenant.member, table, row_id, account_id=tenant.account_id) == 1


@pytest.mark.parametrize("table", TABLES)
def test_to_have_an_accounts_rows_deleted_with_his_own_user(
    db: Database, tenant: Tenant, table: str
) -> None:
    """Rows are deleted with the user in created_by, so that user could have them deleted."""
    leaver = db.add_user(uuid4())
    db.add_member(tenant.account_id, leaver)
    row_id = own_row(db, tenant, table)
    for column, value in (("created_by", leaver), ("id", uuid4())):
        with pytest.raises(errors.InsufficientPrivilege, match="cannot be changed"):
            update(db, user(leaver), table, row_id, **{column: value})
    db.admin("delete from auth.users where id = %s", leaver)
    assert read(db, table, row_id)["created_by"] == tenant.user_id


@pytest.mark.parametrize("table", TABLES)
def test_to_write_in_the_name_of_a_colleague(db: Database, tenant: Tenant, table: str) -> None:
    colleague = db.add_user(uuid4())
    db.add_member(tenant.account_id, colleague)
    columns = {"account_id": tenant.account_id, "created_by": colleague}
    assert insert(db, tenant.member, table, **columns)["created_by"] == tenant.user_id
    # Backends insert rows for their users.
    assert insert(db, SERVICE_ROLE, table, **columns)["created_by"] == colleague


@pytest.mark.parametrize("table", TABLES)
def test_the_owner_of_the_tables_can_choose_every_column(
    db: Database, tenant: Tenant, table: str
) -> None:
    url = migrate.as_role(db.admin_url, "postgres")
    owner = Database(url, url)
    row = NEW_ROWS[table] | {
        "id": uuid4(),
        "account_id": tenant.account_id,
        "created_by": tenant.user_id,
        "created_at": "2020-01-01",
        "updated_at": "2020-01-02",
    }
    placeholders = ", ".join(["%s"] * len(row))
    owner.admin(
        f"insert into public.{table} ({', '.join(row)}) values ({placeholders})", *row.values()
    )
    assert read(db, table, row["id"])["created_at"].year == 2020
    other = db.add_tenant()
    owner.admin(
        f"update public.{table} set account_id = %s where id = %s", other.account_id, row["id"]
    )
    assert read(db, table, row["id"])["account_id"] == other.account_id


@pytest.mark.parametrize("column", ["total_records", "processed_records", "failed_records"])
def test_to_spoil_the_statistics_by_negative_counters(
    db: Database, tenant: Tenant, column: str
) -> None:
    job = db.create_job(tenant)
    for actor in (tenant.member, SERVICE_ROLE):
        with pytest.raises(errors.CheckViolation, match=f"enrichment_tracking_{column}_limit"):
            update(db, actor, "enrichment_tracking", job, **{column: -1})
        with pytest.raises(errors.CheckViolation):
            insert(
                db,
                actor,
                "enrichment_tracking",
                account_id=tenant.account_id,
                created_by=tenant.user_id,
                **{column: -1},
            )


def report(db: Database, actor: Actor, job: UUID, worker: str, processed: int) -> dict[str, Any]:
    (row,) = db.rows(
        actor,
        "select * from public.report_enrichment_progress(%s, %s, %s, 0)",
        *(job, worker, processed),
    )
    return row


def workers(db: Database, tenant: Tenant) -> list[Actor]:
    return [tenant.member, api_key(db.create_key(tenant, [EVERYTHING])["id"])]


def test_to_stop_the_other_workers_by_a_report_of_nonsense(db: Database, tenant: Tenant) -> None:
    for rogue in workers(db, tenant):
        job = db.create_job(tenant)
        report(db, SERVICE_ROLE, job, "honest", 10)
        assert report(db, rogue, job, "rogue", 2**31 - 1)["processed_records"] == 2**31 - 1
        assert report(db, SERVICE_ROLE, job, "honest", 20)["processed_records"] >= 20
        reset = "select * from public.reset_enrichment_progress(%s, %s)"
        (row,) = db.rows(SERVICE_ROLE, reset, job, "rogue")
        assert row["processed_records"] == 20
        assert report(db, SERVICE_ROLE, job, "honest", 30)["processed_records"] == 30
        (row,) = db.rows(SERVICE_ROLE, reset, job, None)
        assert row["processed_records"] == 0
        with pytest.raises(errors.InsufficientPrivilege):
            db.rows(rogue, reset, job, "honest")


def test_to_hide_the_work_of_others_by_lowering_the_counters(db: Database, tenant: Tenant) -> None:
    for rogue in workers(db, tenant):
        job = db.create_job(tenant)
        update(db, SERVICE_ROLE, "enrichment_tracking", job, failed_records=5)
        update(db, SERVICE_ROLE, "enrichment_tracking", job, processed_records=10)
        for column in ("processed_records", "failed_records"):
            with pytest.raises(
                errors.InsufficientPrivilege, match="only service_role may decrease"
            ):
                db.affected(
                    rogue,
                    "update public.enrichment_tracking set processed_records = 10 - %s,"
                    " failed_records = 5 - %s where id = %s",
                    *((1, 0) if column == "processed_records" else (0, 1)),
                    job,
                )
        assert update(db, rogue, "enrichment_tracking", job, processed_records=11) == 1
        assert update(db, SERVICE_ROLE, "enrichment_tracking", job, processed_records=0) == 1


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BAD_JSON = [
    ("too deep", nested(101)),
    ("much too deep", nested(5000)),
    ("objects too deep", '{"a":' * 100 + "{}" + "}" * 100),
    ("beyond a double", "[1e5000]"),
    ("beyond a double, negative", "[-2e308]"),
    ("an integer of 6,000 digits", f"[{'9' * 6000}]"),
    ("too long", json.dumps(["x" * 262_144])),
]
GOOD_JSON = [
    ("at the maximum depth", nested(100)),
    ("the largest double", "[1.7976931348623157e308, -1.7976931348623157e308, 1e-400]"),
    ("at the maximum length", json.dumps(["x" * 262_140])),
    ("wide", json.dumps([{"a": list(range(1000))}] * 30)),
]
JSON_COLUMNS = [
    ("segments", "filters"),
    ("segments", "custom_columns"),
    ("enrichment_tracking", "metadata"),
]


@pytest.mark.parametrize(("table", "column"), JSON_COLUMNS)
@pytest.mark.parametrize(("name", "text"), BAD_JSON, ids=[name for name, _ in BAD_JSON])
def test_to_break_every_list_that_reaches_his_row_by_json(
    db: Database, tenant: Tenant, table: str, column: str, name: str, text: str
) -> None:
    del name
    row_id = own_row(db, tenant, table)
    columns = {"account_id": tenant.account_id, "created_by": tenant.user_id}
    limit = f"{table}_{column}_limit"
    for actor in (tenant.member, SERVICE_ROLE):
        with pytest.raises(errors.CheckViolation, match=limit) as refusal:
            insert(db, actor, table, **columns, **{column: text})
        assert refusal.value.diag.constraint_name == limit
        with pytest.raises(errors.CheckViolation, match=limit):
            update(db, actor, table, row_id, **{column: text})


@pytest.mark.parametrize(("table", "column"), JSON_COLUMNS)
@pytest.mark.parametrize(("name", "text"), GOOD_JSON, ids=[name for name, _ in GOOD_JSON])
def test_json_within_the_limits_is_accepted(
    db: Database, tenant: Tenant, table: str, column: str, name: str, text: str
) -> None:
    del name
    row_id = own_row(db, tenant, table)
    assert update(db, tenant.member, table, row_id, **{column: text}) == 1


TOO_MUCH: list[tuple[str, str, Any]] = [
    ("segments", "name", "n" * 256),
    ("segments", "description", "d" * 10_001),
    ("segments", "source_id", "s" * 1001),
    ("segments", "tags", ["t"] * 1001),
    ("segments", "tags", ["t" * 256]),
    ("segments", "enrichment_fields", ["f"] * 1001),
    ("segments", "enrichment_fields", ["f" * 256]),
    ("enrichment_tracking", "enrichment_fields", ["f"] * 1001),
    ("enrichment_tracking", "enrichment_fields", ["f" * 256]),
    ("enrichment_tracking", "started_at", "infinity"),
    ("enrichment_tracking", "completed_at", "0044-03-15 BC"),
    ("enrichment_tracking", "completed_at", "20000-01-01"),
]
WITHIN_LIMITS: list[tuple[str, str, Any]] = [
    ("segments", "name", "ñ" * 255),
    ("segments", "description", "d" * 10_000),
    ("segments", "source_id", "s" * 1000),
    ("segments", "tags", ["t" * 255] * 1000),
    ("segments", "enrichment_fields", ["f" * 255] * 1000),
    ("enrichment_tracking", "enrichment_fields", ["f" * 255] * 1000),
    ("enrichment_tracking", "completed_at", "9999-12-31 23:59:59.999999+00"),
]


@pytest.mark.parametrize(("table", "column", "value"), TOO_MUCH)
def test_to_fill_the_database_and_every_list_with_a_column(
    db: Database, tenant: Tenant, table: str, column: str, value: Any
) -> None:
    row_id = own_row(db, tenant, table)
    limit = f"{table}_{column}_limit"
    with pytest.raises(errors.CheckViolation, match=f"{limit} is exceeded: {column} "):
        update(db, tenant.member, table, row_id, **{column: value})
    with pytest.raises(errors.CheckViolation, match=limit):
        insert(
            db,
            tenant.member,
            table,
            **{"account_id": tenant.account_id, "created_by": tenant.user_id, column: value},
        )


@pytest.mark.parametrize(("table", "column", "value"), WITHIN_LIMITS)
def test_a_value_within_its_limit_is_accepted(
    db: Database, tenant: Tenant, table: str, column: str, value: Any
) -> None:
    row_id = own_row(db, tenant, table)
    assert update(db, tenant.member, table, row_id, **{column: value}) == 1


@pytest.mark.parametrize(
    ("table", "column", "value"),
    TOO_MUCH + [(t, c, text) for t, c in JSON_COLUMNS for _, text in BAD_JSON[:1]],
)
def test_an_older_row_that_exceeds_a_limit_can_still_be_updated(
    db: Database, tenant: Tenant, table: str, column: str, value: Any
) -> None:
    row_id = own_row(db, tenant, table)
    db.apply(f"alter table public.{table} disable trigger {table}_{column}_limit")
    try:
        db.admin(f"update public.{table} set {column} = %s where id = %s", value, row_id)
    finally:
        db.apply(f"alter table public.{table} enable trigger {table}_{column}_limit")
    # Updates of other columns, and an update that does not change the value.
    other: tuple[str, Any] = ("deleted", False) if table == "segments" else ("total_records", 5)
    assert update(db, tenant.member, table, row_id, **dict([other])) == 1
    assert update(db, tenant.member, table, row_id, **{column: value}) == 1


def test_the_statements_of_the_web_application_work(db: Database, tenant: Tenant) -> None:
    written = insert(
        db,
        tenant.member,
        "segments",
        account_id=tenant.account_id,
        created_by=tenant.user_id,
        filters=Jsonb([{"field": "country", "operator": "=", "value": "US"}]),
    )
    change = "update public.segments set {} where id = %s returning id"
    assert db.rows(tenant.member, change.format("name = 'b', updated_at = now()"), written["id"])
    assert db.rows(
        tenant.member, change.format("deleted = true, updated_at = '2020-01-01'"), written["id"]
    )
    assert read(db, "segments", written["id"])["deleted"] is True


@pytest.mark.parametrize("table", TABLES)
def test_to_plant_a_row_in_the_account_of_somebody_else(
    db: Database, tenant: Tenant, table: str
) -> None:
    stranger = db.add_tenant()
    for creator in (tenant.user_id, stranger.user_id):
        columns = {"account_id": tenant.account_id, "created_by": creator}
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            insert(db, stranger.member, table, **columns)
