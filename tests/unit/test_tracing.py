"""OpenTelemetry's spans of calls."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from audiencelab_sdk import AudienceLab, EnrichmentFailedError, RequestAttempt, ServerError
from audiencelab_sdk._http import _pools
from tests.unit._both_clients import close, maybe_await
from tests.unit._http_server import Server
from tests.unit._samples import API_KEY, JOB, KEY, KEY_ID, LISTED, TOKEN, URL, VALID

PROVIDER = TracerProvider(shutdown_on_exit=False)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    PROVIDER.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_pools, "tracer", lambda: PROVIDER.get_tracer("audiencelab_sdk"))
    yield exporter
    exporter.shutdown()


def events(span: ReadableSpan) -> list[dict[str, Any]]:
    return [dict(event.attributes or {}) for event in span.events]


async def test_a_call_is_a_span_with_its_attempts(
    spans: InMemorySpanExporter, client_class: Any, api: respx.MockRouter, pauses: list[float]
) -> None:
    responses: list[Any] = [
        httpx.ReadTimeout("slow"),
        httpx.Response(200, headers={"sb-request-id": "r-2"}, json=VALID),
    ]
    api.post("/rpc/verify_api_key").mock(side_effect=responses)
    client = client_class(URL, KEY)
    await maybe_await(client.api_keys.verify(API_KEY))
    await close(client)

    (span,) = spans.get_finished_spans()

    assert span.name == "api_keys.verify"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    first, second = events(span)
    assert first.pop("audiencelab.duration") >= 0
    assert second.pop("audiencelab.duration") >= 0
    common = {"http.request.method": "POST", "url.path": "/rest/v1/rpc/verify_api_key"}
    assert first == {**common, "error.type": "APITimeoutError"}
    assert second == {
        **common,
        "http.request.resend_count": 1,
        "http.response.status_code": 200,
        "audiencelab.request_id": "r-2",
    }


async def test_each_page_is_a_span_of_its_own(
    spans: InMemorySpanExporter, client: Any, api: respx.MockRouter, client_class: Any
) -> None:
    api.post("/rpc/list_api_keys").mock(
        side_effect=[httpx.Response(200, json=rows) for rows in ([LISTED], [])]
    )
    client = client_class(URL, KEY)
    page = await maybe_await(client.api_keys.list(KEY_ID))
    assert await maybe_await(page.next()) is None
    await close(client)

    assert [span.name for span in spans.get_finished_spans()] == ["api_keys.list"] * 2


async def test_a_span_names_the_class_of_the_error(
    spans: InMemorySpanExporter, client_class: Any, api: respx.MockRouter
) -> None:
    api.post("/rpc/verify_api_key").respond(500, json={"message": "row 4711 is odd"})
    api.get("/enrichment_tracking").respond(json=JOB | {"status": "failed"})
    client = client_class(URL, KEY).as_user(TOKEN)
    with pytest.raises(ServerError):
        await maybe_await(client.api_keys.verify(API_KEY))
    with pytest.raises(EnrichmentFailedError):
        await maybe_await(client.enrichment.wait(KEY_ID))

    failed, waited = spans.get_finished_spans()

    for span, name in ((failed, "ServerError"), (waited, "EnrichmentFailedError")):
        assert span.status.status_code is StatusCode.ERROR
        assert dict(span.attributes or {}) == {"error.type": name}
    text = failed.to_json() + waited.to_json()
    assert not [secret for secret in (KEY, TOKEN, API_KEY, "4711") if secret in text]


async def test_a_worker_reports_in_spans(
    spans: InMemorySpanExporter, client_class: Any, api: respx.MockRouter
) -> None:
    api.post("/rpc/report_enrichment_progress").respond(json=JOB)
    client = client_class(URL, KEY)
    tracking = client.enrichment.track(KEY_ID, unit="u", complete=False)
    if client_class is AudienceLab:
        with tracking:
            pass
    else:
        async with tracking:
            pass
    await close(client)

    assert [span.name for span in spans.get_finished_spans()] == ["enrichment.track"] * 2


async def test_the_spans_of_httpx_are_nested_below(
    spans: InMemorySpanExporter, client_class: Any, server: Server, url: str
) -> None:
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=PROVIDER)
    try:
        client = client_class(url, KEY)
        await maybe_await(client.api_keys.verify(API_KEY))
        await close(client)
    finally:
        instrumentor.uninstrument()

    of_httpx, of_sdk = spans.get_finished_spans()
    assert of_sdk.name == "api_keys.verify"
    assert of_httpx.parent
    assert of_sdk.context
    assert of_httpx.parent.span_id == of_sdk.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_sdk_works_without_opentelemetry(server: Server, url: str) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from audiencelab_sdk import AudienceLab\n"
        f"with AudienceLab({url!r}, 'key') as client:\n"
        f"    assert client.api_keys.verify({API_KEY!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_calls_need_no_opentelemetry(
    client_class: Any, api: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.post("/rpc/verify_api_key").respond(json=VALID)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    attempts: list[RequestAttempt] = []

    for options in ({}, {"on_response": attempts.append}):
        client = client_class(URL, KEY, **options)
        assert await maybe_await(client.api_keys.verify(API_KEY))
        await close(client)

    assert [attempt.status for attempt in attempts] == [200]
