"""Callers, and the objects that their calls name: an account, its keys, segments and jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from audiencelab_sdk import NewSegment, Scope, SourceType
from tests._waiting import wait_until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.e2e._project import Project
    from tests.e2e.conftest import Client

EVERYTHING = Scope(entity_type="*", entity_id="*", action="*")
READ_SEGMENTS = Scope(entity_type="segment", entity_id="*", action="read")
WRITE_SEGMENTS = Scope(entity_type="segment", entity_id="*", action="write")
READ_JOBS = Scope(entity_type="enrichment", entity_id="*", action="read")
WRITE_JOBS = Scope(entity_type="enrichment", entity_id="*", action="write")
AUDIENCES = Scope(entity_type="audience", entity_id="*", action="*")
ODD_SCOPE = Scope.model_validate({**EVERYTHING.model_dump(), "note": "x"})
NEW_SEGMENT = NewSegment(name="n", source_type=SourceType.AUDIENCE, source_id="a")


@dataclass(frozen=True)
class Thing:
    """The object that the arguments of a call name.

    Attributes:
        id: The id of an account, key, segment or job.
        user_id: The user who created it or creates it.
        text: The text of a key, or of a setting.
        meanwhile: Changes the object during the call.
    """

    id: Any = None
    user_id: Any = None
    text: str = ""
    meanwhile: Callable[[], object] = lambda: None


class World:
    """An account with its callers and objects."""

    def __init__(self, project: Project, backend: Client, anon: Client) -> None:
        self.project = project
        self.backend = backend
        self.anon = anon
        self.tenant = project.add_tenant()
        self.colleague_id = project.add_user()
        project.add_member(self.tenant.account_id, self.colleague_id)
        self._callers: dict[str, Client] = {}

    def caller(self, name: str) -> Client:
        if name not in self._callers:
            self._callers[name] = CALLERS[name](self)
        return self._callers[name]

    @contextmanager
    def thing(self, name: str) -> Iterator[Thing]:
        thing = THINGS[name](self)
        with nullcontext(thing) if isinstance(thing, Thing) else thing as made:
            yield made

    def as_user(self, user_id: UUID, expires_in: int = 600) -> Client:
        return self.backend.as_user(self.project.access_token(user_id, expires_in))

    def as_key(self, key: Thing) -> Client:
        return self.backend.as_api_key(key.id, self.project.jwt_secret)

    def removed(self) -> Client:
        user_id = self.project.add_user()
        self.project.add_member(self.tenant.account_id, user_id)
        self.project.remove_member(self.tenant.account_id, user_id)
        return self.as_user(user_id)

    def account(self) -> Thing:
        # Not the owner: `revoke_all_of` must not revoke the keys of other tests.
        return Thing(self.tenant.account_id, user_id=self.colleague_id)

    def second_account(self) -> Thing:
        """Another account of the tenant's owner, who leaves it during the call."""
        user_id = self.tenant.user_id
        account_id = self.project.add_account(user_id)
        leave = partial(self.project.remove_member, account_id, user_id)
        return Thing(account_id, user_id=user_id, meanwhile=leave)

    def account_with_keys(self, number: int) -> Thing:
        account = self.second_account()
        self.project.sql(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by)"
            " select %s, i::text, 'sk_aaaa', gen_random_uuid()::text, %s"
            " from generate_series(1, %s) as i",
            *(account.id, account.user_id, number),
        )
        return account

    @contextmanager
    def managed_by_owners(self, thing: Thing) -> Iterator[Thing]:
        statement = "update api_keys_private.settings set manage_keys_role = %s"
        (before,) = self.project.sql("select manage_keys_role from api_keys_private.settings")
        self.project.sql(statement, "owner")
        try:
            yield thing
        finally:
            self.project.sql(statement, before["manage_keys_role"])

    def key(self, *scopes: Scope) -> Thing:
        owner = self.caller("member")
        key = owner.call("create", self.tenant.account_id, "test", scopes=scopes)
        return Thing(key.id, text=key.key.get_secret_value())

    def revoked_key(self) -> Thing:
        key = self.key(EVERYTHING)
        self.caller("member").call("revoke", key.id)
        return key

    def throttled_key(self) -> Thing:
        """An invalid key whose prefix has had too many comparisons in this period."""
        prefix = f"sk_{uuid4().hex[:4]}"
        self.project.sql(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by)"
            " values (%s, 'old', %s, '$2a$12$' || gen_random_uuid(), %s)",
            *(self.tenant.account_id, prefix, self.tenant.user_id),
        )
        # A period has 15 slots of 2 seconds. The call must precede the end of the period and the
        # slot that belongs to this key.
        wait_until(lambda: self._slot() % 15 < 11)
        slot = self._slot()
        self.project.sql(
            "insert into api_keys_private.failed_comparisons (key_prefix, period, comparisons)"
            " values (%s, %s, 6)",
            *(prefix, slot // 15),
        )
        (found,) = self.project.sql(
            "select text from generate_series(1000, 2000) as i"
            " cross join lateral (select %s || i) as made (text)"
            " where mod(hashtextextended(encode(sha256(text::bytea), 'hex'), 0), 15) + 15"
            " in (%s, %s) limit 1",
            *(prefix, (slot + 7) % 15, (slot + 7) % 15 + 15),
        )
        return Thing(text=found["text"])

    def _slot(self) -> int:
        (row,) = self.project.sql(
            "select floor(extract(epoch from clock_timestamp()) / 2)::bigint as slot"
        )
        return int(row["slot"])

    def segment(self, *, deleted: bool = False) -> Thing:
        (row,) = self.project.sql(
            "insert into public.segments"
            " (account_id, name, source_type, source_id, created_by, deleted)"
            " values (%s, 'n', 'audience', 'a', %s, %s) returning id",
            *(self.tenant.account_id, self.tenant.user_id, deleted),
        )
        return Thing(row["id"])

    def job(self, status: str, account_id: UUID | None = None) -> Thing:
        (row,) = self.project.sql(
            "insert into public.enrichment_tracking"
            " (account_id, audience_id, enrichment_type, created_by, status)"
            " values (%s, gen_random_uuid(), 'email', %s, %s) returning id",
            *(account_id or self.tenant.account_id, self.tenant.user_id, status),
        )
        return Thing(row["id"])

    def stopped_job(self) -> Thing:
        job = self.job("pending")
        stop = partial(self.backend.call, "enrichment.fail", job.id, "stopped")
        return replace(job, meanwhile=stop)

    def left_job(self) -> Thing:
        account = self.second_account()
        return replace(self.job("pending", account.id), meanwhile=account.meanwhile)

    def deleted(self, table: str, thing: Thing) -> Thing:
        self.project.sql(f"delete from {table} where id = %s", thing.id)
        return thing


@contextmanager
def without_rich(thing: Thing) -> Iterator[Thing]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "rich", None)
        yield thing


@contextmanager
def without_environment() -> Iterator[Thing]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPABASE_URL", raising=False)
        yield Thing()


CALLERS: Mapping[str, Callable[[World], Client]] = {
    "anon": lambda world: world.anon,
    "member": lambda world: world.as_user(world.tenant.user_id),
    "junior": lambda world: world.as_user(world.colleague_id),
    "stranger": lambda world: world.as_user(world.project.add_tenant().user_id),
    "removed": World.removed,
    "service": lambda world: world.backend,
    "key": lambda world: world.as_key(world.key(READ_SEGMENTS, WRITE_JOBS)),
    "read_key": lambda world: world.as_key(world.key(READ_SEGMENTS, READ_JOBS)),
    "write_key": lambda world: world.as_key(world.key(WRITE_SEGMENTS)),
    "wrong_key": lambda world: world.as_key(world.key(AUDIENCES)),
    "revoked_key": lambda world: world.as_key(world.revoked_key()),
    "expired": lambda world: world.as_user(world.tenant.user_id, expires_in=-600),
    "forged": lambda world: world.backend.as_user("not.a.token"),
}
OUTSIDERS = "stranger removed"
KEYS = "key wrong_key revoked_key"

# The table has a row for each method and each of these.
EVERYBODY = {"anon", "member", *OUTSIDERS.split(), "service", *KEYS.split()}
THINGS: Mapping[str, Callable[[World], Thing | AbstractContextManager[Thing]]] = {
    "nothing": lambda world: Thing(),
    "no UUID": lambda world: Thing("x"),
    "account": World.account,
    "no account": lambda world: Thing(uuid4(), user_id=world.tenant.user_id),
    "account, no user": lambda world: Thing(world.tenant.account_id, user_id=uuid4()),
    "deleted account": lambda world: world.deleted("public.accounts", world.second_account()),
    "left account": lambda world: world.account_with_keys(1),
    "full account": lambda world: world.account_with_keys(1000),
    "managed account": lambda world: world.managed_by_owners(world.account()),
    "key": World.key,
    "no key": lambda world: Thing(uuid4(), text="no key"),
    "deleted key": lambda world: world.deleted("api_keys_private.api_keys", world.key()),
    "revoked key": World.revoked_key,
    "managed key": lambda world: world.managed_by_owners(world.key()),
    "throttled key": World.throttled_key,
    "segment": World.segment,
    "no segment": lambda world: Thing(uuid4()),
    "deleted segment": lambda world: world.segment(deleted=True),
    "pending job": lambda world: world.job("pending"),
    "processing job": lambda world: world.job("processing"),
    "completed job": lambda world: world.job("completed"),
    "failed job": lambda world: world.job("failed"),
    "no job": lambda world: Thing(uuid4()),
    "deleted job": lambda world: world.deleted(
        "public.enrichment_tracking", world.job("processing")
    ),
    "stopped job": World.stopped_job,
    "left job": World.left_job,
    "job, no rich": lambda world: without_rich(world.job("pending")),
    "token": lambda world: Thing(text="a.b.c"),
    "no environment": lambda world: without_environment(),
}
