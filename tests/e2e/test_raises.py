"""Which error each method raises, by who calls it and by what its arguments name.

The docstrings are compared with the same table. The rule: a method raises what its own ``Raises:``
names, and what the docstring of its resource class names for all of its methods. A base class
documents none of its subclasses, except where a method passes on the errors of others. Errors of
the connection and of the server depend on neither the caller nor the arguments: the class names
them, and they are not in the table.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

import audiencelab_sdk
from audiencelab_sdk import (
    APIConnectionError,
    APIStatusError,
    AudienceLab,
    AudienceLabError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConflictError,
    EnrichmentFailedError,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    InvalidRequestError,
    NewSegment,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    Scope,
    ServerError,
    SourceType,
    UnexpectedResponseError,
    UsageEvent,
    UsageLogError,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.e2e._project import Project
    from tests.e2e.conftest import Client

EVERYTHING = Scope(entity_type="*", entity_id="*", action="*")
READ_SEGMENTS = Scope(entity_type="segment", entity_id="*", action="read")
WRITE_SEGMENTS = Scope(entity_type="segment", entity_id="*", action="write")
READ_JOBS = Scope(entity_type="enrichment", entity_id="*", action="read")
WRITE_JOBS = Scope(entity_type="enrichment", entity_id="*", action="write")
ODD_SCOPE = Scope.model_validate({**EVERYTHING.model_dump(), "note": "x"})
NEW_SEGMENT = NewSegment(name="n", source_type=SourceType.AUDIENCE, source_id="a")


@dataclass(frozen=True)
class Thing:
    """What a call names.

    Attributes:
        id: The id of an account, key, segment or job.
        user_id: The user who created it, or is to create it.
        text: The text of a key, or of a setting.
        meanwhile: What happens during the call.
    """

    id: Any = None
    user_id: Any = None
    text: str = ""
    meanwhile: Callable[[], object] = lambda: None


class World:
    """An account, its callers, and the things in it."""

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
        # Not with the owner, whose keys must outlive `revoke_all_of`.
        return Thing(self.tenant.account_id, user_id=self.colleague_id)

    def second_account(self) -> Thing:
        """Another account of the tenant's owner, who leaves it meanwhile."""
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
        """A text with the prefix of an old key, after too many others with that prefix."""
        prefix = f"sk_{uuid4().hex[:4]}"
        self.project.sql(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by)"
            " values (%s, 'old', %s, '$2a$12$' || gen_random_uuid(), %s)",
            *(self.tenant.account_id, prefix, self.tenant.user_id),
        )
        # A period has 15 slots of 2 seconds. It must not end before the call, and the text's own
        # slot must not come.
        while (slot := self._slot()) % 15 > 11:
            time.sleep(1)
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
    "wrong_key": lambda world: world.as_key(world.key(WRITE_SEGMENTS)),
    "revoked_key": lambda world: world.as_key(world.revoked_key()),
    "expired": lambda world: world.as_user(world.tenant.user_id, expires_in=-600),
    "forged": lambda world: world.backend.as_user("not.a.token"),
}
OUTSIDERS = "stranger removed"
KEYS = "key wrong_key revoked_key"
# The table says of each method what these get from it.
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


@dataclass(frozen=True)
class Arguments:
    positional: tuple[Any, ...]
    options: dict[str, Any]


def given(*positional: Any, **options: Any) -> Arguments:
    return Arguments(positional, options)


def event(key: Thing) -> UsageEvent:
    return UsageEvent(api_key_id=key.id, endpoint="/", method="GET")


# What each method is called with. Words in parentheses tell apart several ways to call one.
ARGUMENTS: Mapping[str, Callable[[Thing], Arguments]] = {
    "api_keys.create": lambda account: given(account.id, "n"),
    "api_keys.create(odd scope)": lambda account: given(account.id, "n", scopes=[ODD_SCOPE]),
    "api_keys.list": lambda account: given(account.id),
    "api_keys.revoke": lambda key: given(key.id),
    "api_keys.revoke_all_of": lambda account: given(account.user_id, account.id),
    "api_keys.revoke_all_of(user)": lambda account: given(account.user_id),
    "api_keys.verify": lambda key: given(key.text),
    "api_keys.verify(bytes)": lambda key: given(key.text.encode()),
    "api_keys.log_usage": lambda key: given(key.id, endpoint="/", method="GET"),
    "api_keys.log_usage_batch": lambda key: given([event(key)]),
    "api_keys.log_usage_batch(int)": lambda _: given(1),
    "api_keys.has_scope": lambda _: given("segment", "*", "read"),
    "api_keys.has_scope(blank)": lambda _: given("segment", "*", " "),
    "api_keys.account_id": lambda _: given(),
    "segments.create": lambda account: given(
        account.id, "n", source_type="audience", source_id="a"
    ),
    "segments.create(odd filter)": lambda account: given(
        account.id, "n", source_type="audience", source_id="a", filters=[5]
    ),
    "segments.create_many": lambda account: given(account.id, [NEW_SEGMENT]),
    "segments.create_many(created_by)": lambda account: given(
        account.id, [NEW_SEGMENT], created_by=account.user_id
    ),
    "segments.get": lambda segment: given(segment.id),
    "segments.list": lambda account: given(account_id=account.id),
    "segments.update": lambda segment: given(segment.id, name="new"),
    "segments.update(nothing)": lambda segment: given(segment.id),
    "segments.delete": lambda segment: given(segment.id),
    "segments.restore": lambda segment: given(segment.id),
    "enrichment.create": lambda account: given(account.id, uuid4(), "email"),
    "enrichment.create(created_by)": lambda account: given(
        account.id, uuid4(), "email", created_by=account.user_id
    ),
    "enrichment.get": lambda job: given(job.id),
    "enrichment.list": lambda account: given(account_id=account.id),
    "enrichment.start": lambda job: given(job.id),
    "enrichment.report_progress": lambda job: given(job.id, worker="w", processed=1),
    "enrichment.reset_progress": lambda job: given(job.id),
    "enrichment.complete": lambda job: given(job.id),
    "enrichment.fail": lambda job: given(job.id, "no budget"),
    "enrichment.wait": lambda job: given(
        job.id, timeout=0.1, poll_interval=0.05, on_progress=lambda _: job.meanwhile()
    ),
    "enrichment.wait(show)": lambda job: given(job.id, show=True),
}


def call(name: str, client: Client, thing: Thing) -> Any:
    arguments = ARGUMENTS[name](thing)
    return client.call(name.partition("(")[0], *arguments.positional, **arguments.options)


def unwrap(name: str, client: Client, thing: Thing) -> None:
    (outcome,) = call(name, client, thing)
    outcome.unwrap()


def next_page(client: Client, account: Thing) -> None:
    page = client.call("api_keys.list", account.id, page_size=1)
    account.meanwhile()
    client.next_page(page)


def track(client: Client, job: Thing) -> None:
    def work(_: Callable[..., None]) -> None:
        job.meanwhile()

    client.track(job.id, work)


def advance_late(client: Client, job: Thing) -> None:
    def work(advance: Callable[..., None]) -> None:
        job.meanwhile()
        time.sleep(1.1)  # until the next report is due
        advance()
        raise AssertionError("it went on")

    client.track(job.id, work)


# What is not the call of one method of a resource.
SPECIAL: Mapping[str, Callable[[Client, Thing], object]] = {
    "enrichment.track": track,
    "enrichment.track(show)": lambda client, job: client.track(job.id, lambda _: None, show=True),
    "Progress.advance": advance_late,
    "Progress.advance(-1)": lambda client, job: client.track(job.id, lambda advance: advance(-1)),
    "Progress.job": lambda client, job: client.client.enrichment.track(job.id).job,
    "Page.next": next_page,
    "Outcome.unwrap(log_usage_batch)": partial(unwrap, "api_keys.log_usage_batch"),
    "Outcome.unwrap(create_many)": partial(unwrap, "segments.create_many"),
    "Outcome.unwrap(created_by)": partial(unwrap, "segments.create_many(created_by)"),
    "AudienceLab.__init__": lambda client, _: type(client.client)(client.client.url, ""),
    "AudienceLab.from_env": lambda client, _: type(client.client).from_env(),
    "AudienceLab.from_supabase": lambda client, it: type(client.client).from_supabase(it.id),
    "AudienceLab.as_user": lambda client, token: client.client.as_user(token.text),
    "AudienceLab.as_api_key": lambda client, key: client.as_api_key(key.id, "x" * 32),
    "AudienceLab.as_api_key(short secret)": lambda client, key: client.as_api_key(key.id, "x"),
    "AudienceLab.with_options": lambda client, _: client.with_options(timeout=1),
    "AudienceLab.with_options(0)": lambda client, _: client.with_options(timeout=0),
}


@dataclass(frozen=True)
class Refusal:
    """An error, and how its message or its hint begins."""

    error: type[AudienceLabError]
    status: int | None
    code: str | None
    begins: str


unauthenticated = partial(Refusal, AuthenticationError, 401)
denied = partial(Refusal, PermissionDeniedError, 403, "42501")
conflict = partial(Refusal, ConflictError, 409)
refused = partial(Refusal, InvalidRequestError, 400, "22023")
not_logged = partial(Refusal, UsageLogError, None, "23503")
invalid = partial(Refusal, InvalidArgumentError, None, None)
unusable = partial(Refusal, ConfigurationError, None, None)

ANONYMOUS = unauthenticated("42501", "permission denied for ")
EXPIRED = unauthenticated("PGRST303", "JWT expired")
FORGED = unauthenticated("PGRST301", "JWT ")
NOT_ITS_ROLE = denied("permission denied for ")
KEYS_ONLY = denied("Only an API key may ask this: call it on client.as_api_key")
NO_MEMBER = denied("the account does not exist, or you are not a member of it")
NO_MANAGER = denied("only members with the account role owner may manage the API keys")
NO_ACCOUNT_NAMED = denied("only service_role may revoke API keys in all accounts")
NO_KEY = denied("the API key does not exist, or you are not a member of its account")
DEAD_KEY = denied("the API key that the request runs as is revoked or expired")
NO_LOGGED_KEY = not_logged('insert or update on table "api_key_logs" violates foreign key')
FOREIGN_ROW = denied("new row violates row-level security policy")
NO_CREATOR = invalid("created_by is missing, and this client acts as no user")
NO_PARENT = conflict("23503", "insert or update on table ")
UNSEEN_SEGMENT = Refusal(NotFoundError, 406, "PGRST116", "there is no such segment")
NO_SEGMENT = Refusal(NotFoundError, 404, "PT404", "the segment does not exist, or you are not")
UNSEEN_JOB = Refusal(NotFoundError, 406, "PGRST116", "there is no such enrichment job")
NO_JOB = Refusal(NotFoundError, 404, "PT404", "the enrichment job does not exist")
WRONG_STATUS = conflict(None, "an enrichment job that is ")
ENDED = conflict("PT409", "the enrichment job is already ")
READ_ONLY = Refusal(PermissionDeniedError, 403, None, "you may read this enrichment job")
FULL = conflict("PT409", "the account has 1000 live API keys")
THROTTLED = Refusal(RateLimitError, 429, "PT429", "too many invalid API keys with this prefix")
FAILED = Refusal(EnrichmentFailedError, None, None, "enrichment job ")
TIMED_OUT = Refusal(EnrichmentTimeoutError, None, None, "enrichment job ")
NO_RICH = unusable("a progress bar needs rich")
RETURNS = None

# A call, the thing that it names, the callers, and what they get.
Table = list[tuple[str, str, str, Refusal | None]]

API_KEYS: Table = [
    ("api_keys.create", "account", "member junior", RETURNS),
    ("api_keys.create", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.create", "account", f"service {KEYS}", NOT_ITS_ROLE),
    ("api_keys.create", "account", "anon", ANONYMOUS),
    ("api_keys.create", "account", "expired", EXPIRED),
    ("api_keys.create", "account", "forged", FORGED),
    ("api_keys.create", "no account", "member", NO_MEMBER),
    ("api_keys.create", "deleted account", "member", NO_MEMBER),
    ("api_keys.create", "managed account", "member", RETURNS),
    ("api_keys.create", "managed account", "junior", NO_MANAGER),
    ("api_keys.create", "full account", "member", FULL),
    ("api_keys.create", "no UUID", "member", invalid("account_id must be a UUID")),
    ("api_keys.create(odd scope)", "account", "member", refused("scopes[0] has an unknown field")),
    ("api_keys.list", "account", "member junior", RETURNS),
    ("api_keys.list", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.list", "account", f"service {KEYS}", NOT_ITS_ROLE),
    ("api_keys.list", "account", "anon", ANONYMOUS),
    ("api_keys.list", "no account", "member", NO_MEMBER),
    ("api_keys.list", "deleted account", "member", NO_MEMBER),
    ("api_keys.list", "managed account", "junior", RETURNS),
    ("api_keys.revoke", "key", "member junior", RETURNS),
    ("api_keys.revoke", "key", OUTSIDERS, NO_KEY),
    ("api_keys.revoke", "key", f"service {KEYS}", NOT_ITS_ROLE),
    ("api_keys.revoke", "key", "anon", ANONYMOUS),
    ("api_keys.revoke", "no key", "member", NO_KEY),
    ("api_keys.revoke", "deleted key", "member", NO_KEY),
    ("api_keys.revoke", "revoked key", "member", RETURNS),
    ("api_keys.revoke", "managed key", "member", RETURNS),
    ("api_keys.revoke", "managed key", "junior", NO_MANAGER),
    ("api_keys.revoke_all_of", "account", "member junior service", RETURNS),
    ("api_keys.revoke_all_of", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.revoke_all_of", "account", KEYS, NOT_ITS_ROLE),
    ("api_keys.revoke_all_of", "account", "anon", ANONYMOUS),
    ("api_keys.revoke_all_of", "account, no user", "member service", RETURNS),
    ("api_keys.revoke_all_of", "no account", "member", NO_MEMBER),
    ("api_keys.revoke_all_of", "no account", "service", RETURNS),
    ("api_keys.revoke_all_of", "managed account", "member", RETURNS),
    ("api_keys.revoke_all_of", "managed account", "junior", NO_MANAGER),
    ("api_keys.revoke_all_of(user)", "account", "service", RETURNS),
    ("api_keys.revoke_all_of(user)", "account", f"member {OUTSIDERS}", NO_ACCOUNT_NAMED),
    ("api_keys.verify", "key", "service key wrong_key", RETURNS),
    ("api_keys.verify", "key", "revoked_key", DEAD_KEY),
    ("api_keys.verify", "key", f"member {OUTSIDERS}", NOT_ITS_ROLE),
    ("api_keys.verify", "key", "anon", ANONYMOUS),
    ("api_keys.verify", "no key", "service member anon", RETURNS),
    ("api_keys.verify", "deleted key", "service", RETURNS),
    ("api_keys.verify", "revoked key", "service", RETURNS),
    ("api_keys.verify", "throttled key", "service", THROTTLED),
    ("api_keys.verify(bytes)", "key", "service", invalid("api_key must be a str or SecretStr")),
    ("api_keys.log_usage", "key", "service", RETURNS),
    ("api_keys.log_usage", "key", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("api_keys.log_usage", "key", "anon", ANONYMOUS),
    ("api_keys.log_usage", "no key", "service", NO_LOGGED_KEY),
    ("api_keys.log_usage", "deleted key", "service", NO_LOGGED_KEY),
    ("api_keys.log_usage", "revoked key", "service", RETURNS),
    ("api_keys.log_usage_batch", "key", f"member {OUTSIDERS} service {KEYS} anon", RETURNS),
    ("api_keys.log_usage_batch", "no key", "service", RETURNS),
    ("api_keys.log_usage_batch(int)", "nothing", "service", invalid("events must be a sequence")),
    ("Outcome.unwrap(log_usage_batch)", "key", "service", RETURNS),
    ("Outcome.unwrap(log_usage_batch)", "key", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("Outcome.unwrap(log_usage_batch)", "key", "anon", ANONYMOUS),
    ("Outcome.unwrap(log_usage_batch)", "no key", "service", NO_LOGGED_KEY),
    ("api_keys.has_scope", "nothing", KEYS, RETURNS),
    ("api_keys.has_scope", "nothing", f"member {OUTSIDERS} service", KEYS_ONLY),
    ("api_keys.has_scope", "nothing", "anon", ANONYMOUS),
    ("api_keys.has_scope(blank)", "nothing", "key", invalid("action is empty or blank")),
    ("api_keys.account_id", "nothing", KEYS, RETURNS),
    ("api_keys.account_id", "nothing", f"member {OUTSIDERS} service", KEYS_ONLY),
    ("api_keys.account_id", "nothing", "anon", ANONYMOUS),
    ("Page.next", "left account", "member", NO_MEMBER),
]

SEGMENTS: Table = [
    ("segments.create", "account", "member", RETURNS),
    ("segments.create", "account", OUTSIDERS, NO_MEMBER),
    ("segments.create", "account", f"service {KEYS}", NOT_ITS_ROLE),
    ("segments.create", "account", "anon", ANONYMOUS),
    ("segments.create", "no account", "member", NO_MEMBER),
    ("segments.create", "deleted account", "member", NO_MEMBER),
    ("segments.create(odd filter)", "account", "member", refused("filters must be an array of")),
    ("segments.create_many", "account", f"member {OUTSIDERS}", RETURNS),
    ("segments.create_many", "account", f"service {KEYS} anon", NO_CREATOR),
    ("segments.create_many(created_by)", "account", f"service {KEYS} anon", RETURNS),
    ("Outcome.unwrap(create_many)", "account", "member", RETURNS),
    ("Outcome.unwrap(create_many)", "account", OUTSIDERS, FOREIGN_ROW),
    ("Outcome.unwrap(create_many)", "no account", "member", FOREIGN_ROW),
    ("Outcome.unwrap(created_by)", "account", "member service", RETURNS),
    ("Outcome.unwrap(created_by)", "account", KEYS, NOT_ITS_ROLE),
    ("Outcome.unwrap(created_by)", "account", "anon", ANONYMOUS),
    ("Outcome.unwrap(created_by)", "no account", "service", NO_PARENT),
    ("Outcome.unwrap(created_by)", "account, no user", "service", NO_PARENT),
    ("segments.get", "segment", "member service key", RETURNS),
    ("segments.get", "segment", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_SEGMENT),
    ("segments.get", "segment", "anon", ANONYMOUS),
    ("segments.get", "segment", "expired", EXPIRED),
    ("segments.get", "segment", "forged", FORGED),
    ("segments.get", "no segment", "member service key", UNSEEN_SEGMENT),
    ("segments.get", "deleted segment", "member service key", UNSEEN_SEGMENT),
    ("segments.get", "no UUID", "member", invalid("segment_id must be a UUID")),
    ("segments.list", "account", f"member {OUTSIDERS} service {KEYS}", RETURNS),
    ("segments.list", "account", "anon", ANONYMOUS),
    ("segments.list", "no account", "member service", RETURNS),
    ("segments.update", "segment", "member service", RETURNS),
    ("segments.update", "segment", OUTSIDERS, UNSEEN_SEGMENT),
    ("segments.update", "segment", KEYS, NOT_ITS_ROLE),
    ("segments.update", "segment", "anon", ANONYMOUS),
    ("segments.update", "no segment", "member service", UNSEEN_SEGMENT),
    ("segments.update", "deleted segment", "member service", UNSEEN_SEGMENT),
    ("segments.update(nothing)", "segment", "member", invalid("there is nothing to update")),
    ("segments.delete", "segment", "member", RETURNS),
    ("segments.delete", "segment", OUTSIDERS, NO_SEGMENT),
    ("segments.delete", "segment", f"service {KEYS}", NOT_ITS_ROLE),
    ("segments.delete", "segment", "anon", ANONYMOUS),
    ("segments.delete", "no segment", "member", NO_SEGMENT),
    ("segments.delete", "deleted segment", "member", RETURNS),
    ("segments.restore", "deleted segment", "member", RETURNS),
    ("segments.restore", "deleted segment", OUTSIDERS, NO_SEGMENT),
    ("segments.restore", "deleted segment", f"service {KEYS}", NOT_ITS_ROLE),
    ("segments.restore", "deleted segment", "anon", ANONYMOUS),
    ("segments.restore", "no segment", "member", NO_SEGMENT),
    ("segments.restore", "segment", "member", RETURNS),
]

ENRICHMENT: Table = [
    ("enrichment.create", "account", "member", RETURNS),
    ("enrichment.create", "account", OUTSIDERS, FOREIGN_ROW),
    ("enrichment.create", "account", f"service {KEYS} anon", NO_CREATOR),
    ("enrichment.create", "no account", "member", FOREIGN_ROW),
    ("enrichment.create", "deleted account", "member", FOREIGN_ROW),
    ("enrichment.create(created_by)", "account", "member service", RETURNS),
    ("enrichment.create(created_by)", "account", KEYS, NOT_ITS_ROLE),
    ("enrichment.create(created_by)", "account", "anon", ANONYMOUS),
    ("enrichment.create(created_by)", "no account", "service", NO_PARENT),
    ("enrichment.create(created_by)", "account, no user", "service", NO_PARENT),
    ("enrichment.get", "pending job", "member service key read_key", RETURNS),
    ("enrichment.get", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.get", "pending job", "anon", ANONYMOUS),
    ("enrichment.get", "pending job", "expired", EXPIRED),
    ("enrichment.get", "pending job", "forged", FORGED),
    ("enrichment.get", "no job", "member service key", UNSEEN_JOB),
    ("enrichment.get", "deleted job", "member service key", UNSEEN_JOB),
    ("enrichment.get", "no UUID", "member", invalid("job_id must be a UUID")),
    ("enrichment.list", "account", f"member {OUTSIDERS} service {KEYS}", RETURNS),
    ("enrichment.list", "account", "anon", ANONYMOUS),
    ("enrichment.list", "no account", "member service", RETURNS),
    ("enrichment.start", "pending job", "member service key", RETURNS),
    ("enrichment.start", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.start", "pending job", "read_key", READ_ONLY),
    ("enrichment.start", "pending job", "anon", ANONYMOUS),
    ("enrichment.start", "processing job", "member service key", WRONG_STATUS),
    ("enrichment.start", "completed job", "member", WRONG_STATUS),
    ("enrichment.start", "failed job", "member", WRONG_STATUS),
    ("enrichment.start", "no job", "member service", UNSEEN_JOB),
    ("enrichment.start", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.report_progress", "pending job", "member service key", RETURNS),
    ("enrichment.report_progress", "pending job", f"{OUTSIDERS} wrong_key revoked_key", NO_JOB),
    ("enrichment.report_progress", "pending job", "read_key", NO_JOB),
    ("enrichment.report_progress", "pending job", "anon", ANONYMOUS),
    ("enrichment.report_progress", "processing job", "member", RETURNS),
    ("enrichment.report_progress", "completed job", "member service key", ENDED),
    ("enrichment.report_progress", "failed job", "member", ENDED),
    ("enrichment.report_progress", "no job", "member service", NO_JOB),
    ("enrichment.report_progress", "deleted job", "member", NO_JOB),
    ("enrichment.reset_progress", "processing job", "service", RETURNS),
    ("enrichment.reset_progress", "processing job", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("enrichment.reset_progress", "processing job", "anon", ANONYMOUS),
    ("enrichment.reset_progress", "completed job", "service", RETURNS),
    ("enrichment.reset_progress", "no job", "service", NO_JOB),
    ("enrichment.reset_progress", "deleted job", "service", NO_JOB),
    ("enrichment.complete", "processing job", "member service key", RETURNS),
    ("enrichment.complete", "processing job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.complete", "processing job", "read_key", READ_ONLY),
    ("enrichment.complete", "processing job", "anon", ANONYMOUS),
    ("enrichment.complete", "pending job", "member service key", WRONG_STATUS),
    ("enrichment.complete", "completed job", "member", WRONG_STATUS),
    ("enrichment.complete", "failed job", "member", WRONG_STATUS),
    ("enrichment.complete", "no job", "member service", UNSEEN_JOB),
    ("enrichment.complete", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.fail", "pending job", "member service key", RETURNS),
    ("enrichment.fail", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.fail", "pending job", "read_key", READ_ONLY),
    ("enrichment.fail", "pending job", "anon", ANONYMOUS),
    ("enrichment.fail", "processing job", "member", RETURNS),
    ("enrichment.fail", "completed job", "member service key", WRONG_STATUS),
    ("enrichment.fail", "failed job", "member", WRONG_STATUS),
    ("enrichment.fail", "no job", "member service", UNSEEN_JOB),
    ("enrichment.fail", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.wait", "completed job", "member service key read_key", RETURNS),
    ("enrichment.wait", "completed job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.wait", "completed job", "anon", ANONYMOUS),
    ("enrichment.wait", "pending job", "member", TIMED_OUT),
    ("enrichment.wait", "failed job", "member", FAILED),
    ("enrichment.wait", "left job", "member", UNSEEN_JOB),
    ("enrichment.wait", "no job", "member service", UNSEEN_JOB),
    ("enrichment.wait", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.wait(show)", "job, no rich", "member", NO_RICH),
    ("enrichment.track", "pending job", "member service key", RETURNS),
    ("enrichment.track", "pending job", f"{OUTSIDERS} wrong_key revoked_key read_key", NO_JOB),
    ("enrichment.track", "pending job", "anon", ANONYMOUS),
    ("enrichment.track", "processing job", "member", RETURNS),
    ("enrichment.track", "completed job", "member service key", ENDED),
    ("enrichment.track", "failed job", "member", ENDED),
    ("enrichment.track", "stopped job", "member", ENDED),
    ("enrichment.track", "left job", "member", NO_JOB),
    ("enrichment.track", "no job", "member service", NO_JOB),
    ("enrichment.track", "deleted job", "member", NO_JOB),
    ("enrichment.track(show)", "job, no rich", "member", NO_RICH),
    ("Progress.advance", "stopped job", "member", ENDED),
    ("Progress.advance", "left job", "member", NO_JOB),
    ("Progress.advance(-1)", "pending job", "member", invalid("processed must be from 0 to")),
    ("Progress.job", "pending job", "member", invalid("the job is known once the with block")),
]

CLIENT: Table = [
    ("AudienceLab.__init__", "nothing", "service", unusable("key is empty")),
    ("AudienceLab.from_env", "no environment", "service", unusable("set the environment variable")),
    ("AudienceLab.from_supabase", "nothing", "service", unusable("supabase_client must be a")),
    ("AudienceLab.as_user", "token", "service", RETURNS),
    ("AudienceLab.as_user", "nothing", "service", unusable("access_token is empty")),
    ("AudienceLab.as_api_key", "no key", "service", RETURNS),
    ("AudienceLab.as_api_key", "no UUID", "service", invalid("api_key_id must be a UUID")),
    ("AudienceLab.as_api_key(short secret)", "key", "service", invalid("jwt_secret must have")),
    ("AudienceLab.with_options", "nothing", "service", RETURNS),
    ("AudienceLab.with_options(0)", "nothing", "service", unusable("timeout must be more than 0")),
]


@dataclass(frozen=True)
class Row:
    call: str
    thing: str
    caller: str
    expected: Refusal | None

    @property
    def method(self) -> str:
        return self.call.partition("(")[0]

    def __str__(self) -> str:
        return f"{self.call} - {self.thing} - {self.caller}"


ROWS = [
    Row(name, thing, caller, expected)
    for name, thing, callers, expected in (*API_KEYS, *SEGMENTS, *ENRICHMENT, *CLIENT)
    for caller in callers.split()
]


@pytest.fixture(scope="session")
def world(project: Project, backend: Client, anon: Client) -> World:
    # Without retries: a throttled call would wait until it is let in.
    return World(project, backend.with_options(max_retries=0), anon.with_options(max_retries=0))


# Not on trio too: the errors do not depend on the event loop.
@pytest.mark.parametrize("colour", ["sync", "asyncio"], indirect=True, scope="session")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_caller_gets_the_expected_error(world: World, row: Row) -> None:
    client = world.caller(row.caller)
    run = SPECIAL.get(row.call) or partial(call, row.call)

    with world.thing(row.thing) as thing:
        if row.expected is None:
            run(client, thing)
            return
        with pytest.raises(row.expected.error) as caught:
            run(client, thing)

    found: Any = caught.value
    code = getattr(found, "code", None)
    assert type(found) is row.expected.error
    assert (getattr(found, "status", None), code) == (row.expected.status, row.expected.code)
    texts = [getattr(found, "message", str(found)), getattr(found, "hint", None) or ""]
    assert any(text.startswith(row.expected.begins) for text in texts), texts


def errors_named(pattern: str, text: str) -> set[type[AudienceLabError]]:
    return {getattr(audiencelab_sdk, name) for name in re.findall(pattern, text, re.MULTILINE)}


def raises(documented: object) -> set[type[AudienceLabError]]:
    """The classes that the section ``Raises:`` of a docstring names."""
    docstring = inspect.getdoc(documented) or ""
    section = re.search(r"^Raises:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    return errors_named(r"^ {4}(\w+):", section[1]) if section else set()


def members(owner: object) -> dict[str, Any]:
    names = set(dir(owner)) - set(dir(BaseModel)) - set(dir(Exception))
    return {name: getattr(owner, name) for name in sorted(names) if not name.startswith("_")}


with AudienceLab("http://127.0.0.1", "key") as example:
    RESOURCES = {
        name: value
        for name, value in members(example).items()
        if not callable(value) and type(value).__module__.startswith("audiencelab_sdk.")
    }
METHODS = {
    f"{name}.{method}": bound
    for name, resource in RESOURCES.items()
    for method, bound in members(resource).items()
    if callable(bound)
}
# The asynchronous classes raise the same.
CLASSES = {
    name: value
    for name, value in vars(audiencelab_sdk).items()
    if inspect.isclass(value) and not name.startswith("Async")
}
OWN = {
    **{name: raises(method) for name, method in METHODS.items()},
    **{f"{name}.__init__": raises(cls) for name, cls in CLASSES.items() if raises(cls)},
    **{
        f"{name}.{member}": raises(value)
        for name, cls in CLASSES.items()
        for member, value in members(cls).items()
        if raises(value)
    },
}
GENERAL = {
    name: errors_named(r"\b\w+Error\b", inspect.getdoc(type(resource)) or "")
    for name, resource in RESOURCES.items()
}
BASES = {AudienceLabError, APIStatusError}
# These raise what another method, or another call of the same, raises.
PASSING_ON = {"Page.next", "Outcome.unwrap"}
OUTAGES = {
    *(APIConnectionError, ClientClosedError, RateLimitError, ServerError, UnexpectedResponseError),
}


def raised_by(method: str) -> set[type[AudienceLabError]]:
    return {row.expected.error for row in ROWS if row.method == method and row.expected}


@pytest.mark.parametrize("method", METHODS)
def test_the_table_says_what_everybody_gets(method: str) -> None:
    callers = {row.caller for row in ROWS if row.method == method}
    assert callers >= EVERYBODY


@pytest.mark.parametrize("method", OWN)
def test_what_a_docstring_names_is_raised(method: str) -> None:
    raised = raised_by(method)
    if method in PASSING_ON:
        assert all(any(issubclass(error, base) for error in raised) for base in OWN[method])
    else:
        assert OWN[method] - raised == set()


@pytest.mark.parametrize("method", sorted({row.method for row in ROWS}))
def test_what_is_raised_is_in_the_docstring(method: str) -> None:
    if method in PASSING_ON:
        assert all(issubclass(error, tuple(OWN[method])) for error in raised_by(method))
    else:
        general = GENERAL.get(method.partition(".")[0], set())
        assert raised_by(method) - (OWN[method] | general) == set()


@pytest.mark.parametrize("resource", RESOURCES)
def test_what_a_class_names_for_all_of_its_methods_is_raised(resource: str) -> None:
    methods = [method for method in METHODS if method.startswith(f"{resource}.")]
    raised = {error for method in methods for error in raised_by(method)}
    assert GENERAL[resource] - BASES - OUTAGES - raised == set()
