"""Progress of jobs: no count is lost when a report fails."""

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
    ConflictError,
    InvalidArgumentError,
    PermissionDeniedError,
    ServerError,
)
from audiencelab_sdk._resources import _jobs, _tracking
from tests.unit._both_clients import maybe_await
from tests.unit._samples import JOB, KEY, KEY_ID, URL


class Database:
    """Keeps one job. Each of `failures` replaces the response to a report, in turn."""

    def __init__(self, api: respx.MockRouter) -> None:
        self.job = dict(JOB, status="processing")
        self.reports: list[tuple[int, int]] = []
        self.units: list[str] = []
        self.failures: list[httpx.Response | Exception] = []
        api.post("/rpc/report_enrichment_progress").mock(side_effect=self.report)
        api.get("/enrichment_tracking").mock(side_effect=lambda _: self.respond(self.job))
        api.patch("/enrichment_tracking").mock(side_effect=self.change)

    def respond(self, data: Any) -> httpx.Response:
        return httpx.Response(200, json=data)

    def report(self, request: httpx.Request) -> httpx.Response:
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        body = json.loads(request.content)
        self.reports.append((body["p_processed"], body["p_failed"]))
        self.units.append(body["p_unit"])
        self.job["processed_records"] = body["p_processed"]
        return self.respond(self.job)

    def change(self, request: httpx.Request) -> httpx.Response:
        self.job |= json.loads(request.content)
        return self.respond([self.job])


@pytest.fixture
def database(api: respx.MockRouter) -> Database:
    return Database(api)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(_tracking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
async def client(client_class: Any) -> Any:
    client = client_class(URL, KEY, max_retries=0)
    yield client
    await maybe_await(client.aclose() if client_class is AsyncAudienceLab else client.close())


async def track(client: Any, body: Callable[[Any], Any], **options: Any) -> Any:
    """Run the coroutine function `body` in the context manager of either client."""
    progress = client.enrichment.track(KEY_ID, **options)
    if isinstance(client, AudienceLab):
        with progress:
            await body(progress)
    else:
        async with progress:
            await body(progress)
    return progress


async def test_progress_is_reported_at_most_once_a_second(
    client: Any, database: Database, clock: SimpleNamespace
) -> None:
    async def work(progress: Any) -> None:
        for _ in range(10):
            clock.now += 0.25
            await maybe_await(progress.advance(2, failed=1))

    progress = await track(client, work, unit="u")
    assert database.reports == [(0, 0), (8, 4), (16, 8), (20, 10)]
    assert (progress.processed, progress.failed, progress.unit) == (20, 10, "u")
    assert progress.job.status == database.job["status"] == "completed"


@pytest.mark.parametrize(
    "failure", [httpx.ReadTimeout("slow"), httpx.Response(503), httpx.Response(429)], ids=repr
)
async def test_the_next_report_includes_the_counts_of_a_failed_one(
    client: Any,
    database: Database,
    clock: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    failure: Any,
) -> None:
    async def work(progress: Any) -> None:
        database.failures.append(failure)
        clock.now += 1
        await maybe_await(progress.advance(5))
        clock.now += 1
        await maybe_await(progress.advance(5))

    with caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await track(client, work)
    assert database.reports == [(0, 0), (10, 0), (10, 0)]
    assert "the next one includes its totals" in caplog.text


async def test_a_permanent_error_of_a_report_fails_the_job(
    client: Any, database: Database, clock: SimpleNamespace
) -> None:
    async def work(progress: Any) -> None:
        database.failures.append(httpx.Response(403, json={"message": "no more"}))
        clock.now += 1
        await maybe_await(progress.advance())
        pytest.fail("it went on")

    with pytest.raises(PermissionDeniedError, match="no more"):
        await track(client, work)
    assert database.job["status"] == "failed"
    assert database.job["metadata"] == {"a": 1, "error": "no more (HTTP 403)"}


async def test_a_permanent_error_of_the_last_report_is_raised(
    client: Any, database: Database
) -> None:
    async def work(progress: Any) -> None:
        await maybe_await(progress.advance(5))
        database.failures.append(httpx.Response(403))

    with pytest.raises(PermissionDeniedError):
        await track(client, work)
    assert database.job["status"] == "processing"


async def test_the_last_report_is_retried(
    client: Any, database: Database, pauses: list[float]
) -> None:
    async def work(progress: Any) -> None:
        await maybe_await(progress.advance(5))
        database.failures += [httpx.Response(503)] * 3

    await track(client, work)
    assert database.reports[-1] == (5, 0)
    assert database.job["status"] == "completed"
    assert pauses == [1.0, 3.0, 7.0]


async def test_the_last_report_is_retried_for_a_minute_at_most(
    client: Any, database: Database, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0 + sum(pauses))
    for module in (_tracking, _jobs):
        monkeypatch.setattr(module, "time", clock)
    progress = client.enrichment.track(KEY_ID)

    async def work(_: Any) -> None:
        await maybe_await(progress.advance(5))
        database.failures += [httpx.Response(503)] * 100

    monkeypatch.setattr(client.enrichment, "track", lambda *_, **__: progress)
    with pytest.raises(ServerError):
        await track(client, work)
    assert 45 < sum(pauses) <= 60
    assert progress.processed == 5


async def test_completion_succeeds_if_the_first_response_was_lost(
    client: Any, database: Database, api: respx.MockRouter, pauses: list[float]
) -> None:
    lost = [True]

    def complete(request: httpx.Request) -> httpx.Response:
        if database.job["status"] == "completed":
            return httpx.Response(200, json=[])
        response = database.change(request)
        if lost.pop():
            raise httpx.ReadError("")
        return response

    api.patch("/enrichment_tracking").mock(side_effect=complete)
    await track(client, lambda progress: maybe_await(progress.advance(5)))
    assert database.job["status"] == "completed"


@pytest.mark.parametrize(
    "failure", [httpx.Response(400, json={}), httpx.Response(200, html="<p>Log in")], ids=repr
)
async def test_an_exception_fails_the_job_even_if_the_report_fails(
    client: Any, database: Database, failure: httpx.Response
) -> None:
    async def work(_: Any) -> None:
        database.failures.append(failure)
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError) as caught:
        await track(client, work)
    assert not hasattr(caught.value, "__notes__")
    assert database.job["metadata"]["error"] == "out of coffee"


async def test_complete_false_leaves_the_job_processing(client: Any, database: Database) -> None:
    await track(client, lambda progress: maybe_await(progress.advance(5)), unit="u", complete=False)
    assert database.reports[-1] == (5, 0)
    assert database.job["status"] == "processing"


async def test_advance_rejects_invalid_counts(client: Any, database: Database) -> None:
    async def work(progress: Any) -> None:
        for arguments in ({"processed": -1}, {"processed": 1, "failed": 2}, {"processed": "1"}):
            with pytest.raises(InvalidArgumentError):
                await maybe_await(progress.advance(**arguments))
        await maybe_await(progress.advance(0))

    progress = await track(client, work)
    assert (progress.processed, progress.failed) == (0, 0)


async def test_without_a_name_the_unit_is_the_whole_job(client: Any, database: Database) -> None:
    units = {client.enrichment.track(KEY_ID).unit for _ in range(20)}
    assert units == {"all"}
    with pytest.raises(InvalidArgumentError, match="enter the with block first"):
        _ = client.enrichment.track(KEY_ID).job


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"complete": False}, "unit is missing"),
        ({"unit": ""}, "unit is empty"),
        ({"unit": "u" * 256}, "unit has 256 characters"),
        ({"on_error": "ignore"}, "on_error must be 'fail' or 'leave'"),
    ],
)
async def test_invalid_options_are_rejected(
    client: Any, database: Database, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        client.enrichment.track(KEY_ID, **options)


async def test_a_unit_that_is_processed_again_has_the_same_name(
    client: Any, database: Database
) -> None:
    async def crash(progress: Any) -> None:
        await maybe_await(progress.advance(300))
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        await track(client, crash, unit="rows 0-19999")
    await track(client, lambda it: maybe_await(it.advance(20_000)), unit="rows 0-19999")

    assert set(database.units) == {"rows 0-19999"}
    assert database.reports[-1] == (20_000, 0)


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), SystemExit(0), GeneratorExit()], ids=repr)
async def test_the_end_of_the_program_leaves_the_job_processing(
    client: Any, database: Database, reason: BaseException
) -> None:
    async def work(progress: Any) -> None:
        await maybe_await(progress.advance(5))
        raise reason

    with pytest.raises(type(reason)):
        await track(client, work)
    assert database.job["status"] == "processing"
    assert database.reports[-1] == (5, 0)


async def test_an_exception_can_leave_the_job_processing(client: Any, database: Database) -> None:
    async def work(progress: Any) -> None:
        await maybe_await(progress.advance(5))
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        await track(client, work, on_error="leave")
    assert database.job["status"] == "processing"
    assert database.reports[-1] == (5, 0)


async def test_a_lost_last_report_of_a_job_that_is_left_is_logged(
    client: Any, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(_: Any) -> None:
        database.failures.append(httpx.Response(503))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING, "audiencelab_sdk"):
        await track(client, work)
    assert "the last report for enrichment job" in caplog.text
    assert database.reports == [(0, 0)]


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_cancellation_leaves_the_job_processing(client: Any, database: Database) -> None:
    async def work(progress: Any) -> None:
        await progress.advance(5)
        await anyio.sleep_forever()

    with anyio.move_on_after(0.1) as scope:
        await track(client, work)
    assert scope.cancelled_caught
    assert database.job["status"] == "processing"
    assert database.reports[-1] == (5, 0)


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_a_canceled_task_does_not_wait_for_the_last_report_for_long(
    client: Any, database: Database, api: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_tracking, "_SECONDS_TO_LEAVE", 0.1)

    async def work(_: Any) -> None:
        api.post("/rpc/report_enrichment_progress").mock(side_effect=hang)
        await anyio.sleep_forever()

    with anyio.fail_after(10), anyio.move_on_after(0.1) as scope:
        await track(client, work)
    assert scope.cancelled_caught


async def test_wait_rejects_a_coroutine_function_as_observer(
    client: Any, database: Database
) -> None:
    async def observe(_: Any) -> None:
        pytest.fail("never called")

    with pytest.raises(InvalidArgumentError, match="must be a plain function"):
        await maybe_await(client.enrichment.wait(KEY_ID, on_progress=observe))


async def test_show_draws_a_progress_bar(
    client: Any, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await track(client, lambda progress: maybe_await(progress.advance(5, failed=1)), show=True)
    written = capsys.readouterr()
    assert "email enrichment completed" in written.err
    assert "5/10" in written.err
    assert written.out == ""


async def test_show_without_rich_says_what_to_install(
    client: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ConfigurationError, match=r"audiencelab-sdk\[progress\]"):
        await track(client, lambda _: maybe_await(None), show=True)
    assert database.reports == []


async def test_an_ended_job_is_not_entered(
    client: Any, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    database.failures.append(httpx.Response(409, json={"code": "PT409", "message": "ended"}))

    async def work(_: Any) -> None:
        pytest.fail("the block ran")

    with pytest.raises(ConflictError, match="ended"):
        await track(client, work, show=True)
    assert database.reports == []
    assert "enrichment" in capsys.readouterr().err  # the bar is closed and leaves its line


async def test_an_exception_has_a_note_if_the_job_cannot_be_marked_as_failed(
    client: Any, database: Database, api: respx.MockRouter
) -> None:
    api.patch("/enrichment_tracking").respond(403, json={"message": "read only"})

    async def work(_: Any) -> None:
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError) as caught:
        await track(client, work)
    (note,) = caught.value.__notes__
    assert note == f"Enrichment job {KEY_ID} could not be marked as failed: read only (HTTP 403)"


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"])
async def test_an_exception_has_a_note_if_the_job_is_not_marked_as_failed_in_time(
    client: Any, database: Database, api: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(_tracking, "_SECONDS_TO_FAIL", 0.1)
    api.patch("/enrichment_tracking").mock(side_effect=hang)

    async def work(_: Any) -> None:
        raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError) as caught:
        await track(client, work)
    (note,) = caught.value.__notes__
    assert note.endswith(f"{KEY_ID} could not be marked as failed: no response within 0.1 s")


async def test_records_are_counted_in_the_block_only(client: Any, database: Database) -> None:
    progress = client.enrichment.track(KEY_ID)
    with pytest.raises(InvalidArgumentError, match="enter the with block first"):
        await maybe_await(progress.advance())
    assert (progress.processed, database.reports) == (0, [])
