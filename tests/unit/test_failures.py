"""Errors say what to do: the cases that no socket on this machine shows."""

import ssl
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    NotFoundError,
    ServerError,
)
from audiencelab_sdk._http._failures import connection_error
from tests.unit._operations import ACCOUNT, API_KEY, KEY, KEY_ID, URL, close, settle


def test_untrusted_certificate() -> None:
    # As it comes from httpx, the real cause two errors down.
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError()
    failure = connection_error(httpx.Request("GET", URL), error)
    assert "SSL_CERT_FILE names the certificates" in str(failure)


def test_chain_that_ends_in_a_ring() -> None:
    error = httpx.ConnectError("refused")
    error.__cause__ = OSError()
    error.__cause__.__context__ = error
    failure = connection_error(httpx.Request("GET", URL), error)
    assert "does the server run?" in str(failure)


@pytest.mark.parametrize(
    ("outcome", "expected", "advice"),
    [
        (httpx.ConnectTimeout(""), APITimeoutError, "is the URL right, and does a firewall"),
        (httpx.PoolTimeout(""), APITimeoutError, "make fewer calls at a time"),
        (httpx.WriteTimeout(""), APITimeoutError, "client.with_options(timeout=...) waits longer"),
        (httpx.ProxyError("403 Forbidden"), APIConnectionError, "ALL_PROXY names the proxy"),
        (httpx.ReadError(""), APIConnectionError, "may have been carried out"),
    ],
    ids=repr,
)
async def test_without_an_answer(
    client_class: Any,
    api: respx.MockRouter,
    outcome: httpx.RequestError,
    expected: type[APIConnectionError],
    advice: str,
) -> None:
    api.post("/rpc/verify_api_key").mock(side_effect=outcome)
    client = client_class(URL, KEY, max_retries=0)
    with pytest.raises(expected) as caught:
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    assert type(caught.value) is expected
    assert f"no answer from {URL} " in str(caught.value)
    assert advice in str(caught.value)


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
