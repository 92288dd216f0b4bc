"""The tests of the example, on an embedded stack.

`audiencelab_stack` and the other fixtures come with the SDK.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio.from_thread
import httpx
import pytest

from audiencelab_sdk import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audiencelab_sdk import CreatedApiKey
    from audiencelab_sdk.local import LocalStack


@pytest.fixture(scope="module")
def call(audiencelab_stack: LocalStack) -> Iterator[Callable[..., httpx.Response]]:
    """Send a request to the application, which runs in an event loop of its own."""
    with pytest.MonkeyPatch.context() as patch, anyio.from_thread.start_blocking_portal() as portal:
        patch.setenv("SUPABASE_URL", audiencelab_stack.url)
        patch.setenv("SUPABASE_KEY", audiencelab_stack.service_role_key)
        patch.setenv("SUPABASE_JWT_SECRET", audiencelab_stack.jwt_secret)
        patch.syspath_prepend(str(Path(__file__).parent))
        example: Any = importlib.import_module("app")  # it reads the environment

        async def send(method: str, path: str, key: str | None, body: Any) -> httpx.Response:
            transport = httpx.ASGITransport(example.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                headers = {"X-API-Key": key} if key else {}
                return await client.request(method, path, headers=headers, json=body)

        def call(
            method: str, path: str, key: CreatedApiKey | None, body: Any = None
        ) -> httpx.Response:
            text = key.key.get_secret_value() if key else None
            response: httpx.Response = portal.call(send, method, path, text, body)
            return response

        with portal.wrap_async_context_manager(example.app.router.lifespan_context(example.app)):
            yield call
        portal.call(example.client.aclose)
        del sys.modules["app"]


@pytest.fixture(scope="module")
def key(audiencelab_create_key: Callable[..., CreatedApiKey]) -> CreatedApiKey:
    """A key that may do everything."""
    return audiencelab_create_key(Scope(entity_type="*", entity_id="*", action="*"))


def test_segments(call: Callable[..., httpx.Response], key: CreatedApiKey) -> None:
    created = call("POST", "/v1/segments", key, {"name": "US", "source_id": "a-1"})
    assert created.status_code == 201
    segment_id = created.json()["id"]
    assert call("GET", f"/v1/segments/{segment_id}", key).json()["name"] == "US"
    assert call("GET", "/v1/segments", key).json()["segments"][0]["id"] == segment_id
    assert call("GET", f"/v1/segments/{uuid4()}", key).status_code == 404
    assert call("GET", "/v1/segments?cursor=damaged", key).status_code == 400
    assert call("POST", "/v1/segments", key, {"name": " ", "source_id": "a"}).status_code == 422


def test_scopes(
    call: Callable[..., httpx.Response], audiencelab_create_key: Callable[..., CreatedApiKey]
) -> None:
    one = str(uuid4())
    reader = audiencelab_create_key(Scope(entity_type="segment", entity_id=one, action="read"))
    assert call("GET", f"/v1/segments/{one}", reader).status_code == 404
    refused = call("GET", f"/v1/segments/{uuid4()}", reader)
    assert refused.status_code == 403
    assert refused.json()["missing_scope"]["entity_type"] == "segment"
    assert call("GET", "/v1/segments", reader).status_code == 403
    assert call("GET", "/v1/segments", None).status_code == 401


def test_a_job_in_the_background(call: Callable[..., httpx.Response], key: CreatedApiKey) -> None:
    records = [f"{number}@example.com" for number in range(50)] + ["no address"]
    started = call("POST", "/v1/jobs", key, {"audience_id": str(uuid4()), "records": records})
    assert started.status_code == 202
    deadline = time.monotonic() + 30
    path = f"/v1/jobs/{started.json()['id']}"
    while (job := call("GET", path, key).json())["status"] != "completed":
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    assert (job["processed_records"], job["failed_records"]) == (51, 1)


def test_usage(
    call: Callable[..., httpx.Response], audiencelab_create_key: Callable[..., CreatedApiKey]
) -> None:
    new = audiencelab_create_key()
    for _ in range(3):
        call("GET", "/v1/segments", new)
    (today,) = call("GET", "/v1/usage?now", new).json()
    assert (today["requests"], today["errors"]) == (3, 3)
