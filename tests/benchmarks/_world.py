"""The database that is measured, with many rows on a server with fsync on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg

from audiencelab_sdk.local import _migrate as migrate
from tests.database._sql import Actor, Database, Tenant
from tests.database.conftest import make_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from audiencelab_sdk.local._postgres import PostgresServer

COUNTED = 5_000
PAGE = 50
PAGES = 1_000
# API keys for each segment: 2,000,000 for 1,000,000. Another database has few.
KEYS = 2
FEW_KEYS = 1_000
MEMBERSHIPS = 500
# Log rows for each segment: 10,000,000 for 1,000,000.
LOG_ROWS = 10
LOG_KEYS = 10
LOG_DAYS = 90
# One log row for so many segments is not rolled up yet: 10,000 for 1,000,000.
SEGMENTS_PER_LATEST_LOG_ROW = 100
SCOPES = 100
# One page more than is measured, so that the last measured page is like the others.
LARGE = PAGES * PAGE + PAGE
FEWEST_ROWS = 100_000

_BCRYPT_KEY = """
insert into benchmark.bcrypt_keys (id, account_id, key_prefix, key_hash)
values (%(id)s, %(account_id)s, left(%(key)s, 7),
        extensions.crypt(%(key)s, extensions.gen_salt('bf', 12)))
"""

# In random order, as if all accounts wrote at the same time.
_SEGMENTS = """
insert into public.segments
  (account_id, created_by, name, source_type, source_id, filters, created_at)
select account_id, %(user_id)s, 'Segment ' || number, 'audience', number::text,
       '[{"field": "country", "operator": "=", "value": "US"}]',
       timestamptz '2026-01-01' + random() * interval '300 days'
from (
  select %(counted)s::uuid as account_id, number from generate_series(1, %(counted_rows)s) as number
  union all
  select %(large)s::uuid, number from generate_series(1, %(large_rows)s) as number
  union all
  select (%(others)s::uuid[])[1 + number %% %(other_accounts)s], number
  from generate_series(1, %(other_rows)s) as number
) as segment
order by random()
"""

_KEYS = """
insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, created_by)
select (%(others)s::uuid[])[1 + number %% %(other_accounts)s], 'Key ' || number,
       'sk_' || substr(md5(number::text), 1, 4),
       encode(sha256(number::text::bytea), 'hex'), %(user_id)s
from generate_series(1, %(keys)s) as number
"""

_LOGS = """
insert into api_keys_private.api_key_logs
  (api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp)
select (%(keys)s::uuid[])[1 + number %% cardinality(%(keys)s)], '/v1/segments', 'GET',
       case number %% 50 when 0 then 500 else 200 end, '203.0.113.7', 'benchmark',
       now() - %(days)s * interval '1 day' * (1 - number::double precision / %(rows)s)
from generate_series(1, %(rows)s) as number
"""


@dataclass(frozen=True)
class World:
    """Accounts, members and keys, and connections as any of them.

    Attributes:
        counted: An account with `COUNTED` segments, and its one member.
        large: An account with more than `PAGES` pages of segments, and its one member.
        busy: A member of `counted` and of other accounts, `MEMBERSHIPS` in all.
        key_id: The id of `key`, which has one scope.
        many_scopes_id: The id of a key that has `SCOPES`.
        few: Another database, with `FEW_KEYS` keys.
        few_key: A key of it, with the same scope.
        logged: An account whose keys have log rows of `LOG_DAYS`, `LOG_ROWS` for each segment.
    """

    db: Database
    rows: int
    counted: Tenant
    large: Tenant
    busy: UUID
    key: str = field(repr=False)
    key_id: UUID
    many_scopes_id: UUID
    few: Database
    few_key: str = field(repr=False)
    logged: Tenant

    @property
    def authenticator_url(self) -> str:
        """The connection string for the role that PostgREST logs in as."""
        return migrate.as_role(self.db.admin_url, "authenticator")

    def version(self) -> str:
        """Return the server's version."""
        with self.connect() as connection:
            return connection.info.parameter_status("server_version") or "of an unknown version"

    def fresh_key_id(self) -> UUID:
        """Create a key without log entries: each update of its row slows down the next look-up."""
        key_id = self.db.create_key(self.counted)["id"]
        assert isinstance(key_id, UUID)
        return key_id

    def add_jobs(self, number: int) -> list[UUID]:
        """Create pending jobs, and return their ids."""
        return [self.db.create_job(self.counted) for _ in range(number)]

    def connect(
        self, actor: Actor | None = None, db: Database | None = None
    ) -> psycopg.Connection[Any]:
        """Connect as the actor, by default as the owner of the tables."""
        url = (db or self.db).admin_url
        if actor is None:
            return psycopg.connect(migrate.as_role(url, "postgres"), autocommit=True)
        connection = psycopg.connect(migrate.as_role(url, "authenticator"), autocommit=True)
        connection.execute("select set_config('role', %s, false)", [actor.role])
        connection.execute("select set_config('request.jwt.claims', %s, false)", [claims(actor)])
        return connection


def claims(actor: Actor) -> str:
    """Return the claims of the actor's token, as PostgREST sets them."""
    return json.dumps({"role": actor.role, "sub": str(actor.subject)})


def call(
    connection: psycopg.Connection[Any],
    statement: str,
    *parameters: object,
    prepared: bool = True,
) -> Callable[[], list[Any]]:
    """Return a function that runs a statement and reads its rows. `prepared` reuses its plan."""
    return partial(_run, connection, statement.encode(), parameters, prepared=prepared)


def _run(
    connection: psycopg.Connection[Any],
    statement: bytes,
    parameters: Sequence[object],
    *,
    prepared: bool,
) -> list[Any]:
    return connection.execute(statement, parameters, prepare=prepared).fetchall()


def fill(server: PostgresServer, rows: int) -> World:
    """Return a migrated database with this number of segments and everything to measure."""
    db = make_database(server, "benchmark")
    counted, large = db.add_tenant(), db.add_tenant()
    others = _add_accounts(db, counted.user_id)
    busy = db.add_user(uuid4())
    for account_id in (counted.account_id, *others[: MEMBERSHIPS - 1]):
        db.add_member(account_id, busy)
    _add_rows(db, rows, counted, large, others)

    scope = {"entity_type": "segment", "entity_id": "*", "action": "read"}
    key = db.create_key(counted, [scope])
    few = make_database(server, "few")
    few_tenant = few.add_tenant()
    few_key = few.create_key(few_tenant, [scope])
    _add_keys(few, FEW_KEYS - 1, few_tenant.user_id, [few_tenant.account_id])
    few.admin("vacuum analyze")
    # Only the last scope matches, so that all of them are examined.
    other_scopes = [
        {**scope, "entity_id": str(uuid4()), "action": "write"} for _ in range(SCOPES - 1)
    ]
    many_scopes = db.create_key(counted, [*other_scopes, scope])
    with psycopg.connect(migrate.as_role(db.admin_url, "postgres"), autocommit=True) as owner:
        owner.execute(Path(__file__).with_name("other_ways.sql").read_bytes())
        owner.execute(
            _BCRYPT_KEY, {"id": key["id"], "account_id": counted.account_id, "key": key["key"]}
        )
    logged = _add_logs(db, LOG_ROWS * rows, rows // SEGMENTS_PER_LATEST_LOG_ROW)
    db.admin("vacuum analyze")
    db.admin("checkpoint")
    return World(
        db=db,
        rows=rows,
        counted=counted,
        large=large,
        busy=busy,
        key=key["key"],
        key_id=key["id"],
        many_scopes_id=many_scopes["id"],
        few=few,
        few_key=few_key["key"],
        logged=logged,
    )


def _add_accounts(db: Database, owner: UUID) -> list[UUID]:
    """Add the accounts of the other segments, and return their ids."""
    rows = db.admin(
        "insert into public.accounts (name, primary_owner_user_id)"
        " select 'Another', %s from generate_series(1, %s) returning id",
        owner,
        2 * MEMBERSHIPS,
    )
    return [row["id"] for row in rows]


def _add_logs(db: Database, rows: int, latest: int) -> Tenant:
    """Add an account with this number of log rows, and return it."""
    tenant = db.add_tenant()
    keys = [db.create_key(tenant)["id"] for _ in range(LOG_KEYS)]
    unchecked = "-c session_replication_role=replica"
    with psycopg.connect(db.admin_url, autocommit=True, options=unchecked) as connection:
        connection.execute(_LOGS, {"keys": keys, "rows": rows, "days": LOG_DAYS})
        connection.execute("select api_keys_private.roll_up_usage()")
        connection.execute(
            "create table benchmark.usage_hours as"
            " select * from api_keys_private.api_key_usage_hours"
        )
        connection.execute("alter table benchmark.usage_hours add primary key (api_key_id, hour)")
        connection.execute("grant select on benchmark.usage_hours to service_role")
        # On one day, so that they are in one bucket of each key.
        connection.execute(_LOGS, {"keys": keys, "rows": latest, "days": 1})
    return tenant


def _add_rows(db: Database, rows: int, counted: Tenant, large: Tenant, others: list[UUID]) -> None:
    # The references are valid by construction, and checking them would take most of the time.
    unchecked = "-c session_replication_role=replica"
    with psycopg.connect(db.admin_url, autocommit=True, options=unchecked) as connection:
        connection.execute(
            _SEGMENTS,
            {
                "user_id": counted.user_id,
                "counted": counted.account_id,
                "counted_rows": COUNTED,
                "large": large.account_id,
                "large_rows": LARGE,
                "others": others,
                "other_accounts": len(others),
                "other_rows": rows - COUNTED - LARGE,
            },
        )
    _add_keys(db, KEYS * rows, counted.user_id, others)


def _add_keys(db: Database, keys: int, user_id: UUID, accounts: list[UUID]) -> None:
    unchecked = "-c session_replication_role=replica"
    with psycopg.connect(db.admin_url, autocommit=True, options=unchecked) as connection:
        connection.execute(
            _KEYS,
            {
                "others": accounts,
                "other_accounts": len(accounts),
                "user_id": user_id,
                "keys": keys,
            },
        )
