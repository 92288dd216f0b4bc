"""Run statements as PostgREST does: in a transaction, with a role and the claims of a token."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row, scalar_row

from audiencelab_sdk.local import _migrate as migrate
from tests._waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


# A scope that covers everything.
EVERYTHING = {"entity_type": "*", "entity_id": "*", "action": "*"}
NOT_A_MEMBER = "the account does not exist, or you are not a member of it"


def warnings_of(db: Database, text: str) -> list[str]:
    """Run a file as `postgres` and return the warnings that it raises."""
    messages: list[str] = []
    url = migrate.as_role(db.admin_url, "postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(
            lambda notice: (
                messages.append(notice.message_primary or "")
                if notice.severity_nonlocalized == "WARNING"
                else None
            )
        )
        connection.execute(text.encode())
    return messages


@dataclass
class Actor:
    """A role and the subject of its token."""

    role: str
    subject: UUID | None = None


ANON = Actor("anon")
SERVICE_ROLE = Actor("service_role")


def user(user_id: UUID) -> Actor:
    return Actor("authenticated", user_id)


def api_key(key_id: UUID) -> Actor:
    return Actor("api_key", key_id)


@dataclass
class Tenant:
    """An account and its owner, who is its only member."""

    account_id: UUID = field(default_factory=uuid4)
    user_id: UUID = field(default_factory=uuid4)

    @property
    def member(self) -> Actor:
        return user(self.user_id)


class Database:
    """A database, with connections as the superuser and as the authenticator."""

    def __init__(self, admin_url: str, authenticator_url: str) -> None:
        self.admin_url = admin_url
        self._authenticator_url = authenticator_url

    def admin(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Run one statement as the superuser, which bypasses row level security."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def apply(self, text: str, role: str = "postgres") -> None:
        """Run a file as the SQL editor does: as one query of several statements."""
        url = migrate.as_role(self.admin_url, role)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(text.encode())

    @contextmanager
    def acting(self, actor: Actor) -> Iterator[psycopg.Connection[Any]]:
        """Open a transaction in which every statement runs as the actor."""
        with psycopg.connect(self._authenticator_url) as connection:
            connection.execute(f"set local role {actor.role}".encode())
            claims = {"role": actor.role} | ({"sub": str(actor.subject)} if actor.subject else {})
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
            )
            yield connection

    def rows(self, actor: Actor, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Run one statement as the actor, in its own transaction."""
        with self.acting(actor) as connection:
            cursor = connection.cursor(row_factory=dict_row).execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, actor: Actor, statement: str, *parameters: object) -> Any:
        """The single value that a statement returns to the actor."""
        with self.acting(actor) as connection:
            return (
                connection.cursor(row_factory=scalar_row)
                .execute(statement.encode(), parameters)
                .fetchone()
            )

    def affected(self, actor: Actor, statement: str, *parameters: object) -> int:
        """The number of rows that a statement of the actor affects."""
        with self.acting(actor) as connection:
            return connection.execute(statement.encode(), parameters).rowcount

    def wait_for_blocked_session(self) -> None:
        """Wait until a session of this database waits for a lock."""
        wait_until(
            lambda: self.admin(
                "select 1 from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
        )

    def add_tenant(self) -> Tenant:
        """Create an account and its owner."""
        tenant = Tenant()
        self.add_user(tenant.user_id)
        self.admin(
            "insert into public.accounts (id, name, primary_owner_user_id) values (%s, 'T', %s)",
            tenant.account_id,
            tenant.user_id,
        )
        self.add_member(tenant.account_id, tenant.user_id, "owner")
        return tenant

    def add_user(self, user_id: UUID) -> UUID:
        self.admin("insert into auth.users (id) values (%s)", user_id)
        return user_id

    def add_member(self, account_id: UUID, user_id: UUID, role: str = "member") -> None:
        self.admin(
            "insert into public.accounts_memberships (account_id, user_id, account_role)"
            " values (%s, %s, %s)",
            account_id,
            user_id,
            role,
        )

    def create_key(self, tenant: Tenant, scopes: object = (), **columns: object) -> dict[str, Any]:
        """Create a key as the owner of the account, then set columns of its row."""
        (key,) = self.rows(
            tenant.member,
            "select * from public.create_api_key(%s, 'test key', %s)",
            tenant.account_id,
            json.dumps(list(scopes) if isinstance(scopes, (list, tuple)) else scopes),
        )
        for column, value in columns.items():
            self.admin(
                f"update api_keys_private.api_keys set {column} = %s where id = %s",
                value,
                key["id"],
            )
        return key

    def verify(self, text: str | None) -> dict[str, Any]:
        (verification,) = self.rows(SERVICE_ROLE, "select * from public.verify_api_key(%s)", text)
        return verification

    def create_segment(self, tenant: Tenant, name: str = "segment") -> UUID:
        segment_id = self.value(
            tenant.member,
            "select public.create_studio_segment(%s, %s, 'audience', 'a1')",
            tenant.account_id,
            name,
        )
        assert isinstance(segment_id, UUID)
        return segment_id

    def create_job(self, tenant: Tenant) -> UUID:
        job_id = self.value(
            tenant.member,
            "insert into public.enrichment_tracking"
            " (account_id, audience_id, enrichment_type, created_by)"
            " values (%s, gen_random_uuid(), 'email', %s) returning id",
            tenant.account_id,
            tenant.user_id,
        )
        assert isinstance(job_id, UUID)
        return job_id
