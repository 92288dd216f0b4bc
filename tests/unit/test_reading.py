"""Responses that are read, and responses that are refused."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx

from audiencelab_sdk import (
    UnexpectedResponseError,
)
from audiencelab_sdk._http._operation import Operation
from tests.unit._both_clients import settle
from tests.unit._http_server import Server, error_from
from tests.unit._operations import api_keys, enrichment, response, success, unfetched
from tests.unit._samples import ACCOUNT, API_KEY, CREATED, JOB, KEY_ID, LISTED, VALID


def first_page() -> Any:
    return unfetched(api_keys.list, ACCOUNT).page()


OTHER_SHAPES: list[tuple[Callable[[], Operation[Any]], Any]] = [
    (first_page, {"keys": [API_KEY]}),
    (first_page, [LISTED, API_KEY]),
    (
        first_page,
        [LISTED, {**LISTED, "id": API_KEY}],
    ),
    (
        first_page,
        [{"id": KEY_ID, "name": API_KEY}],
    ),
    (
        lambda: api_keys.create(ACCOUNT, "crm"),
        {**CREATED, "id": API_KEY},
    ),
    (
        lambda: api_keys.create(ACCOUNT, "crm"),
        {**CREATED, "created_at": API_KEY},
    ),
    (lambda: api_keys.create(ACCOUNT, "crm"), [CREATED]),
    (lambda: api_keys.create(ACCOUNT, "crm"), API_KEY),
    (lambda: api_keys.verify(API_KEY), {"valid": "t", "api_key_id": KEY_ID, "account_id": ACCOUNT}),
    (lambda: api_keys.has_scope("a", "b", "c"), API_KEY),
    (api_keys.account_id, API_KEY),
]


@pytest.mark.parametrize(("operation", "data"), OTHER_SHAPES)
def test_an_answer_of_another_shape_is_named_and_not_quoted(
    operation: Callable[[], Operation[Any]], data: Any
) -> None:
    steps = operation()
    next(steps)
    with pytest.raises(
        UnexpectedResponseError, match="does not fit this version of the SDK"
    ) as caught:
        steps.send(success(data))
    assert API_KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_fault_of_all_rows_is_told_shortly() -> None:
    steps = unfetched(api_keys.list, ACCOUNT, page_size=1000).page()
    next(steps)
    with pytest.raises(UnexpectedResponseError) as caught:
        steps.send(success([{"id": KEY_ID}] * 1000))
    first = ", ".join(f"0.{column}" for column in [*LISTED][1:6])
    assert f"(see: {first} and {len(LISTED) - 6} more)" in str(caught.value)


@pytest.mark.parametrize("value", ["[" * 300 + "]" * 300, "9" * 4400], ids=["deep", "long"])
def test_json_that_pydantic_cannot_read_is_named(value: str) -> None:
    body = json.dumps(JOB | {"metadata": "?"}).replace('"?"', value)
    steps = enrichment.get(KEY_ID)
    next(steps)
    with pytest.raises(UnexpectedResponseError, match="nested too deep, or has too long a number"):
        steps.send(response(body))


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


@pytest.mark.parametrize(
    ("body", "kind", "advice"),
    [
        (b"<html><title>Sign in</title></html>", "text/html", "does the URL lead to the project's"),
        (b"OK", "text/plain", "does the URL lead to the project's"),
        (b'{"valid": tr', "application/json", "cut responses off"),
        (b'[{"valid": true}, {"valid": true}', "application/json", "cut responses off"),
        (b'"' + b"x" * 50, "application/json; charset=utf-8", "cut responses off"),
    ],
)
async def test_success_without_json(
    client_class: Any, server: Server, url: str, body: bytes, kind: str, advice: str
) -> None:
    server.respond = lambda handler: handler.answer(body, Content_Type=kind)
    error = await error_from(client_class, url)
    assert type(error) is UnexpectedResponseError
    assert str(error).startswith("POST /rest/v1/rpc/verify_api_key returned 200 with ")
    assert str(error).endswith(f"({kind}, {len(body)} bytes)")
    assert advice in str(error)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'""', b"{}", b"<"])
async def test_empty_answer_where_a_value_is_needed(
    client_class: Any, server: Server, url: str, body: bytes
) -> None:
    server.respond = lambda handler: handler.answer(body)
    error = await error_from(client_class, url)
    assert type(error) is UnexpectedResponseError
    assert "does the URL lead to" in str(error)


# On trio, httpx itself leaves its generators open when it cannot decode.
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
async def test_answer_that_cannot_be_decompressed(
    client_class: Any, server: Server, url: str
) -> None:
    server.respond = lambda handler: handler.answer(b"no gzip", Content_Encoding="gzip")
    assert type(await error_from(client_class, url)) is UnexpectedResponseError
