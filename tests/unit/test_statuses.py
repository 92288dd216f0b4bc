"""Error responses: the class, the message and the advice of the error."""

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
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from audiencelab_sdk._http._statuses import status_error
from tests.unit._both_clients import settle
from tests.unit._http_server import Handler, Server, error_from
from tests.unit._samples import ACCOUNT, API_KEY, KEY, KEY_ID

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


def gateway(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"message": message})


def postgrest(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": "no", "hint": None})


PAGE = "<html><head><title>\n404 Not Found</title></head><body>nginx</body></html>"


@pytest.mark.parametrize(
    ("response", "expected", "advice"),
    [
        (
            gateway(401, "No API key found in request"),
            AuthenticationError,
            "No API key found in request (HTTP 401) The gateway does not accept the project's key",
        ),
        (gateway(401, "Invalid authentication credentials"), AuthenticationError, "is it a key of"),
        (
            gateway(404, "no Route matched with those values"),
            NotFoundError,
            "does the URL lead to the project's?",
        ),
        (
            httpx.Response(404, html=PAGE),
            NotFoundError,
            "404 Not Found (HTTP 404) There is no Supabase API here: does the URL lead to",
        ),
        (postgrest(404, "PGRST202"), NotFoundError, "supabase db push"),
        (postgrest(400, "PGRST204"), APIStatusError, "supabase db push"),
        (postgrest(404, "PGRST205"), NotFoundError, "notify pgrst, 'reload schema'"),
        (postgrest(401, "PGRST301"), AuthenticationError, "has expired"),
        (httpx.Response(502, html="<TITLE>Bad Gateway</TITLE>"), ServerError, "Bad Gateway (HTTP"),
    ],
)
async def test_with_an_answer(
    client: Any,
    api: respx.MockRouter,
    pauses: list[float],
    response: httpx.Response,
    expected: type[APIStatusError],
    advice: str,
) -> None:
    api.post("/rpc/revoke_api_key").mock(return_value=response)
    with pytest.raises(expected) as caught:
        await settle(client.api_keys.revoke(KEY_ID))
    assert advice in str(caught.value)


async def test_the_advice_of_the_server_comes_first(client: Any, api: respx.MockRouter) -> None:
    body = {"message": "Invalid API key", "hint": "Double check it."}
    api.post("/rpc/list_api_keys").respond(401, json=body)
    with pytest.raises(AuthenticationError) as caught:
        await settle(client.api_keys.list(ACCOUNT))
    assert str(caught.value) == "Invalid API key (HTTP 401) Double check it."


async def test_redirect_is_not_followed(client_class: Any, server: Server, url: str) -> None:
    def redirect(handler: Handler) -> None:
        handler.send_response(301)
        handler.send_header("Location", f"{url}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.respond = redirect
    error = await error_from(client_class, url)
    assert type(error) is APIStatusError
    assert "the URL is probably wrong (HTTP 301)" in str(error)
    assert server.connections == 1
