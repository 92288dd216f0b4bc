"""API keys: the requests of each method, and what it returns."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError

from audiencelab_sdk import (
    ApiKey,
    InvalidArgumentError,
    Scope,
    UnexpectedResponseError,
)
from audiencelab_sdk._http._operation import Operation
from tests.unit._operations import api_keys, json_response, listing_of, result_of, sent
from tests.unit._samples import ACCOUNT, API_KEY, CREATED, KEY_ID, LISTED, VALID

TOMORROW = datetime.now(UTC) + timedelta(days=1)
READ = Scope(entity_type="segment", entity_id="*", action="read")


def test_create_sends_all_parameters() -> None:
    request = next(api_keys.create(UUID(ACCOUNT), "crm", scopes=[READ], expires_at=TOMORROW))
    assert not request.repeatable
    path, query, body = sent(request)
    assert path == "/rest/v1/rpc/create_api_key"
    assert query == {}
    assert json.loads(json.dumps(body)) == {
        "p_account_id": ACCOUNT,
        "p_name": "crm",
        "p_scopes": [{"entity_type": "segment", "entity_id": "*", "action": "read"}],
        "p_expires_at": TOMORROW.isoformat(),
    }


def test_create_without_scopes_and_expiry() -> None:
    body = sent(next(api_keys.create(ACCOUNT, "crm")))[2]
    assert body["p_scopes"] == []
    assert body["p_expires_at"] is None


def test_create_returns_the_key() -> None:
    key = result_of(api_keys.create(ACCOUNT, "crm", scopes=[READ]), CREATED)
    assert key.id == UUID(KEY_ID)
    assert key.key.get_secret_value() == API_KEY
    assert key.scopes == (READ,)
    assert key.created_at.microsecond == 678901
    assert key.created_at.utcoffset() == timedelta(0)


def test_list_requests_the_newest_first() -> None:
    request = next(listing_of(api_keys.list, ACCOUNT, page_size=25).page())
    assert request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/list_api_keys",
        {"order": "created_at.desc,id.desc", "limit": "25"},
        {"p_account_id": ACCOUNT},
    )


def test_list_reads_keys_with_malformed_scopes() -> None:
    odd_scopes: list[Any] = [
        None,
        {},
        "text",
        [1, "x", {"entity_type": "segment"}, {**READ.model_dump(), "action": ""}],
    ]
    odd_scopes.append([READ.model_dump(), "x"])
    rows = [
        {**LISTED, "id": str(UUID(int=9 - number)), "scopes": scopes}
        for number, scopes in enumerate(odd_scopes)
    ]
    items = result_of(listing_of(api_keys.list, ACCOUNT, page_size=10).page(), rows).items
    assert [key.scopes for key in items] == [(), (), (), (), (READ,)]


def test_list_keeps_unknown_columns() -> None:
    operation = listing_of(api_keys.list, ACCOUNT, page_size=10).page()
    (key,) = result_of(operation, [{**LISTED, "last_ip": "::1"}]).items
    assert key.model_extra == {"last_ip": "::1"}


def test_revoke_all_of_a_user() -> None:
    everywhere, here = api_keys.revoke_all_of(KEY_ID, None), api_keys.revoke_all_of(KEY_ID, ACCOUNT)
    request = next(everywhere)
    assert request.repeatable
    assert sent(request) == ("/rest/v1/rpc/revoke_api_keys_of", {}, {"p_user_id": KEY_ID})
    assert sent(next(here))[2] == {"p_user_id": KEY_ID, "p_account_id": ACCOUNT}
    assert result_of(api_keys.revoke_all_of(KEY_ID, None), 3) == 3


def test_revoke() -> None:
    request = next(api_keys.revoke(KEY_ID))
    assert request.repeatable
    assert sent(request) == ("/rest/v1/rpc/revoke_api_key", {}, {"p_api_key_id": KEY_ID})
    assert result_of(api_keys.revoke(KEY_ID), True) is None


@pytest.mark.parametrize("response", [False, None, "true", []])
def test_revoke_requires_the_response_true(response: Any) -> None:
    operation = api_keys.revoke(KEY_ID)
    next(operation)
    with pytest.raises(UnexpectedResponseError, match="revoke_api_key"):
        operation.send(json_response(response))


@pytest.mark.parametrize("key", [API_KEY, SecretStr(API_KEY)])
def test_verify(key: str | SecretStr) -> None:
    request = next(api_keys.verify(key))
    assert request.repeatable
    assert sent(request) == ("/rest/v1/rpc/verify_api_key", {}, {"p_api_key": API_KEY})
    verification = result_of(api_keys.verify(key), VALID)
    assert verification
    assert (verification.api_key_id, verification.account_id) == (UUID(KEY_ID), UUID(ACCOUNT))


def test_an_invalid_verification_is_falsy() -> None:
    invalid = {"valid": False, "api_key_id": None, "account_id": None, "error": "Invalid API key"}
    verification = result_of(api_keys.verify(API_KEY), invalid)
    assert not verification
    assert verification.error == "Invalid API key"


@pytest.mark.parametrize(
    "text", ["", "x", "sk_", "sk_\x00", "sk_🔑", "\ud800", API_KEY[:-1] + "j", "sk_" + "a" * 10_000]
)
def test_verify_sends_no_request_for_a_malformed_key(text: str) -> None:
    with pytest.raises(StopIteration) as stop:
        next(api_keys.verify(text))
    assert not stop.value.value
    assert stop.value.value.error == "Invalid API key"


def test_has_scope() -> None:
    request = next(api_keys.has_scope("segment", "7", "read"))
    assert request.repeatable
    path, _, body = sent(request)
    assert path == "/rest/v1/rpc/has_scope"
    assert body == {"p_entity_type": "segment", "p_entity_id": "7", "p_action": "read"}
    assert result_of(api_keys.has_scope("segment", "7", "read"), True) is True
    assert result_of(api_keys.has_scope("segment", "7", "read"), False) is False


def test_account_id() -> None:
    path, _, body = sent(next(api_keys.account_id()))
    assert (path, body) == ("/rest/v1/rpc/get_api_key_account_id", {})
    assert result_of(api_keys.account_id(), ACCOUNT) == UUID(ACCOUNT)
    assert result_of(api_keys.account_id(), None) is None


REFUSED: list[tuple[Callable[[], Operation[Any]], str]] = [
    (
        lambda: api_keys.create("nope", "crm"),
        "account_id must be a UUID",
    ),
    (lambda: api_keys.create(None, "crm"), "account_id must be a UUID"),
    (lambda: api_keys.create(ACCOUNT, ""), "name is empty"),
    (lambda: api_keys.create(ACCOUNT, "  "), "name is empty or blank"),
    (lambda: api_keys.create(ACCOUNT, "x" * 256), "256 characters"),
    (
        lambda: api_keys.create(ACCOUNT, "crm", scopes=[READ] * 101),
        "at most 100 are allowed",
    ),
    (
        lambda: api_keys.create(
            ACCOUNT, "crm", scopes=[READ.model_copy(update={"action": "x" * 256})], expires_at=None
        ),
        r"scopes\[0\].action has 256 characters",
    ),
    (
        lambda: api_keys.create(
            ACCOUNT,
            "crm",
            scopes=(),
            expires_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        ),
        "years 1 to 9999",
    ),
    (lambda: api_keys.revoke_all_of("nope", None), "user_id must be a UUID"),
    (lambda: api_keys.revoke_all_of(KEY_ID, "nope"), "account_id must be a UUID"),
    (lambda: api_keys.create(ACCOUNT, "a\x00b"), "NUL"),
    (lambda: api_keys.create(ACCOUNT, "a\udcffb"), "surrogate"),
    (lambda: api_keys.create(ACCOUNT, 7), "name must be a str"),
    (lambda: api_keys.create(ACCOUNT, "crm", scopes=READ), "sequence of Scope"),
    (
        lambda: api_keys.create(ACCOUNT, "crm", scopes=["read"]),
        "sequence of Scope",
    ),
    (lambda: api_keys.create(ACCOUNT, "crm", scopes=None), "sequence of Scope"),
    (
        lambda: api_keys.create(ACCOUNT, "crm", scopes=(), expires_at=datetime(2999, 1, 1)),  # noqa: DTZ001 - the missing time zone is under test
        "expires_at has no time zone",
    ),
    (
        lambda: api_keys.create(
            ACCOUNT, "crm", scopes=(), expires_at=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        "future",
    ),
    (
        lambda: api_keys.create(ACCOUNT, "crm", scopes=(), expires_at="tomorrow"),
        "must be a datetime",
    ),
    (lambda: listing_of(api_keys.list, "nope", page_size=10).page(), "account_id must be a UUID"),
    (
        lambda: listing_of(api_keys.list, ACCOUNT, page_size=0).page(),
        "page_size must be from 1 to 1000",
    ),
    (
        lambda: listing_of(api_keys.list, ACCOUNT, page_size=1001).page(),
        "page_size must be from 1 to 1000",
    ),
    (lambda: listing_of(api_keys.list, ACCOUNT, page_size=True).page(), "page_size must be an int"),
    (lambda: api_keys.revoke(API_KEY), "api_key_id must be a UUID"),
    (lambda: api_keys.verify(None), "api_key must be a str"),
    (lambda: api_keys.has_scope("", "*", "read"), "entity_type is empty"),
    (lambda: api_keys.has_scope("segment", "", "read"), "entity_id is empty"),
    (lambda: api_keys.has_scope("segment", "*", ""), "action is empty"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_invalid_arguments_raise_before_any_request(
    call: Callable[[], Operation[Any]], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        next(call())
    assert API_KEY not in str(caught.value)


def test_a_name_of_the_maximum_length_is_accepted() -> None:
    assert sent(next(api_keys.create(ACCOUNT, "é" * 255)))[2]["p_name"] == "é" * 255


@pytest.mark.parametrize("field", ["entity_type", "entity_id", "action"])
@pytest.mark.parametrize("value", ["", None, 7])
def test_a_scope_requires_three_nonempty_strings(field: str, value: Any) -> None:
    texts: dict[str, Any] = {"entity_type": "segment", "entity_id": "*", "action": "read"}
    with pytest.raises(ValidationError, match=field):
        Scope.model_validate(texts | {field: value})


def test_a_key_with_scopes_round_trips() -> None:
    key = ApiKey.model_validate({**LISTED, "scopes": [READ]})
    assert ApiKey.model_validate(key.model_dump()) == key
    assert ApiKey.model_validate_json(key.model_dump_json()) == key
