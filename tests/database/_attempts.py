"""The actors of the matrix and their attempts, in SQL and through the REST API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import jwt
import psycopg
from psycopg.types.json import Jsonb

from tests.database._inventory import PUBLIC_FUNCTIONS
from tests.database._matrix import ACTORS
from tests.database._sql import ANON, SERVICE_ROLE, Actor, Database, api_key, user

if TYPE_CHECKING:
    import httpx

_FUNCTIONS = {function.rpc: function for function in PUBLIC_FUNCTIONS}
SECRET = "a-secret-of-the-matrix-with-more-than-32-bytes"


@dataclass(frozen=True)
class Target:
    """The rows that one attempt concerns. No other attempt changes them."""

    account_id: UUID
    created_by: UUID
    segment: UUID
    job: UUID
    failed_job: UUID
    key: UUID
    key_text: str
    key_creator: UUID


class World:
    """An account and the actors that try to reach its rows."""

    def __init__(self, db: Database, admin: psycopg.Connection[Any]) -> None:
        self._admin = admin
        self._tenant = db.add_tenant()
        member, former = db.add_user(uuid4()), db.add_user(uuid4())
        db.add_member(self._tenant.account_id, member)
        db.add_member(self._tenant.account_id, former)
        db.admin("delete from public.accounts_memberships where user_id = %s", former)
        scopes = [
            {"entity_type": "segment", "entity_id": "*", "action": "*"},
            {"entity_type": "enrichment", "entity_id": "*", "action": "write"},
        ]
        others = [{"entity_type": "audience", "entity_id": "*", "action": "*"}]

        self.key_texts: dict[UUID, str] = {}
        """The texts of the keys among the actors, by their ids."""

        def key(scopes: list[dict[str, str]], **columns: object) -> Actor:
            created = db.create_key(self._tenant, scopes, **columns)
            self.key_texts[created["id"]] = created["key"]
            return api_key(created["id"])

        self.actors = dict(
            zip(
                ACTORS,
                (
                    ANON,
                    user(member),
                    self._tenant.member,
                    db.add_tenant().member,
                    user(former),
                    key(scopes),
                    key(others),
                    key(scopes, is_active=False),
                    key(scopes, expires_at=datetime(2020, 1, 1, tzinfo=UTC)),
                    SERVICE_ROLE,
                ),
                strict=True,
            )
        )

    def target(self) -> Target:
        account_id, owner = self._tenant.account_id, self._tenant.user_id
        segment, job, failed_job, key, key_creator = (uuid4() for _ in range(5))
        text = f"sk_{key.hex}"
        self._admin.execute(
            "insert into public.segments (id, account_id, name, source_type, source_id, created_by)"
            " values (%s, %s, 'x', 'audience', '1', %s)",
            [segment, account_id, owner],
        )
        for job_id, status in ((job, "pending"), (failed_job, "failed")):
            self._admin.execute(
                "insert into public.enrichment_tracking"
                " (id, account_id, audience_id, enrichment_type, status, created_by)"
                " values (%s, %s, gen_random_uuid(), 'email', %s, %s)",
                [job_id, account_id, status, owner],
            )
        self._admin.execute(
            "insert into api_keys_private.api_keys"
            " (id, account_id, name, key_prefix, key_hash, created_by)"
            " values (%s, %s, 'x', left(%s, 7), encode(sha256(%s::bytea), 'hex'), %s)",
            [key, account_id, text, text, key_creator],
        )
        self._admin.execute(
            "insert into api_keys_private.api_key_logs (api_key_id, endpoint, method)"
            " values (%s, '/', 'GET')",
            [key],
        )
        return Target(account_id, owner, segment, job, failed_job, key, text, key_creator)

    def delete_softly(self, target: Target) -> None:
        self._admin.execute(
            "update public.segments set deleted = true where id = %s", [target.segment]
        )


def new_row(table: str, target: Target) -> dict[str, str]:
    row = {"account_id": str(target.account_id), "created_by": str(target.created_by)}
    if table == "segments":
        return row | {"name": "new", "source_type": "audience", "source_id": "1"}
    return row | {"audience_id": str(uuid4()), "enrichment_type": "email"}


def row_id(table: str, target: Target) -> UUID:
    return target.segment if table == "segments" else target.job


# The column that an update changes, and its new value.
CHANGES: dict[str, tuple[str, object]] = {
    "segments": ("tags", ["changed"]),
    "enrichment_tracking": ("metadata", {"changed": True}),
}


def arguments(function: str, target: Target) -> dict[str, Any]:
    """The arguments of a call that concerns the target, as JSON."""
    given = _FUNCTIONS[function].arguments(target)
    return {name: str(it) if isinstance(it, UUID) else it for name, it in given.items()}


def refused(sqlstate: str | None) -> str:
    return {"42501": "x", "PT404": "4", "PT401": "invalid key"}.get(
        sqlstate or "", f"failed with {sqlstate}"
    )


def worked(result: Any) -> str:
    """Whether the result of a call is true or contains a value."""
    match result:
        case list():
            return "1" if result and worked(result[0]) == "1" else "0"
        case {"valid": bool(valid)}:
            return "1" if valid else "0"
        case {"success": bool(success)}:
            return "1" if success else "0"
        case None | False:
            return "0"
        case _:
            return "1"


def through_sql(db: Database, actor: Actor, operation: str, target: Target) -> str:
    verb, _, name = operation.rpartition(" ")
    query, values = _call(name, target) if verb == "call" else _statement(verb, name, target)
    try:
        with db.acting(actor) as connection:
            cursor = connection.execute(query.encode(), values)
            if verb == "call":
                return worked([row[0] for row in cursor])
            return str(cursor.rowcount)
    except psycopg.Error as error:
        return refused(error.sqlstate)


def _call(function: str, target: Target) -> tuple[str, list[object]]:
    given = arguments(function, target)
    names = ", ".join(f"{name} => %s" for name in given)
    query = f"select to_json(result) from public.{function}({names}) as result"
    return query, [
        Jsonb(value) if isinstance(value, (list, dict)) else value for value in given.values()
    ]


def _statement(verb: str, name: str, target: Target) -> tuple[str, list[object]]:
    table = name.removeprefix("public.")
    this = row_id(table, target)
    match verb.removesuffix(" deleted"):
        case "select":
            return f"select 1 from {name} where id = %s", [this]
        case "insert":
            row = new_row(table, target)
            placeholders = ", ".join(["%s"] * len(row))
            return f"insert into {name} ({', '.join(row)}) values ({placeholders})", [*row.values()]
        case "delete":
            return f"delete from {name} where id = %s", [this]
        case "soft delete":
            return f"update {name} set deleted = true where id = %s", [this]
        case _:
            column, value = CHANGES[table]
            changed = Jsonb(value) if isinstance(value, dict) else value
            return f"update {name} set {column} = %s where id = %s", [changed, this]


def through_rest(
    api: httpx.Client, actor: Actor, operation: str, target: Target, key_text: str | None = None
) -> str:
    """The outcome over HTTP, with a token of the actor, or with the text of its key instead."""
    verb, _, name = operation.rpartition(" ")
    headers = {"Prefer": "return=minimal, count=exact"}
    if key_text:
        headers["x-api-key"] = key_text
    elif actor.role != "anon":
        claims = {"role": actor.role, "exp": int(time.time()) + 600}
        claims |= {"sub": str(actor.subject)} if actor.subject else {}
        headers["Authorization"] = f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"
    if verb == "call":
        response = api.post(f"/rpc/{name}", json=arguments(name, target), headers=headers)
        if response.is_success:
            return worked(response.json() if response.content else "")  # no content for void
        return refused(response.json()["code"])
    table = name.removeprefix("public.")
    action = verb.removesuffix(" deleted")
    method = {"select": "GET", "insert": "POST", "delete": "DELETE"}.get(action, "PATCH")
    bodies: dict[str, dict[str, Any]] = {
        "insert": dict(new_row(table, target)),
        "soft delete": {"deleted": True},
        "update": dict([CHANGES[table]]),
    }
    response = api.request(
        method,
        f"/{table}",
        params={} if action == "insert" else {"id": f"eq.{row_id(table, target)}"},
        json=bodies.get(action),
        headers=headers,
    )
    if not response.is_success:
        return refused(response.json()["code"])
    return response.headers["content-range"].rpartition("/")[2]
