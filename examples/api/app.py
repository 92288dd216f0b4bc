"""A web API with API keys: segments, enrichment jobs in the background, and usage by day.

Set SUPABASE_URL, SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET, and run::

    uvicorn --app-dir examples/api app:app
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import anyio
from fastapi import BackgroundTasks, FastAPI, Request
from pydantic import BaseModel

from audiencelab_sdk import (
    AsyncAudienceLab,
    EnrichmentJob,
    EnrichmentType,
    Segment,
    SourceType,
    UsageCount,
)
from audiencelab_sdk.fastapi import ApiKeyAuth, Caller, install_error_handlers

client = AsyncAudienceLab.from_env()
auth = ApiKeyAuth(client, usage=True, jwt_secret=os.environ["SUPABASE_JWT_SECRET"])
app = FastAPI(title="Segments", lifespan=auth.lifespan)
install_error_handlers(app)

AnyCaller = Annotated[Caller, auth.require_key()]
SegmentReader = Annotated[Caller, auth.require("segment", "read", id="segment_id")]
SegmentsReader = Annotated[Caller, auth.require("segment", "read")]
SegmentsWriter = Annotated[Caller, auth.require("segment", "write")]
JobReader = Annotated[Caller, auth.require("enrichment", "read", id="job_id")]
JobsWriter = Annotated[Caller, auth.require("enrichment", "write")]


class SegmentPage(BaseModel):
    """Some segments, and the cursor of the next page."""

    segments: list[Segment]
    cursor: str | None


class SegmentBody(BaseModel):
    """A segment to create."""

    name: str
    source_id: str


class JobBody(BaseModel):
    """An enrichment job to run."""

    audience_id: UUID
    records: list[str]


@app.get("/v1/segments")
async def list_segments(caller: SegmentsReader, cursor: str | None = None) -> SegmentPage:
    """List the segments of the key's account, newest first."""
    page = await caller.client.segments.list(page_size=50, cursor=cursor)
    return SegmentPage(segments=page.items, cursor=page.cursor)


@app.get("/v1/segments/{segment_id}")
async def read_segment(segment_id: UUID, caller: SegmentReader) -> Segment:
    """Return a segment. Row level security hides those of other accounts."""
    return await caller.client.segments.get(segment_id)


@app.post("/v1/segments", status_code=201)
async def create_segment(body: SegmentBody, caller: SegmentsWriter) -> Segment:
    """Create a segment in the key's account."""
    return await caller.client.segments.create(
        caller.account_id, body.name, source_type=SourceType.AUDIENCE, source_id=body.source_id
    )


@app.post("/v1/jobs", status_code=202)
async def start_job(body: JobBody, caller: JobsWriter, tasks: BackgroundTasks) -> EnrichmentJob:
    """Create an enrichment job, and run it after the response."""
    job = await caller.client.enrichment.create(
        caller.account_id,
        body.audience_id,
        EnrichmentType.EMAIL,
        total_records=len(body.records),
    )
    tasks.add_task(enrich, job, body.records)
    return job


@app.get("/v1/jobs/{job_id}")
async def read_job(job_id: UUID, caller: JobReader) -> EnrichmentJob:
    """Return a job with its progress."""
    return await caller.client.enrichment.get(job_id)


@app.get("/v1/usage")
async def usage(caller: AnyCaller, request: Request) -> list[UsageCount]:
    """Count the requests with this key by day, in the last 30 days."""
    if auth.recorder is not None and "now" in request.query_params:
        await auth.recorder.flush()  # include those of the last second
    now = datetime.now(UTC)
    return await client.api_keys.usage(
        caller.account_id, start=now - timedelta(days=30), end=now, api_key_id=caller.api_key_id
    )


async def enrich(job: EnrichmentJob, records: list[str]) -> None:
    """Do the work of a job. Its progress is reported once a second."""
    async with client.enrichment.track(job) as progress:
        for record in records:
            await anyio.sleep(0.001)
            await progress.advance(failed=0 if "@" in record else 1)
