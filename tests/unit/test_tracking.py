"""Counting records: no count is lost, whatever becomes of the reports."""

import json
import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
import respx

from audiencelab_sdk import (
    AsyncAudienceLab,
    AudienceLab,
    ConfigurationError,
    InvalidArgumentError,
    PermissionDeniedError,
    ServerError,
)
from audiencelab_sdk._resources import _tracking
from tests.unit._both_clients import settle
from tests.unit._samples import JOB, KEY, KEY_ID, URL


class Server:
    """Keeps a job as the database does; `trouble` answers in its place."""

    def __init__(self, api: respx.MockRouter) -> None:
        self.job = dict(JOB, status="processing")
        self.reports: list[tuple[int, int]] = []
        self.trouble: list[httpx.Response | Exception] = []
        api.post("/rpc/report_enrichment_progress").mock(side_effect=self.report)
        api.get("/enrichment_tracking").mock(side_effect=lambda _: self.answer(self.job))
        api.patch("/enrichment_tracking").mock(side_effect=self.change)

    def answer(self, data: Any) -> httpx.Response:
        return httpx.Response(200, json=data)

    def report(self, request: httpx.Request) -> httpx.Response:
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        body = json.loads(request.content)
        self.reports.append((body["p_processed"], body["p_failed"]))
        self.job["processed_records"] = body["p_processed"]
        return self.answer(self.job)

    def change(self, request: httpx.Request) -> httpx.Response:
        self.job |= json.loads(request.content)
        return self.answer([self.job])


@pytest.fixture
def server(api: respx.MockRouter) -> Server:
    return Server(api)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(_tracking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
async def client(client_class: Any) -> Any:
    client = client_class(URL, KEY, max_retries=0)
    yield client
    await settle(client.aclose() if client_class is AsyncAudienceLab else client.close())


async def track(client: Any, body: Callable[[Any], Any], **options: Any) -> Any:
    """Run `body`, a coroutine function, inside of the context manager of either client."""
    progress = client.enrichment.track(KEY_ID, **options)
    if isinstance(client, AudienceLab):
        with progress:
            await body(progress)
    else:
        async with progress:
            await body(progress)
    return progress


async def test_reports_go_at_most_once_a_second(
    client: Any, server: Server, clock: SimpleNamespace
) -> None:
    async def work(progress: Any) -> None:
        for _ in range(10):
            clock.now += 0.25
            await settle(progress.advance(2, failed=1))

    progress = await track(client, work, worker="w")
    assert server.reports == [(0, 0), (8, 4), (16, 8), (20, 10)]
    assert (progress.processed, progress.failed, progress.worker) == (20, 10, "w")
    assert progress.job.status == server.job["status"] == "completed"


@pytest.mark.parametrize(
    "trouble", [httpx.ReadTimeout("slow"), httpx.Response(503), httpx.Response(429)], ids=repr
)
async def test_a_lost_report_costs_no_count(
    client: Any,
    server: Server,
    clock: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    trouble: Any,
) -> None:
    async def work(progress: Any) -> None:
        server.trouble.append(trouble)
        clock.now += 1
        await settle(progress.advance(5))
        clock.now += 1
        await settle(progress.advance(5))

    with caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await track(client, work)
    assert server.reports == [(0, 0), (10, 0), (10, 0)]
    assert "the next one includes its totals" in caplog.text


async def test_a_refusal_ends_the_work(client: Any, server: Server, clock: SimpleNamespace) -> None:
    async def work(progress: Any) -> None:
        server.trouble.append(httpx.Response(403, json={"message": "no more"}))
        clock.now += 1
        await settle(progress.advance())
        pytest.fail("it went on")

    with pytest.raises(PermissionDeniedError, match="no more"):
        await track(client, work)
    assert server.job["status"] == "failed"
    assert server.job["metadata"] == {"a": 1, "error": "no more (HTTP 403)"}


async def test_the_last_report_has_to_arrive(client: Any, server: Server) -> None:
    async def work(progress: Any) -> None:
        await settle(progress.advance(5))
        server.trouble.append(httpx.Response(403))

    with pytest.raises(PermissionDeniedError):
        await track(client, work)
    assert server.job["status"] == "processing"


async def test_an_outage_at_the_end_costs_no_count(
    client: Any, server: Server, pauses: list[float]
) -> None:
    async def work(progress: Any) -> None:
        await settle(progress.advance(5))
        server.trouble += [httpx.Response(503)] * 3

    await track(client, work)
    assert server.reports[-1] == (5, 0)
    assert server.job["status"] == "completed"
    assert pauses == [1.0, 3.0, 7.0]


async def test_an_outage_that_lasts_ends_in_its_error(
    client: Any, server: Server, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracking, "time", SimpleNamespace(monotonic=lambda: 1000.0 + sum(pauses)))
    progress = client.enrichment.track(KEY_ID)

    async def work(_: Any) -> None:
        await settle(progress.advance(5))
        server.trouble += [httpx.Response(503)] * 100

    monkeypatch.setattr(client.enrichment, "track", lambda *_, **__: progress)
    with pytest.raises(ServerError):
        await track(client, work)
    assert 45 < sum(pauses) <= 60
    assert progress.processed == 5


async def test_a_completion_whose_answer_was_lost_is_no_conflict(
    client: Any, server: Server, api: respx.MockRouter, pauses: list[float]
) -> None:
    lost = [True]

    def complete(request: httpx.Request) -> httpx.Response:
        if server.job["status"] == "completed":
            return httpx.Response(200, json=[])
        answer = server.change(request)
        if lost.pop():
            raise httpx.ReadError("")
        return answer

    api.patch("/enrichment_tracking").mock(side_effect=complete)
    await track(client, lambda progress: settle(progress.advance(5)))
    assert server.job["status"] == "completed"


@pytest.mark.parametrize(
    "trouble", [httpx.Response(400, json={}), httpx.Response(200, html="<p>Log in")], ids=repr
)
async def test_work_that_raises_fails_the_job_whatever_becomes_of_the_report(
    client: Any, server: Server, trouble: httpx.Response
) -> None:
    async def work(_: Any) -> None:
        server.trouble.append(trouble)
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError) as caught:
        await track(client, work)
    assert not hasattr(caught.value, "__notes__")
    assert server.job["metadata"]["error"] == "out of coffee"


async def test_who_does_not_complete_leaves_the_job_open(client: Any, server: Server) -> None:
    await track(client, lambda progress: settle(progress.advance(5)), complete=False)
    assert server.reports[-1] == (5, 0)
    assert server.job["status"] == "processing"


async def test_what_cannot_be_counted_is_refused(client: Any, server: Server) -> None:
    async def work(progress: Any) -> None:
        for arguments in ({"processed": -1}, {"processed": 1, "failed": 2}, {"processed": "1"}):
            with pytest.raises(InvalidArgumentError):
                await settle(progress.advance(**arguments))
        await settle(progress.advance(0))

    progress = await track(client, work)
    assert (progress.processed, progress.failed) == (0, 0)


async def test_each_worker_has_a_name_of_its_own(client: Any, server: Server) -> None:
    names = {client.enrichment.track(KEY_ID).worker for _ in range(20)}
    assert len(names) == 20
    with pytest.raises(InvalidArgumentError, match="enter the with block first"):
        _ = client.enrichment.track(KEY_ID).job


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
async def test_a_cancelled_worker_fails_its_job(client: Any, server: Server) -> None:
    async def work(_: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.1):
        await track(client, work)
    assert server.job["status"] == "failed"


async def test_nobody_awaits_an_observer(client: Any, server: Server) -> None:
    async def observe(_: Any) -> None:
        pytest.fail("never called")

    with pytest.raises(InvalidArgumentError, match="must be a plain function"):
        await settle(client.enrichment.wait(KEY_ID, on_progress=observe))


async def test_a_bar_is_drawn(
    client: Any, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    await track(client, lambda progress: settle(progress.advance(5, failed=1)), show=True)
    written = capsys.readouterr()
    assert "email enrichment completed" in written.err
    assert "5/10" in written.err
    assert written.out == ""


async def test_a_bar_without_rich_says_what_to_install(
    client: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ConfigurationError, match=r"audiencelab-sdk\[progress\]"):
        await track(client, lambda _: settle(None), show=True)
    assert server.reports == []
