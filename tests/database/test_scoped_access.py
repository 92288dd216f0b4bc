"""The rows that an API key reads, creates and changes, depending on its scopes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import Error, errors

from tests.database._sql import (
    ANON,
    EVERYTHING,
    SERVICE_ROLE,
    Actor,
    Database,
    Tenant,
    api_key,
    user,
)

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
COUNT = {
    "segment": "select count(*) from public.segments where id = any(%s)",
    "enrichment": "select count(*) from public.enrichment_tracking where id = any(%s)",
}


def scope(entity_type: str, action: str, entity_id: object = "*") -> dict[str, str]:
    return {"entity_type": entity_type, "entity_id": str(entity_id), "action": action}


class Rows:
    """Two segments and two jobs of an account."""

    def __init__(self, db: Database, tenant: Tenant) -> None:
        self.db = db
        self.tenant = tenant
        self.ids = {
            "segment": [db.create_segment(tenant), db.create_segment(tenant)],
            "enrichment": [db.create_job(tenant), db.create_job(tenant)],
        }

    def key(self, *scopes: dict[str, str], **columns: object) -> Actor:
        return api_key(self.db.create_key(self.tenant, scopes, **columns)["id"])

    def seen(self, actor: Actor, kind: str) -> int:
        count: int = self.db.value(actor, COUNT[kind], self.ids[kind])
        return count


@pytest.fixture
def rows(db: Database, tenant: Tenant) -> Rows:
    return Rows(db, tenant)


@pytest.mark.parametrize(
    ("scopes", "segments", "jobs"),
    [
        ([], 0, 0),
        ([EVERYTHING], 2, 2),
        ([scope("segment", "read")], 2, 0),
        ([scope("segment", "write")], 2, 0),
        ([scope("*", "read")], 2, 2),
        ([scope("segment", "*")], 2, 0),
        ([scope("enrichment", "read")], 0, 2),
        ([scope("enrichment", "write")], 0, 2),
        ([scope("enrichment", "delete")], 0, 0),
        ([scope("audience", "read"), scope("segment", "read")], 2, 0),
    ],
)
def test_a_key_reads_what_its_scopes_cover(
    rows: Rows, scopes: list[dict[str, str]], segments: int, jobs: int
) -> None:
    key = rows.key(*scopes)
    assert rows.seen(key, "segment") == segments
    assert rows.seen(key, "enrichment") == jobs


def test_a_scope_for_one_id_covers_only_that_row(rows: Rows) -> None:
    segment, job = rows.ids["segment"][0], rows.ids["enrichment"][0]
    key = rows.key(
        scope("segment", "read", segment),
        scope("segment", "read", "not a uuid"),
        scope("enrichment", "write", str(job).upper()),
    )
    seen = rows.db.rows(key, "select id from public.segments")
    assert seen == [{"id": segment}]
    assert rows.db.rows(key, "select id from public.enrichment_tracking") == [{"id": job}]


@pytest.mark.parametrize("columns", [{"is_active": False}, {"expires_at": LONG_AGO}])
def test_a_revoked_or_expired_key_reads_nothing(rows: Rows, columns: dict[str, object]) -> None:
    key = rows.key(EVERYTHING, **columns)
    assert rows.seen(key, "segment") == rows.seen(key, "enrichment") == 0


def test_a_key_reads_no_rows_of_other_accounts(rows: Rows, db: Database) -> None:
    theirs = Rows(db, db.add_tenant())
    mine = rows.key(EVERYTHING, *(scope(kind, "read", theirs.ids[kind][0]) for kind in theirs.ids))
    assert theirs.seen(mine, "segment") == theirs.seen(mine, "enrichment") == 0
    update = "update public.enrichment_tracking set status = 'failed' where id = any(%s)"
    assert db.affected(mine, update, theirs.ids["enrichment"]) == 0


def test_a_key_reads_no_deleted_segment(rows: Rows, db: Database) -> None:
    delete = "select public.delete_studio_segment(%s)"
    db.rows(rows.tenant.member, delete, rows.ids["segment"][0])
    assert rows.seen(rows.key(EVERYTHING), "segment") == 1


def test_a_key_updates_the_jobs_that_its_scopes_cover(rows: Rows, db: Database) -> None:
    first, second = rows.ids["enrichment"]
    update = 'update public.enrichment_tracking set metadata = \'{"by": "key"}\' where id = %s'
    for key, may_first, may_second in (
        (rows.key(EVERYTHING), 1, 1),
        (rows.key(scope("enrichment", "write")), 1, 1),
        (rows.key(scope("enrichment", "write", first)), 1, 0),
        (rows.key(scope("enrichment", "read")), 0, 0),
        (rows.key(scope("segment", "write")), 0, 0),
    ):
        assert db.affected(key, update, first) == may_first
        assert db.affected(key, update, second) == may_second


def test_a_key_cannot_purge_or_move_rows(rows: Rows, db: Database) -> None:
    key = rows.key(EVERYTHING)
    for statement in (
        "delete from public.segments",
        "delete from public.enrichment_tracking",
        "update public.segments set id = gen_random_uuid()",
        "update public.segments set account_id = gen_random_uuid()",
        "update public.segments set created_by = gen_random_uuid()",
        "update public.segments set created_at = now()",
        "update public.enrichment_tracking set account_id = gen_random_uuid()",
        "update public.enrichment_tracking set created_by = gen_random_uuid()",
        "select * from api_keys_private.api_keys",
        "select * from enrichment_private.unit_progress",
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            db.rows(key, statement)


CREATE = "select public.create_studio_segment(%s, 'new', 'audience', '1')"
INSERTS = {
    "segment": (
        "insert into public.segments (account_id, name, source_type, source_id, created_by)"
        " values (%s, 'new', 'audience', '1', %s) returning created_by"
    ),
    "enrichment": (
        "insert into public.enrichment_tracking"
        " (account_id, audience_id, enrichment_type, created_by)"
        " values (%s, gen_random_uuid(), 'email', %s) returning created_by"
    ),
}


@pytest.mark.parametrize("kind", INSERTS)
def test_a_key_creates_rows_in_the_name_of_its_creator(rows: Rows, kind: str) -> None:
    for key in (rows.key(EVERYTHING), rows.key(scope(kind, "write"))):
        assert isinstance(key.subject, UUID)
        for claimed in (key.subject, uuid4()):
            created_by = rows.db.value(key, INSERTS[kind], rows.tenant.account_id, claimed)
            assert created_by == rows.tenant.user_id


@pytest.mark.parametrize("kind", INSERTS)
def test_without_a_scope_for_all_of_them_a_key_creates_none(rows: Rows, kind: str) -> None:
    other = next(name for name in INSERTS if name != kind)
    for key in (
        rows.key(scope(kind, "read")),
        rows.key(scope(kind, "create")),
        rows.key(scope(kind, "write", rows.ids[kind][0])),
        rows.key(scope(other, "write")),
        rows.key(EVERYTHING, is_active=False),
        rows.key(EVERYTHING, expires_at=LONG_AGO),
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security policy"):
            rows.db.rows(key, INSERTS[kind], rows.tenant.account_id, rows.tenant.user_id)
        with pytest.raises(errors.InsufficientPrivilege, match="no scope for writing all segments"):
            rows.db.rows(key if kind == "segment" else rows.key(), CREATE, rows.tenant.account_id)


def test_create_studio_segment_sets_the_creator_of_the_key(rows: Rows, db: Database) -> None:
    key = rows.key(scope("segment", "write"))
    segment = db.value(key, CREATE, rows.tenant.account_id)
    (row,) = db.admin("select account_id, created_by from public.segments where id = %s", segment)
    assert row == {"account_id": rows.tenant.account_id, "created_by": rows.tenant.user_id}
    with pytest.raises(
        errors.InsufficientPrivilege, match="the account is not that of the API key"
    ):
        db.rows(key, CREATE, db.add_tenant().account_id)


@pytest.mark.parametrize("statement", [CREATE, *INSERTS.values()])
def test_a_key_whose_creator_is_gone_creates_nothing(
    db: Database, tenant: Tenant, statement: str
) -> None:
    maker = db.add_user(uuid4())
    db.add_member(tenant.account_id, maker)
    key = api_key(db.create_key(tenant, [EVERYTHING], created_by=maker)["id"])
    segment = db.create_segment(tenant)
    db.admin("delete from auth.users where id = %s", maker)
    with pytest.raises(Error) as refusal:
        db.rows(key, statement, tenant.account_id, *([maker] if "%s)" in statement else []))
    assert refusal.value.sqlstate == "PT409"
    message = refusal.value.diag.message_primary or ""
    assert "the user who created the API key no longer exists" in message
    # It still changes what exists.
    assert db.affected(key, "update public.segments set name = 'x' where id = %s", segment) == 1


def test_a_key_updates_segments_that_it_may_write(rows: Rows, db: Database) -> None:
    first, second = rows.ids["segment"]
    update = "update public.segments set name = 'by key', tags = '{key}' where id = %s"
    for key, may_first, may_second in (
        (rows.key(EVERYTHING), 1, 1),
        (rows.key(scope("segment", "write")), 1, 1),
        (rows.key(scope("segment", "write", first)), 1, 0),
        (rows.key(scope("segment", "write", first), scope("segment", "read")), 1, 0),
        (rows.key(scope("segment", "read")), 0, 0),
        (rows.key(scope("enrichment", "write")), 0, 0),
        (rows.key(EVERYTHING, is_active=False), 0, 0),
    ):
        assert db.affected(key, update, first) == may_first
        assert db.affected(key, update, second) == may_second


def test_a_key_deletes_and_restores_segments_that_it_may_write(rows: Rows, db: Database) -> None:
    first, second = rows.ids["segment"]
    softly = "update public.segments set deleted = true where id = %s"
    for key, may_first, may_second in (
        (rows.key(scope("segment", "write")), True, True),
        (rows.key(scope("segment", "write", first)), True, False),
        (rows.key(scope("segment", "read")), False, False),
        (rows.key(EVERYTHING, expires_at=LONG_AGO), False, False),
    ):
        for segment, may in ((first, may_first), (second, may_second)):
            if not may:
                for statement in (DELETE, RESTORE):
                    with pytest.raises(Error, match="no scope for writing it") as refusal:
                        db.rows(key, statement, segment)
                    assert refusal.value.sqlstate == "PT404"
                continue
            db.rows(key, DELETE, segment)
            assert rows.seen(key, "segment") == may_first + may_second - 1
            (restored,) = db.rows(key, RESTORE, segment)
            assert (restored["id"], restored["deleted"]) == (segment, False)
            assert db.affected(key, softly, segment) == 1
            assert db.affected(key, softly, segment) == 0
            db.rows(key, RESTORE, segment)


def test_the_scopes_of_a_key_are_evaluated_once_per_statement(rows: Rows, db: Database) -> None:
    for _ in range(8):
        db.create_segment(rows.tenant)
    with db.acting(rows.key(scope("segment", "read"))) as connection:
        connection.execute("select count(*) from public.segments")
        connection.execute("reset role")
        calls = connection.execute(
            "select funcname, calls from pg_stat_xact_user_functions where schemaname <> 'auth'"
        ).fetchall()
    counts: dict[Any, Any] = dict(calls)
    assert counts == {
        "get_api_key_account_id": 1,
        "has_scope_on_all": 1,
        "has_scope": 2,  # for reading and writing
        "caller_id": 3,  # by each of those that read the keys
    }


DELETE, RESTORE = (
    "select public.delete_studio_segment(%s)",
    "select * from public.restore_studio_segment(%s)",
)


def test_a_member_deletes_and_restores_a_segment(db: Database, tenant: Tenant) -> None:
    segment = db.create_segment(tenant)
    read = "select * from public.segments where id = %s"
    (before,) = db.rows(tenant.member, read, segment)
    for _ in range(2):  # a repeated call has no effect
        db.rows(tenant.member, DELETE, segment)
        assert db.rows(tenant.member, read, segment) == []
    (deleted,) = db.admin(read, segment)
    db.rows(tenant.member, DELETE, segment)
    assert db.admin(read, segment) == [deleted]
    for _ in range(2):
        (restored,) = db.rows(tenant.member, RESTORE, segment)
        assert restored | {"updated_at": None} == before | {"updated_at": None}
        assert db.rows(tenant.member, read, segment) == [restored]


@pytest.mark.parametrize("statement", [DELETE, RESTORE])
def test_a_segment_of_another_account_raises_the_same_error_as_an_unknown_one(
    db: Database, tenant: Tenant, statement: str
) -> None:
    segment = db.create_segment(tenant)
    messages: set[str | None] = set()
    attempts: list[tuple[Actor, UUID | None]] = [
        (db.add_tenant().member, segment),
        (user(uuid4()), segment),
        (tenant.member, uuid4()),
        (tenant.member, None),
    ]
    for actor, segment_id in attempts:
        with pytest.raises(Error) as refusal:
            db.rows(actor, statement, segment_id)
        assert refusal.value.sqlstate == "PT404"
        messages.add(refusal.value.diag.message_primary)
    assert messages == {"the segment does not exist, or you are not a member of its account"}
    for outsider in (ANON, SERVICE_ROLE):
        with pytest.raises(errors.InsufficientPrivilege):
            db.rows(outsider, statement, segment)
