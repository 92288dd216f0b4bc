"""The migrations result in the same schema for every state of a target database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import count, permutations
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._catalog import catalog
from tests.database._sql import Database, Tenant, warnings_of
from tests.database._states import (
    RECORDED,
    STATES,
    apply_script,
    apply_state,
    read_state,
    recording,
)
from tests.database.conftest import make_database, start_server
from tests.database.test_authentication import authenticate, code
from tests.database.test_rotation import rotate
from tests.database.update_verify import VERIFY

STAND_IN, *MIGRATIONS = migrate.migration_files()
SEGMENTS, JOBS = "public.segments", "public.enrichment_tracking"
KEYS, LOGS = "api_keys_private.api_keys", "api_keys_private.api_key_logs"
# What the columns contain that older tables do not have.
NEW_COLUMNS: dict[str, dict[str, object]] = {
    KEYS: {"disabled_at": None, "metadata": {}, "allowed_ips": None, "successor_id": None}
}
numbers = count()

SCRIPTS = {
    "another script": (STATES / "other_script.sql").read_text(),
    "the first migration": MIGRATIONS[0].read_text(),
    # The default privileges of a plain project.
    "a plain project": (
        "grant usage on schema public to public, anon;\n"
        "alter default privileges for role postgres grant execute on functions to public;\n"
    ),
    "open to all": (
        "grant all on all tables in schema public to anon, authenticated, service_role;\n"
        "grant execute on all functions in schema public to public, anon, authenticated;\n"
    ),
    "invoices": (
        "create table public.invoices ("
        "id uuid primary key default gen_random_uuid(),"
        " account_id uuid not null references public.accounts (id) on delete cascade);\n"
        "alter table public.invoices enable row level security;\n"
        "create policy invoices_read on public.invoices for select to authenticated"
        " using (public.has_role_on_account(account_id));\n"
        "create index ix_invoices_account_id on public.invoices (account_id);\n"
    ),
    "notifications": (
        "create table public.notifications (id bigint generated always as identity, body text);\n"
        "create function public.update_notification_dismissed_status() returns trigger"
        " language plpgsql set search_path = '' as $$ begin return new; end $$;\n"
        "create trigger update_notification_dismissed_status before update on public.notifications"
        " for each row execute function public.update_notification_dismissed_status();\n"
        "alter publication supabase_realtime add table public.notifications;\n"
    ),
    "billing": (
        "create type public.subscription_status as enum ('active', 'past_due');\n"
        "alter table public.accounts add column picture_url varchar(1000);\n"
        "grant select on public.accounts to anon;\n"
    ),
}
MIGRATED = "all migrations"


def among_others(*states: str) -> list[str]:
    """The states, with other migrations of V3 before, between and after them."""
    first, second, *further = states
    return ["invoices", first, "notifications", second, *further, "billing"]


PATHS: list[list[str]] = [
    [],
    ["a plain project"],
    *([*states] for length in (1, 2) for states in permutations(RECORDED, length)),
    *(among_others(*states) for states in permutations(RECORDED)),
    *(["a plain project", state, "open to all"] for state in RECORDED),
    ["a plain project", *RECORDED, "open to all"],
    ["a plain project", *reversed(RECORDED), "open to all"],
    [MIGRATED],
    ["the first migration"],
    ["another script"],
    *(["another script", state] for state in RECORDED),
    ["live_keys", "another script", "first_script"],
    ["a plain project", "another script", *RECORDED],
    *([MIGRATED, state] for state in RECORDED),
    among_others("first_script", "live_keys", MIGRATED),
    among_others("live_keys", MIGRATED, "segments_migration", "first_script"),
]


@pytest.fixture(scope="module")
def own_server(programs: Path | None) -> Iterator[PostgresServer]:
    """A server with one database at a time, because its databases would share role api_key."""
    with start_server(programs) as server:
        yield server


@pytest.fixture
def target(own_server: PostgresServer) -> Iterator[Database]:
    """A database with V3's base schema, on a server without role api_key."""
    db = make_database(own_server, f"state_{next(numbers)}", migrated=False)
    db.apply(STAND_IN.read_text())
    yield db
    drop(own_server, db)


@pytest.fixture(scope="module")
def expected(own_server: PostgresServer) -> dict[str, list[str]]:
    """The catalog of a database that was empty before the migrations."""
    db = make_database(own_server, f"state_{next(numbers)}")
    found = catalog(db)
    drop(own_server, db)
    return found


def drop(server: PostgresServer, db: Database) -> None:
    name = db.admin_url.rpartition("/")[2]
    cluster = Database(server.admin_url, "")
    cluster.admin(f"drop database {name} with (force)")
    cluster.admin("drop role if exists api_key")


def take(db: Database, step: str) -> None:
    if step in RECORDED:
        apply_state(db, step)
    elif step == MIGRATED:
        migrate_all(db)
    elif step == "the first migration":
        db.apply(SCRIPTS[step])
    else:
        apply_script(db, SCRIPTS[step].split(";\n"))


def migrate_all(db: Database) -> list[str]:
    """Run the migrations and return the warnings that they raise."""
    return [warning for file in MIGRATIONS for warning in warnings_of(db, file.read_text())]


class Content:
    """The rows and the keys of one account."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.tenant = db.add_tenant()
        self.live: list[str] = []
        self.dead: list[str] = []

    def add(self) -> None:
        """Add every kind of row to each existing table."""
        if self._exists(SEGMENTS):
            self._add_segments()
        if self._exists(JOBS):
            self._db.admin(
                "insert into public.enrichment_tracking (account_id, audience_id, enrichment_type,"
                " metadata, created_by) values (%s, gen_random_uuid(), 'email', '{\"a\": 1}', %s)",
                *self._who(),
            )
        if self._exists(KEYS):
            self._add_keys()

    def rows(self) -> dict[str, dict[UUID, dict[str, Any]]]:
        """The rows of each existing table, by id."""
        return {
            table: {row["id"]: row for row in self._db.admin(f"select * from {table}")}
            for table in (SEGMENTS, JOBS, KEYS, LOGS)
            if self._exists(table)
        }

    def _who(self) -> tuple[UUID, UUID]:
        return self.tenant.account_id, self.tenant.user_id

    def _exists(self, table: str) -> bool:
        (row,) = self._db.admin("select to_regclass(%s) is not null as exists", table)
        return bool(row["exists"])

    def _has_constraint(self, name: str) -> bool:
        return bool(self._db.admin("select 1 from pg_constraint where conname = %s", name))

    def _add_segments(self) -> None:
        self._db.admin(
            "insert into public.segments (account_id, name, source_type, source_id, filters, tags,"
            " created_by, created_at, deleted)"
            " select %s, 'old', 'audience', '1', '[{\"field\": \"a\"}]', '{x}', %s,"
            " '2024-02-29', deleted from unnest('{f,t}'::boolean[]) as deleted",
            *self._who(),
        )

    def _add_keys(self) -> None:
        account_id, user_id = self._who()
        live: dict[str, dict[str, object]] = {
            "without expiry": {},
            "with expiry": {"expires_at": "9999-12-31"},
            "re-hashed": {"hash": "sha256"},
        }
        dead: dict[str, dict[str, object]] = {
            "revoked": {"is_active": False},
            "expired": {"expires_at": "2024-02-29"},
            "both": {"is_active": False, "expires_at": "2024-02-29"},
        }
        keys: list[dict[str, object]] = []
        for kinds, texts in ((live, self.live), (dead, self.dead)):
            for name, columns in kinds.items():
                # The maximum length of older keys.
                text = f"sk_{(uuid4().hex * 2)[:43]}"
                texts.append(text)
                keys.append({"name": name, "text": text, "account_id": str(account_id), **columns})
        # Without the foreign key, keys of deleted accounts remain.
        if not self._has_constraint("api_keys_account_id_fkey"):
            keys.append({"name": "orphan", "text": f"sk_{uuid4().hex}", "account_id": str(uuid4())})
        self._db.admin(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by, is_active, expires_at)"
            " select account_id, name, left(text, 7), case hash"
            " when 'sha256' then encode(sha256(text::bytea), 'hex')"
            " else extensions.crypt(text, extensions.gen_salt('bf', 4)) end,"
            " %s, coalesce(is_active, true), expires_at"
            " from jsonb_to_recordset(%s::jsonb) as key (account_id uuid, name text, text text,"
            " hash text, is_active boolean, expires_at timestamptz)",
            user_id,
            json.dumps(keys),
        )
        self._db.admin(
            "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method)"
            " select id, '/', 'GET' from api_keys_private.api_keys, generate_series(1, 2)"
        )
        if not self._has_constraint("api_key_logs_api_key_id_check"):
            self._db.admin(
                "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method)"
                " values (null, '/', 'GET')"
            )


@pytest.mark.parametrize("state", RECORDED)
def test_a_rebuilt_state_equals_its_recording(target: Database, state: str) -> None:
    recorded = recording(state)

    apply_state(target, state)

    read = read_state(target)
    (server,) = target.admin("select current_setting('server_version_num')::integer as version")
    if server["version"] < 170000:
        recorded = json.loads(json.dumps(recorded).replace("xtm/", "xt/"))
    if role := recorded["role api_key"]:
        role["members"].sort()
        if server["version"] < 160000:
            role["members"].remove("postgres")
    assert read == recorded


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ", ".join(path) or "the base schema")
def test_migrating_any_state_results_in_the_same_schema(
    target: Database, expected: dict[str, list[str]], path: list[str]
) -> None:
    content = Content(target)
    for step in path:
        take(target, step)
        content.add()
    kept = content.rows()
    for key in kept.get(KEYS, {}).values():
        # The migrations deactivate keys of deleted accounts.
        key["is_active"] = key["is_active"] and key["name"] != "orphan"

    migrate_all(target)
    once = catalog(target)
    warnings = migrate_all(target)

    assert once == catalog(target) == expected
    assert warnings == []
    target.apply(VERIFY.read_text())
    after = content.rows()
    for table, rows in kept.items():
        assert after[table].keys() == rows.keys(), table
        for row_id, row in rows.items():
            # The migrations add columns.
            assert after[table][row_id].items() >= row.items(), table
    check_the_keys(target, content)
    check_that_everything_works(target, content.tenant)


def check_the_keys(db: Database, content: Content) -> None:
    for text in content.live * 2:
        assert db.verify(text)["account_id"] == content.tenant.account_id
    for text in content.dead:
        assert db.verify(text)["valid"] is False
    hashes = {row["key_hash"] for row in content.rows()[KEYS].values()}
    assert {hashlib.sha256(text.encode()).hexdigest() for text in content.live} <= hashes
    assert not {hashlib.sha256(text.encode()).hexdigest() for text in content.dead} & hashes
    for text in content.live:
        key = authenticate(db, text)
        assert (key["code"], key["metadata"], key["ip_restricted"]) == ("valid", {}, False)
        successor = rotate(db, content.tenant.member, key["api_key_id"], "0")
        assert (code(db, text), code(db, successor["key"])) == ("expired", "valid")


def check_that_everything_works(db: Database, tenant: Tenant) -> None:
    assert db.verify(db.create_key(tenant)["key"])["valid"] is True
    assert isinstance(db.create_segment(tenant), UUID)
    assert isinstance(db.create_job(tenant), UUID)
    other = db.add_tenant().member
    for table in ("segments", "enrichment_tracking"):
        assert db.value(other, f"select count(*) from public.{table}") == 0
