"""Errors from responses with an error status."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from audiencelab_sdk import (
    APIStatusError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SchemaError,
    ServerError,
)
from audiencelab_sdk._http._statuses import redacted, status_error
from tests.unit._both_clients import close, maybe_await
from tests.unit._http_server import Handler, Server, error_from
from tests.unit._samples import ACCOUNT, API_KEY, KEY, KEY_ID, PUBLISHABLE_KEY, SECRET_KEY, URL

BODY = {"code": "42501", "message": "it was said", "details": "d", "hint": "h"}


async def failure(client: Any, api: respx.MockRouter, response: httpx.Response) -> Any:
    api.post("/rpc/revoke_api_key").mock(return_value=response)
    with pytest.raises(APIStatusError) as caught:
        await maybe_await(client.api_keys.revoke(KEY_ID))
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
async def test_the_status_selects_the_error_class(
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
    assert error.http_status == status


async def test_406_of_a_missing_row_is_not_found(client: Any, api: respx.MockRouter) -> None:
    error = await failure(client, api, httpx.Response(406, json={"code": "PGRST116"}))
    assert type(error) is NotFoundError
    assert (error.status, error.http_status) == (404, 406)
    assert "(HTTP 406, code PGRST116)" in str(error)


async def test_an_application_that_forwards_the_status_of_a_missing_function_returns_500(
    client: Any, api: respx.MockRouter
) -> None:
    body = {"code": "PGRST202", "message": "Could not find it", "hint": "Perhaps you meant that"}
    error = await failure(client, api, httpx.Response(404, json=body))
    assert (error.status, error.http_status) == (500, 404)
    assert error.hint.startswith("Perhaps you meant that. The API's schema cache lacks")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_error_says_that_the_url_is_wrong(
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
def test_the_message_is_read_from_any_body(content: bytes, message: str) -> None:
    request = httpx.Request("POST", "https://a.test/rest/v1/rpc/x")
    error = status_error(httpx.Response(400, content=content, request=request), None)
    assert error.message == message


async def test_secrets_that_the_server_echoes_are_redacted(
    client: Any, api: respx.MockRouter
) -> None:
    user = client.as_user("the-token-of-a-user")
    echo = {"message": f"{KEY} the-token-of-a-user", "details": API_KEY, "hint": f"x{KEY}"}
    error = await failure(user, api, httpx.Response(400, json=echo))
    shown = f"{error!r} {error} {vars(error)}"
    for secret in (KEY, "the-token-of-a-user", API_KEY):
        assert secret not in shown


@pytest.mark.parametrize("key", [PUBLISHABLE_KEY, SECRET_KEY])
async def test_a_key_that_is_no_jwt_is_redacted(
    client_class: Any, api: respx.MockRouter, key: str
) -> None:
    client = client_class(URL, key)
    error = await failure(client, api, httpx.Response(400, json={"message": f"no {key}, no"}))
    await close(client)
    assert error.message == "no ***, no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{API_KEY}.", "sk_***."),
        (f"{SECRET_KEY} is another", "sb_secret_*** is another"),
        (f"{PUBLISHABLE_KEY}, too", "sb_publishable_***, too"),
        ("sb_secret_ask_ABCDEFGHIJ-_x", "sb_secret_***"),
        ("sb_secret_...", "sb_secret_..."),
        ("sb_other_ABCDEFGHIJ", "sb_other_ABCDEFGHIJ"),
    ],
)
def test_keys_of_any_project_and_account_are_redacted(text: str, expected: str) -> None:
    assert redacted(httpx.Request("POST", "https://a.test/"), text) == expected


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
def test_retry_after_is_parsed(header: str, seconds: float | None) -> None:
    request = httpx.Request("POST", "https://a.test/")
    headers = {"Retry-After": header}
    error = status_error(httpx.Response(429, headers=headers, request=request), None)
    assert isinstance(error, RateLimitError)
    assert error.retry_after == seconds


def test_retry_after_may_be_a_future_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    request = httpx.Request("POST", "https://a.test/")
    error = status_error(httpx.Response(429, headers={"Retry-After": later}, request=request), None)
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
            "No API key found in request (HTTP 401). The gateway does not accept the project's key",
        ),
        (gateway(401, "Invalid authentication credentials"), AuthenticationError, "is it a key of"),
        (
            gateway(404, "no Route matched with those values"),
            SchemaError,
            "does the URL lead to the project's API?",
        ),
        (
            httpx.Response(404, html=PAGE),
            SchemaError,
            "404 Not Found (HTTP 404). There is no Supabase API here: does the URL lead to",
        ),
        (postgrest(404, "PGRST202"), SchemaError, "supabase db push"),
        (postgrest(400, "PGRST204"), SchemaError, "supabase db push"),
        (postgrest(404, "PGRST205"), SchemaError, "notify pgrst, 'reload schema'"),
        (postgrest(404, "42P01"), SchemaError, "supabase db push"),
        (postgrest(404, "42883"), SchemaError, "supabase db push"),
        (httpx.Response(405, html=PAGE), SchemaError, "There is no Supabase API here"),
        (postgrest(401, "PGRST301"), AuthenticationError, "has expired"),
        (
            httpx.Response(401, json={"code": "PGRST301", "message": "No suitable key or wrong"}),
            AuthenticationError,
            "with as_api_key, check jwt_secret, or signing_key and its kid",
        ),
        (httpx.Response(502, html="<TITLE>Bad Gateway</TITLE>"), ServerError, "Bad Gateway (HTTP"),
    ],
)
async def test_status_errors_give_advice(
    client: Any,
    api: respx.MockRouter,
    pauses: list[float],
    response: httpx.Response,
    expected: type[APIStatusError],
    advice: str,
) -> None:
    api.post("/rpc/revoke_api_key").mock(return_value=response)
    with pytest.raises(expected) as caught:
        await maybe_await(client.api_keys.revoke(KEY_ID))
    assert advice in str(caught.value)


async def test_the_hint_of_the_server_replaces_the_advice(
    client: Any, api: respx.MockRouter
) -> None:
    body = {"message": "Invalid API key", "hint": "Double check it."}
    api.post("/rpc/list_api_keys").respond(401, json=body)
    with pytest.raises(AuthenticationError) as caught:
        await maybe_await(client.api_keys.list(ACCOUNT))
    assert str(caught.value) == "Invalid API key (HTTP 401). Double check it."


NO_DIRECT_ACCESS = "does not accept API keys directly"
NOT_AS_API_KEY = "An API key may not do this"


@pytest.mark.parametrize(
    ("code", "message", "expected", "advice"),
    [
        ("42501", "permission denied for schema public", PermissionDeniedError, NO_DIRECT_ACCESS),
        ("42501", "permission denied for table segments", PermissionDeniedError, NO_DIRECT_ACCESS),
        (
            "42501",
            "permission denied for function has_scope",
            PermissionDeniedError,
            NO_DIRECT_ACCESS,
        ),
        (
            "42501",
            "permission denied for function create_api_key",
            PermissionDeniedError,
            NOT_AS_API_KEY,
        ),
        (
            "42501",
            "permission denied for function purge_api_key_logs",
            PermissionDeniedError,
            NOT_AS_API_KEY,
        ),
        ("42501", "new row violates row-level security policy", PermissionDeniedError, "no scope"),
        (
            "42501",
            "there is no scope for it",
            PermissionDeniedError,
            "for it (HTTP 401, code 42501)",
        ),
        ("PT401", "Invalid API key", AuthenticationError, "unknown, revoked, disabled or expired"),
        (None, "Invalid API key", AuthenticationError, "The gateway does not accept"),
    ],
)
async def test_errors_of_requests_with_an_api_key(
    client_class: Any,
    api: respx.MockRouter,
    code: str | None,
    message: str,
    expected: type[APIStatusError],
    advice: str,
) -> None:
    api.post("/rpc/has_scope").respond(401, json={"code": code, "message": message})
    client = client_class("https://project.test", "sb_publishable_x", api_key=API_KEY)
    with pytest.raises(expected) as caught:
        await maybe_await(client.api_keys.has_scope("segment", "*", "read"))
    await close(client)
    assert caught.value.status == (403 if expected is PermissionDeniedError else 401)
    assert caught.value.http_status == 401
    assert advice in str(caught.value)
    assert "publishable" not in str(caught.value)


async def test_an_api_key_does_not_leave_for_another_host(
    client_class: Any, server: Server, url: str
) -> None:
    def redirect(handler: Handler) -> None:
        handler.send_response(307)
        handler.send_header("Location", f"{url.replace('127.0.0.1', 'localhost')}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.respond = redirect
    client = client_class(url, "sb_publishable_x", api_key=API_KEY, max_retries=0)
    with pytest.raises(APIStatusError, match="the URL is probably wrong"):
        await maybe_await(client.api_keys.account_id())
    await close(client)
    assert server.connections == 1


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


@pytest.mark.parametrize(
    "charset", ["utf-16", "zlib", "hex", "base64", "rot13", "idna", "undefined", "klingon"]
)
async def test_the_charset_of_an_error_response_does_not_matter(
    client: Any, api: respx.MockRouter, charset: str
) -> None:
    response = httpx.Response(400, headers={"Content-Type": f"text/plain; charset={charset}"})
    response = httpx.Response(400, headers=response.headers, content=b'{"message": "no"}')
    error = await failure(client, api, response)
    assert error.message == "no"


def test_a_long_page_without_a_title_takes_no_time() -> None:
    request = httpx.Request("POST", "https://a.test/")
    error = status_error(httpx.Response(500, content=b"<title" * 1_000_000, request=request), None)
    assert error.message.endswith("…")


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("code", [404, "not_found", "x"])
async def test_a_code_of_a_gateway_is_no_missing_row(
    client: Any, api: respx.MockRouter, status: int, code: Any
) -> None:
    error = await failure(client, api, httpx.Response(status, json={"code": code, "message": "no"}))
    assert type(error) is SchemaError


async def test_no_part_of_an_echoing_response_shows_a_secret(
    client_class: Any, api: respx.MockRouter
) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        secrets = f"{request.headers['apikey']} {request.headers['X-Gateway']}"
        return httpx.Response(
            500,
            headers={"X-Request-Id": secrets, "Content-Type": secrets},
            extensions={"reason_phrase": secrets.encode()},
        )

    api.post("/rpc/revoke_api_key").mock(side_effect=echo)
    client = client_class(URL, KEY, headers={"X-Gateway": SecretStr("hunter2")}, max_retries=0)
    with pytest.raises(ServerError) as caught:
        await maybe_await(client.api_keys.revoke(KEY_ID))
    await close(client)
    assert caught.value.request_id == "*** ***"
    shown = f"{caught.value!r} {caught.value} {vars(caught.value)}"
    assert KEY not in shown
    assert "hunter2" not in shown
