"""The public types, for mypy and pyright. Never run."""

import asyncio
import ssl
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Annotated, assert_type
from uuid import UUID

import supabase
from fastapi import FastAPI, WebSocket
from pydantic import JsonValue, SecretStr
from starlette.requests import Request

from audiencelab_sdk import (
    UNSET,
    ApiKey,
    ApiKeyDetails,
    ApiKeyEvent,
    ApiKeyVerification,
    APIStatusError,
    APITimeoutError,
    AsyncAudienceLab,
    AsyncEnrichmentRun,
    AsyncKeyAuthenticator,
    AsyncPage,
    AsyncPages,
    AsyncProgress,
    AsyncUsageRecorder,
    AudienceLab,
    AudienceLabError,
    AuthenticatedApiKey,
    CreatedApiKey,
    CustomColumn,
    EnrichmentChunkError,
    EnrichmentFailedError,
    EnrichmentJob,
    EnrichmentRecordError,
    EnrichmentRun,
    EnrichmentStatus,
    EnrichmentType,
    InvalidApiKey,
    KeyAuthenticator,
    LoggedRequest,
    NewSegment,
    Outcome,
    Page,
    Progress,
    RateLimitError,
    RejectedApiKey,
    RejectionCode,
    RequestAttempt,
    Scope,
    Segment,
    SegmentFilter,
    SourceType,
    UnknownFilter,
    UnreadableRow,
    UsageCount,
    UsageEvent,
    UsageLog,
    UsageLogError,
    UsageRecorder,
    UsageStatistics,
    ValidApiKey,
)
from audiencelab_sdk.fastapi import ApiKeyAuth, Caller, install_error_handlers
from audiencelab_sdk.starlette import ApiKeyAuth as StarletteApiKeyAuth
from audiencelab_sdk.testing import AsyncFakeAuthenticator, FakeAuthenticator, authenticated_key


def sync_client(account: UUID) -> None:
    with AudienceLab("https://a.supabase.co", SecretStr("key"), timeout=3) as client:
        assert_type(client, AudienceLab)
    assert_type(AudienceLab.from_env(max_retries=0), AudienceLab)
    base = supabase.create_client("https://a.supabase.co", "key")
    assert_type(AudienceLab.from_supabase(base, timeout=3), AudienceLab)
    assert_type(client.as_user("token"), AudienceLab)
    assert_type(client.with_options(timeout=3, max_retries=0), AudienceLab)
    as_key = client.as_api_key(account, jwt_secret="secret", expires_in=timedelta(minutes=1))
    assert_type(as_key, AudienceLab)
    assert_type(client.as_api_key(str(account), signing_key={"kty": "EC"}), AudienceLab)
    assert_type(client.as_api_key(account, signing_key=SecretStr("pem"), kid="a"), AudienceLab)
    assert_type(client.url, str)

    read = Scope(entity_type="segment", entity_id="*", action="read")
    created = client.api_keys.create(
        account, "name", scopes=[read], expires_at=datetime.now(UTC) + timedelta(days=1)
    )
    assert_type(created, CreatedApiKey)
    assert_type(created.key, SecretStr)
    assert_type(created.expires_at, datetime | None)
    page = client.api_keys.list(str(account), page_size=10)
    assert_type(page, Page[ApiKey])
    assert_type(page.items, list[ApiKey])
    assert_type(page.next(), Page[ApiKey] | None)
    assert_type(page.cursor, str | None)
    client.api_keys.list(account, cursor=page.cursor)
    for key in page:
        assert_type(key, ApiKey)
        assert_type(key.scopes, tuple[Scope, ...])
    verification = client.api_keys.verify(created.key)
    assert_type(verification, ValidApiKey | InvalidApiKey)
    annotated: ApiKeyVerification = verification
    if annotated:
        assert_type(annotated.account_id, UUID)
    if verification:
        assert_type(verification, ValidApiKey)
        assert_type(verification.api_key_id, UUID)
        assert_type(verification.account_id, UUID)
    else:
        assert_type(verification.error, str)
    assert_type(client.api_keys.log_usage(account, endpoint="/", method="GET"), UsageLog)
    assert_type(as_key.api_keys.has_scope("segment", "*", "read"), bool)
    assert_type(as_key.api_keys.account_id(), UUID | None)
    assert_type(client.api_keys.revoke_all_of(account, str(account)), int)
    assert_type(page.unreadable, list[UnreadableRow])
    assert_type(client.enrichment.reset_progress(account, "u"), EnrichmentJob)
    assert_type(client.enrichment.retry(account, reset=True), EnrichmentJob)
    assert_type(client.enrichment.fail_stale(timedelta(minutes=10)), int)
    assert_type(client.enrichment.list(stale_for=timedelta(minutes=10)), Page[EnrichmentJob])
    assert_type(client.enrichment.track(account, unit="u", on_error="leave"), Progress)


def segments_and_jobs(client: AudienceLab, account: UUID, log: UsageEvent) -> None:
    assert_type(client.api_keys.log_usage_batch([log]), list[Outcome[UsageLog]])
    assert_type(SegmentFilter.where("country") == "US", SegmentFilter)
    assert_type(SegmentFilter.where("age") >= 30, SegmentFilter)
    countries: list[str] = ["US", "CA"]
    stored: list[dict[str, str]] = [{"field": "a"}]
    assert_type(SegmentFilter.where("country").op("in", countries), SegmentFilter)
    client.segments.create(account, "n", source_type="audience", source_id="a", filters=stored)
    segment = client.segments.create(
        account,
        "name",
        source_type="audience",
        source_id="a",
        filters=[SegmentFilter.where("country") != "US", {"and": [1]}],
        custom_columns=[CustomColumn(field="a", header_name="A", type="number")],
        tags=["a"],
    )
    assert_type(segment, Segment)
    assert_type(segment.source_type, SourceType | str)
    assert_type(segment.tags, tuple[str, ...])
    client.segments.update(segment.id, description=None, filters=segment.filters)
    client.segments.update(segment.id, name=UNSET, custom_columns=segment.custom_columns)
    assert_type(segment.filters[0].field, str)
    assert_type(segment.custom_columns[0].header_name, str)
    for each in segment.filters:
        if isinstance(each, UnknownFilter):
            assert_type(each.raw, JsonValue)
    assert_type(client.segments.list(tags=["a"]), Page[Segment])
    assert_type(client.segments.restore(segment.id), Segment)
    new = NewSegment(name="n", source_type=SourceType.AUDIENCE, source_id="a", tags=["a"])
    for outcome in client.segments.create_many(account, [new]):
        assert_type(outcome, Outcome[Segment])
        assert_type(outcome.unwrap(), Segment)

    job = client.enrichment.create(account, account, EnrichmentType.EMAIL, metadata={"a": 1})
    assert_type(job, EnrichmentJob)
    assert_type(job.status, EnrichmentStatus | str)
    assert_type(job.enrichment_type, EnrichmentType | str)
    assert_type(job.is_final, bool)
    assert_type(job.error, str | None)
    assert_type(client.enrichment.list(status="pending"), Page[EnrichmentJob])
    assert_type(client.enrichment.wait(job.id, on_progress=print), EnrichmentJob)
    with client.enrichment.track(job) as progress:
        assert_type(progress, Progress)
        progress.advance(5, failed=1)


async def async_segments_and_jobs(client: AsyncAudienceLab, segment: UUID) -> None:
    assert_type(await client.segments.get(segment), Segment)
    async for each in await client.segments.list():
        assert_type(each, Segment)
    async for other in client.segments.list():
        assert_type(other, Segment)
    assert_type(client.segments.list(), AsyncPages[Segment])
    task = asyncio.create_task(client.segments.list())
    assert_type(await task, AsyncPage[Segment])
    assert_type(await client.enrichment.start(segment), EnrichmentJob)
    async with client.enrichment.track(segment) as progress:
        assert_type(progress, AsyncProgress)
        await progress.advance()


def find_email(record: int) -> str | None:
    return str(record)


async def find_email_later(record: int) -> str | None:
    return str(record)


def runs(client: AudienceLab, job: EnrichmentJob, executor: Executor) -> None:
    with client.enrichment.run(job, [1, 2], find_email, executor=executor) as outcomes:
        assert_type(outcomes, EnrichmentRun[str | None])
        for outcome in outcomes:
            assert_type(outcome, Outcome[str | None])
            assert_type(outcome.unwrap(), str | None)
        assert_type(next(outcomes), Outcome[str | None])
    assert_type(outcomes.job, EnrichmentJob)
    assert_type(outcomes.processed, int)
    assert_type(outcomes.unit, str)
    client.enrichment.run(job, ["a"], len, executor=ProcessPoolExecutor, on_error="leave")
    client.enrichment.run(job, ["a"], find_email)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue, reportArgumentType]


async def async_runs(client: AsyncAudienceLab, job: UUID, executor: Executor) -> None:
    async with client.enrichment.run(job, [1, 2], find_email_later) as outcomes:
        assert_type(outcomes, AsyncEnrichmentRun[str | None])
        async for outcome in outcomes:
            assert_type(outcome, Outcome[str | None])
    async with client.enrichment.run(job, [1], find_email, executor=executor) as plain:
        assert_type(plain, AsyncEnrichmentRun[str | None])
    client.enrichment.run(job, [1], find_email)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue, reportArgumentType]


async def async_client(account: UUID) -> None:
    async with AsyncAudienceLab("https://a.supabase.co", "key") as client:
        assert_type(client, AsyncAudienceLab)
    assert_type(AsyncAudienceLab.from_env(), AsyncAudienceLab)
    base = await supabase.create_async_client("https://a.supabase.co", "key")
    assert_type(AsyncAudienceLab.from_supabase(base), AsyncAudienceLab)
    assert_type(client.as_user("token"), AsyncAudienceLab)
    assert_type(client.with_options(timeout=3.5), AsyncAudienceLab)
    assert_type(await client.api_keys.create(account, "name"), CreatedApiKey)
    page = await client.api_keys.list(account)
    assert_type(page, AsyncPage[ApiKey])
    assert_type(await page.next(), AsyncPage[ApiKey] | None)
    async for key in page:
        assert_type(key, ApiKey)
    assert_type(await client.api_keys.verify("sk_"), ValidApiKey | InvalidApiKey)
    assert_type(await client.api_keys.log_usage(account, endpoint="/", method="GET"), UsageLog)
    assert_type(await client.api_keys.has_scope("segment", "*", "read"), bool)
    assert_type(await client.api_keys.account_id(), UUID | None)


def narrowed(verification: ApiKeyVerification) -> UUID | str:
    if verification:
        return assert_type(verification.account_id, UUID)
    return assert_type(verification.error, str)


def observed(attempt: RequestAttempt) -> None:
    assert_type(attempt.status, int | None)
    assert_type(attempt.duration, float)
    assert_type(attempt.error, type[AudienceLabError] | None)


async def observe(attempt: RequestAttempt) -> None:
    observed(attempt)


def options() -> None:
    context = ssl.create_default_context()
    AudienceLab("https://a.supabase.co", "key", on_response=observed, verify=context)
    AsyncAudienceLab.from_env(on_response=observe, proxy="http://a:1", headers={"X-A": "b"})


def life_cycle(client: AudienceLab, account: UUID) -> None:
    caller = client.api_keys.authenticate("sk_", "192.0.2.1")
    assert_type(caller, AuthenticatedApiKey | RejectedApiKey)
    if caller:
        assert_type(caller.account_id, UUID)
        assert_type(caller.allows("segment", "*", "read"), bool)
    else:
        assert_type(caller.code, RejectionCode | str)
    assert_type(client.api_keys.get(account), ApiKeyDetails)
    assert_type(client.api_keys.update(account, expires_at=None), ApiKeyDetails)
    assert_type(client.api_keys.rotate(account, overlap=timedelta(hours=1)), CreatedApiKey)
    assert_type(client.api_keys.issue(account, "n", created_by=account), CreatedApiKey)
    assert_type(client.api_keys.log(account), Page[LoggedRequest])
    assert_type(client.api_keys.events(account), Page[ApiKeyEvent])
    now = datetime.now(UTC)
    assert_type(client.api_keys.usage(account, start=now, end=now), list[UsageCount])
    assert_type(client.api_keys.purge_logs(now, on_progress=print), int)


def errors(error: APIStatusError, limit: RateLimitError, late: APITimeoutError) -> None:
    assert_type(error.status, int)
    assert_type(error.code, str | None)
    assert_type(error.message, str)
    assert_type(error.request_id, str | None)
    assert_type(limit.retry_after, float | None)
    assert_type(late.request_sent, bool)
    assert_type(UsageLogError("why").code, str | None)


def failure(
    error: EnrichmentFailedError, record: EnrichmentRecordError, chunk: EnrichmentChunkError
) -> None:
    assert_type(error.job, EnrichmentJob)
    assert_type(record.index, int)
    assert_type(chunk.attempts, int)


def backend(client: AudienceLab, event: UsageEvent) -> None:
    caller = KeyAuthenticator(client, max_age=10).authenticate(SecretStr("sk_"), "192.0.2.1")
    assert_type(caller, AuthenticatedApiKey | RejectedApiKey)
    with UsageRecorder(client) as recorder:
        assert_type(recorder, UsageRecorder)
        recorder.record(event)
        assert_type(recorder.flush(), bool)
        assert_type(recorder.statistics, UsageStatistics)


async def async_backend(client: AsyncAudienceLab, event: UsageEvent) -> None:
    caller = await AsyncKeyAuthenticator(client).authenticate("sk_")
    assert_type(caller, AuthenticatedApiKey | RejectedApiKey)
    async with AsyncUsageRecorder(client) as recorder:
        assert_type(recorder, AsyncUsageRecorder)
        recorder.record(event)
        assert_type(await recorder.flush(), bool)


def handlers(client: AsyncAudienceLab) -> None:
    auth = ApiKeyAuth(client, usage=True, jwt_secret="secret", limit="100/minute")
    app = FastAPI(lifespan=auth.lifespan)
    install_error_handlers(app)

    async def read(
        segment: UUID, caller: Annotated[Caller, auth.require("segment", "read", id="segment")]
    ) -> Segment:
        assert_type(caller, Caller)
        assert_type(caller.account_id, UUID)
        assert_type(caller.scopes, tuple[Scope, ...])
        assert_type(caller.client, AsyncAudienceLab)
        return await caller.client.segments.get(segment)

    async def watch(websocket: WebSocket, caller: Annotated[Caller, auth.require_key()]) -> None:
        assert_type(caller.allows("segment", "*", "read"), bool)

    app.add_api_route("/segments/{segment}", read)
    app.add_api_websocket_route("/watch", watch)


async def starlette_handler(auth: StarletteApiKeyAuth, request: Request) -> None:
    assert_type(await auth.check(request, "segment", "read", id="segment_id"), Caller)
    auth.authenticator = AsyncKeyAuthenticator(AsyncAudienceLab.from_env())
    auth.authenticator = AsyncFakeAuthenticator({"sk_": authenticated_key()})
    assert_type(FakeAuthenticator().authenticate("sk_"), AuthenticatedApiKey | RejectedApiKey)
