"""A call of each method, with the object that its arguments name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from audiencelab_sdk import AsyncAudienceLab, AudienceLab, UsageEvent
from tests.e2e._scenarios import NEW_SEGMENT, ODD_SCOPE, Thing

if TYPE_CHECKING:
    from tests.e2e.conftest import Client


START = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2025, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Arguments:
    positional: tuple[Any, ...]
    options: dict[str, Any]


def given(*positional: Any, **options: Any) -> Arguments:
    return Arguments(positional, options)


def event(key: Thing) -> UsageEvent:
    return UsageEvent(api_key_id=key.id, endpoint="/", method="GET")


# The arguments of each method. Words in parentheses distinguish several calls of one method.
ARGUMENTS: Mapping[str, Callable[[Thing], Arguments]] = {
    "api_keys.create": lambda account: given(account.id, "n"),
    "api_keys.create(odd scope)": lambda account: given(account.id, "n", scopes=[ODD_SCOPE]),
    "api_keys.list": lambda account: given(account.id),
    "api_keys.issue": lambda account: given(account.id, "n", created_by=account.user_id),
    "api_keys.get": lambda key: given(key.id),
    "api_keys.update": lambda key: given(key.id, name="new"),
    "api_keys.update(nothing)": lambda key: given(key.id),
    "api_keys.update(odd scope)": lambda key: given(key.id, scopes=[ODD_SCOPE]),
    "api_keys.disable": lambda key: given(key.id),
    "api_keys.enable": lambda key: given(key.id),
    "api_keys.rotate": lambda key: given(key.id),
    "api_keys.events": lambda account: given(account.id),
    "api_keys.events(no key)": lambda account: given(account.id, api_key_id=uuid4()),
    "api_keys.log": lambda account: given(account.id),
    "api_keys.log(no key)": lambda account: given(account.id, api_key_id=uuid4()),
    "api_keys.purge_logs": lambda _: given(START),
    "api_keys.usage": lambda account: given(account.id, start=START, end=END),
    "api_keys.usage(no key)": lambda account: given(
        account.id, start=START, end=END, api_key_id=uuid4()
    ),
    "api_keys.usage(backwards)": lambda account: given(account.id, start=END, end=START),
    "api_keys.authenticate": lambda key: given(key.text),
    "api_keys.authenticate(bytes)": lambda key: given(key.text.encode()),
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
    "enrichment.report_progress": lambda job: given(job.id, unit="u", processed=1),
    "enrichment.reset_progress": lambda job: given(job.id),
    "enrichment.retry": lambda job: given(job.id),
    "enrichment.fail_stale": lambda _: given(timedelta(minutes=10)),
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
        raise AssertionError("advance did not raise")

    client.track(job.id, work)


def run(client: Client, job: Thing) -> None:
    client.run(job.id, job.meanwhile)


def run_without_threads(client: Client, job: Thing) -> None:
    with ThreadPoolExecutor() as threads:
        client.run(job.id, threads.shutdown, executor=threads, chunk_size=5)


def other_client(client: Any) -> Any:
    """Return a client of the other kind."""
    kind = AsyncAudienceLab if isinstance(client.client, AudienceLab) else AudienceLab
    return kind(client.client.url, "key")


def authenticate(client: Client, *texts: str) -> None:
    """Authenticate texts one after the other, of which the first exhausts the bound."""
    authenticator = client.authenticator(max_lookups=0.001)
    for text in texts:
        client.wait_for(authenticator.authenticate(text))


# Calls of other methods than those of a resource, and calls in several steps.
SPECIAL: Mapping[str, Callable[[Client, Thing], object]] = {
    "enrichment.track": track,
    "enrichment.track(show)": lambda client, job: client.track(job.id, lambda _: None, show=True),
    "enrichment.run": run,
    "enrichment.run(show)": lambda client, job: client.run(job.id, lambda: None, show=True),
    "enrichment.run(0)": lambda client, job: client.run(job.id, lambda: None, chunk_size=0),
    "enrichment.run(no threads)": run_without_threads,
    "EnrichmentRun.job": lambda client, job: (
        client.client.enrichment.run(job.id, [], str, executor=ThreadPoolExecutor).job
    ),
    "Progress.advance": advance_late,
    "Progress.advance(-1)": lambda client, job: client.track(job.id, lambda advance: advance(-1)),
    "enrichment.track(no unit)": lambda client, job: client.track(
        job.id, lambda _: None, complete=False
    ),
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
    "AudienceLab.as_api_key(no secret)": lambda client, key: client.as_api_key(key.id),
    "AudienceLab.as_api_key(public key)": lambda client, key: client.as_api_key(
        key.id, signing_key={"kty": "EC", "crv": "P-256"}
    ),
    "KeyAuthenticator.__init__": lambda client, _: client.authenticator(max_age=-1),
    "KeyAuthenticator.__init__(other client)": lambda client, _: type(client.authenticator())(
        other_client(client)
    ),
    "KeyAuthenticator.authenticate": lambda client, _: authenticate(client, "sk_aaaaaaaa"),
    "KeyAuthenticator.authenticate(two)": lambda client, _: authenticate(
        client, "sk_aaaaaaaa", "sk_bbbbbbbb"
    ),
    "UsageRecorder.__init__": lambda client, _: client.recorder(max_queued=0),
    "UsageRecorder.__init__(other client)": lambda client, _: type(client.recorder())(
        other_client(client)
    ),
    "UsageRecorder.record": lambda client, _: client.recorder().record(cast("Any", "no event")),
    "AudienceLab.with_options": lambda client, _: client.with_options(timeout=1),
    "AudienceLab.with_options(0)": lambda client, _: client.with_options(timeout=0),
}
