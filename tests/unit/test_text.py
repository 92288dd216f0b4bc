"""Text of a server, as errors and results show it."""

from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    APIStatusError,
    EnrichmentFailedError,
    EnrichmentJob,
    UsageLogError,
)
from tests.unit._both_clients import settle
from tests.unit._samples import API_KEY, JOB, KEY_ID, VALID

HOSTILE = "ok\r\n2026-01-01 root: all is well\x1b[2J\x9b31m\u202eevil\u2028\x00" + "x" * 5_000


async def failure(client: Any, api: respx.MockRouter, response: httpx.Response) -> Any:
    api.post("/rpc/revoke_api_key").mock(return_value=response)
    with pytest.raises(APIStatusError) as caught:
        await settle(client.api_keys.revoke(KEY_ID))
    return caught.value


async def test_a_hostile_server_cannot_forge_lines_of_a_log(
    client: Any, api: respx.MockRouter
) -> None:
    body = {"code": HOSTILE, "message": HOSTILE, "details": HOSTILE, "hint": HOSTILE}
    error = await failure(client, api, httpx.Response(400, json=body))
    texts = (error.code, error.message, error.details, error.hint)
    for text in texts:
        assert text.startswith("ok 2026-01-01 root: all is well [2J 31m evil x")
        assert len(text) == 2_001
    assert str(error).isprintable()


@pytest.mark.parametrize("body", [HOSTILE, f"<html><title>{HOSTILE}</title>"])
async def test_a_hostile_page_cannot_either(client: Any, api: respx.MockRouter, body: str) -> None:
    error = await failure(client, api, httpx.Response(502, text=body))
    assert str(error).isprintable()
    assert len(str(error)) < 400


async def test_what_a_success_says_is_cleaned_too(client: Any, api: respx.MockRouter) -> None:
    api.post("/rpc/verify_api_key").respond(
        json=VALID | {"valid": False, "api_key_id": None, "account_id": None, "error": HOSTILE}
    )
    assert (await settle(client.api_keys.verify(API_KEY))).error.isprintable()
    api.post("/rpc/log_api_key_usage").respond(
        json={"success": False, "error": HOSTILE, "error_code": HOSTILE}
    )
    with pytest.raises(UsageLogError) as caught:
        await settle(client.api_keys.log_usage(KEY_ID, endpoint="/", method="GET"))
    assert str(caught.value).isprintable()
    job = EnrichmentJob.model_validate(JOB | {"metadata": {"error": HOSTILE}})
    assert str(EnrichmentFailedError(job)).isprintable()
