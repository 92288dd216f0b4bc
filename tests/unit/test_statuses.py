"""Every kind of answer, through both clients."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    APIStatusError,
    AuthenticationError,
    ConflictError,
    EnrichmentFailedError,
    EnrichmentJob,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnexpectedResponseError,
    UsageLogError,
)
from audiencelab_sdk._http._statuses import status_error
from tests.unit._operations import API_KEY, JOB, KEY, KEY_ID, VALID, settle

BODY = {"code": "42501", "message": "it was said", "details": "d", "hint": "h"}


async def failure(client: Any, api: respx.MockRouter, response: httpx.Response) -> Any:
    api.post("/rpc/revoke_api_key").mock(return_value=response)
    with pytest.raises(APIStatusError) as caught:
        await settle(client.api_keys.revoke(KEY_ID))
    return caught.value


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (402, InvalidRequestError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, InvalidRequestError),
        (406, InvalidRequestError),
        (409, ConflictError),
        (413, InvalidRequestError),
        (416, InvalidRequestError),
        (418, InvalidRequestError),
        (422, InvalidRequestError),
        (429, RateLimitError),
        (500, ServerError),
        (501, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (520, ServerError),
        (599, ServerError),
    ],
)
async def test_status_decides_the_class(
    client: Any,
    api: respx.MockRouter,
    pauses: list[float],
    status: int,
    expected: type[APIStatusError],
) -> None:
    error = await failure(client, api, httpx.Response(status, json=BODY))
    assert error.__class__ is expected
    assert (error.status, error.code, error.message) == (status, "42501", "it was said")
    assert (error.details, error.hint) == ("d", "h")


async def test_406_of_a_missing_row_is_not_found(client: Any, api: respx.MockRouter) -> None:
    error = await failure(client, api, httpx.Response(406, json={"code": "PGRST116"}))
    assert type(error) is NotFoundError


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_says_that_the_url_is_wrong(
    client: Any, api: respx.MockRouter, status: int
) -> None:
    headers = {"Location": "https://elsewhere.test/"}
    error = await failure(client, api, httpx.Response(status, headers=headers, text="moved"))
    assert type(error) is APIStatusError
    assert "URL is probably wrong" in str(error)
    assert len(api.calls) == 1


@pytest.mark.parametrize("name", ["sb-request-id", "x-request-id", "cf-ray"])
async def test_request_id(client: Any, api: respx.MockRouter, name: str) -> None:
    error = await failure(client, api, httpx.Response(400, headers={name: "r-1"}, json=BODY))
    assert error.request_id == "r-1"
    assert "r-1" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Bad Request"),
        (b"<html>\n <b>no</b> </html>", "<html> <b>no</b> </html>"),
        (b"x" * 10_000, "x" * 200 + "…"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'["a", "list"]', '["a", "list"]'),
        (b'{"half": ', '{"half":'),
        (b"[" * 100_000, "[" * 200 + "…"),
        (b'{"msg": "from auth"}', "from auth"),
        (b'{"error": "e", "error_description": "longer"}', "longer"),
        (b'{"message": {"nested": 1}}', '{"nested": 1}'),
    ],
)
def test_any_body_gives_a_message(content: bytes, message: str) -> None:
    request = httpx.Request("POST", "https://a.test/rest/v1/rpc/x")
    error = status_error(httpx.Response(400, content=content, request=request))
    assert error.message == message


async def test_what_a_server_echoes_of_the_request_is_blotted_out(
    client: Any, api: respx.MockRouter
) -> None:
    user = client.as_user("the-token-of-a-user")
    echo = {"message": f"{KEY} the-token-of-a-user", "details": API_KEY, "hint": f"x{KEY}"}
    error = await failure(user, api, httpx.Response(400, json=echo))
    shown = f"{error!r} {error} {vars(error)}"
    for secret in (KEY, "the-token-of-a-user", API_KEY):
        assert secret not in shown


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    request = httpx.Request("POST", "https://a.test/")
    headers = {"Retry-After": header}
    error = status_error(httpx.Response(429, headers=headers, request=request))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == seconds


def test_retry_after_as_a_date_to_come() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    request = httpx.Request("POST", "https://a.test/")
    error = status_error(httpx.Response(429, headers={"Retry-After": later}, request=request))
    assert isinstance(error, RateLimitError)
    assert error.retry_after == pytest.approx(20, abs=3)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<html>Welcome</html>"),
        httpx.Response(200, content=b'{"valid": tru'),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b""),
        httpx.Response(204),
        httpx.Response(200, content=b"null"),
        httpx.Response(200, json="text"),
        httpx.Response(200, json=[VALID]),
        httpx.Response(200, json={**VALID, "valid": "yes"}),
        httpx.Response(200, json={**VALID, "valid": None}),
        httpx.Response(200, json={**VALID, "account_id": None}),
        httpx.Response(200, json={**VALID, "api_key_id": API_KEY}),
    ],
    ids=str,
)
async def test_success_that_cannot_be_understood(
    client: Any, api: respx.MockRouter, response: httpx.Response
) -> None:
    api.post("/rpc/verify_api_key").mock(return_value=response)
    with pytest.raises(UnexpectedResponseError) as caught:
        await settle(client.api_keys.verify(API_KEY))
    assert API_KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "response", [httpx.Response(204), httpx.Response(200, content=b"null")], ids=str
)
async def test_a_function_that_returns_nothing(
    client: Any, api: respx.MockRouter, response: httpx.Response
) -> None:
    api.post("/rpc/delete_studio_segment").mock(return_value=response)
    assert await settle(client.segments.delete(KEY_ID)) is None


@pytest.mark.parametrize(
    "response",
    [httpx.Response(200), httpx.Response(200, html="<p>Log in"), httpx.Response(200, json=True)],
    ids=["no body", "a page", "a value"],
)
async def test_something_else_that_answers_for_it(
    client: Any, api: respx.MockRouter, response: httpx.Response
) -> None:
    api.post("/rpc/delete_studio_segment").mock(return_value=response)
    with pytest.raises(UnexpectedResponseError, match="does the URL lead to"):
        await settle(client.segments.delete(KEY_ID))


HOSTILE = "ok\r\n2026-01-01 root: all is well\x1b[2J\x9b31m\u202eevil\u2028\x00" + "x" * 5_000


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
