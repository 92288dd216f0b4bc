"""Operations driven by hand: what they send, and how they read the answer."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from audiencelab_sdk import (
    AuthenticationError,
    InvalidArgumentError,
    PermissionDeniedError,
    Scope,
    UnexpectedResponseError,
    UsageEvent,
    UsageLogError,
)
from audiencelab_sdk._http._operation import Operation, Request
from tests.unit._operations import (
    ACCOUNT,
    API,
    API_KEY,
    CREATED,
    KEY_ID,
    LISTED,
    VALID,
    api_keys,
    success,
    unfetched,
)

TOMORROW = datetime.now(UTC) + timedelta(days=1)
READ = Scope(entity_type="segment", entity_id="*", action="read")
LOGGED = {
    "success": True,
    "log_id": KEY_ID,
    "timestamp": "2025-01-02T03:04:05+00:00",
    "error": None,
    "error_code": None,
}


def sent(call: Request) -> tuple[str, dict[str, str], Any]:
    """The path, query and body of the request that a call makes."""
    request: Any = call.build(API).request
    return str(request.path.path), dict(request.params), request.json


def answered(steps: Operation[Any], data: Any) -> Any:
    """What an operation of one call returns for an answer."""
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.send(success(data))
    return stop.value.value


def first_page() -> Any:
    return unfetched(api_keys.list, ACCOUNT).page()


def test_create_sends_all_parameters() -> None:
    call = next(api_keys.create(UUID(ACCOUNT), "crm", scopes=[READ], expires_at=TOMORROW))
    assert not call.repeatable
    path, query, body = sent(call)
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
    key = answered(api_keys.create(ACCOUNT, "crm", scopes=[READ]), CREATED)
    assert key.id == UUID(KEY_ID)
    assert key.key.get_secret_value() == API_KEY
    assert key.scopes == (READ,)
    assert key.created_at.microsecond == 678901
    assert key.created_at.utcoffset() == timedelta(0)


def test_list_asks_for_the_newest_first() -> None:
    call = next(unfetched(api_keys.list, ACCOUNT, page_size=25).page())
    assert call.repeatable
    assert sent(call) == (
        "/rest/v1/rpc/list_api_keys",
        {"order": "created_at.desc,id.desc", "limit": "25"},
        {"p_account_id": ACCOUNT},
    )


def test_the_next_page_begins_after_the_last_row_to_the_microsecond() -> None:
    last = {**LISTED, "created_at": "2025-01-02T03:04:05.000001+05:30"}
    listing = unfetched(api_keys.list, ACCOUNT, page_size=2)
    fetched = answered(listing.page(), [LISTED, last])
    assert sent(next(listing.page(fetched.last)))[1] == {
        "order": "created_at.desc,id.desc",
        "limit": "2",
        "created_at": "lte.2025-01-02T03:04:05.000001+05:30",
        "or": f"(created_at.lt.2025-01-02T03:04:05.000001+05:30,id.lt.{KEY_ID})",
    }


def test_one_odd_old_key_does_not_hide_the_others() -> None:
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
    items = answered(unfetched(api_keys.list, ACCOUNT, page_size=10).page(), rows).items
    assert [key.scopes for key in items] == [(), (), (), (), (READ,)]


def test_a_column_that_a_newer_database_adds_is_kept() -> None:
    steps = unfetched(api_keys.list, ACCOUNT, page_size=10).page()
    (key,) = answered(steps, [{**LISTED, "last_ip": "::1"}]).items
    assert key.model_extra == {"last_ip": "::1"}


def test_revoke_all_of_a_user() -> None:
    everywhere, here = api_keys.revoke_all_of(KEY_ID, None), api_keys.revoke_all_of(KEY_ID, ACCOUNT)
    call = next(everywhere)
    assert call.repeatable
    assert sent(call) == ("/rest/v1/rpc/revoke_api_keys_of", {}, {"p_user_id": KEY_ID})
    assert sent(next(here))[2] == {"p_user_id": KEY_ID, "p_account_id": ACCOUNT}
    assert answered(api_keys.revoke_all_of(KEY_ID, None), 3) == 3


def test_revoke() -> None:
    call = next(api_keys.revoke(KEY_ID))
    assert call.repeatable
    assert sent(call) == ("/rest/v1/rpc/revoke_api_key", {}, {"p_api_key_id": KEY_ID})
    assert answered(api_keys.revoke(KEY_ID), True) is None


@pytest.mark.parametrize("answer", [False, None, "true", []])
def test_revoke_is_not_believed_without_true(answer: Any) -> None:
    steps = api_keys.revoke(KEY_ID)
    next(steps)
    with pytest.raises(UnexpectedResponseError, match="revoke_api_key"):
        steps.send(success(answer))


@pytest.mark.parametrize("key", [API_KEY, SecretStr(API_KEY)])
def test_verify(key: str | SecretStr) -> None:
    call = next(api_keys.verify(key))
    assert call.repeatable
    assert sent(call) == ("/rest/v1/rpc/verify_api_key", {}, {"p_api_key": API_KEY})
    verification = answered(api_keys.verify(key), VALID)
    assert verification
    assert (verification.api_key_id, verification.account_id) == (UUID(KEY_ID), UUID(ACCOUNT))


def test_verification_of_an_invalid_key_is_false() -> None:
    invalid = {"valid": False, "api_key_id": None, "account_id": None, "error": "Invalid API key"}
    verification = answered(api_keys.verify(API_KEY), invalid)
    assert not verification
    assert verification.error == "Invalid API key"


@pytest.mark.parametrize(
    "text", ["", "x", "sk_", "sk_\x00", "sk_🔑", "\ud800", API_KEY[:-1] + "j", "sk_" + "a" * 10_000]
)
def test_what_cannot_be_a_key_is_answered_without_a_request(text: str) -> None:
    with pytest.raises(StopIteration) as stop:
        next(api_keys.verify(text))
    assert not stop.value.value
    assert stop.value.value.error == "Invalid API key"


def test_log_usage() -> None:
    call = next(
        api_keys.log_usage(
            KEY_ID,
            endpoint="/v1",
            method="GET",
            status_code=200,
            ip_address="::1",
            user_agent="curl/8",
        )
    )
    assert not call.repeatable
    assert sent(call) == (
        "/rest/v1/rpc/log_api_key_usage",
        {},
        {
            "p_api_key_id": KEY_ID,
            "p_endpoint": "/v1",
            "p_method": "GET",
            "p_status_code": 200,
            "p_ip_address": "::1",
            "p_user_agent": "curl/8",
        },
    )


def log_usage(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "endpoint": "/",
        "method": "GET",
        "status_code": None,
        "ip_address": None,
        "user_agent": None,
    }
    return api_keys.log_usage(KEY_ID, **(arguments | changes))


def test_log_usage_returns_the_line() -> None:
    log = answered(log_usage(), LOGGED)
    assert log.log_id == UUID(KEY_ID)
    assert log.timestamp == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_log_usage_that_failed_raises_what_the_database_said() -> None:
    steps = log_usage()
    next(steps)
    answer = {"success": False, "error": "no such key", "error_code": "23503"}
    with pytest.raises(UsageLogError, match="no such key") as caught:
        steps.send(success(answer))
    assert caught.value.code == "23503"


def test_log_usage_without_the_line_is_not_believed() -> None:
    steps = log_usage()
    next(steps)
    with pytest.raises(UnexpectedResponseError, match="log_id"):
        steps.send(success({**LOGGED, "log_id": None}))


def test_has_scope() -> None:
    call = next(api_keys.has_scope("segment", "7", "read"))
    assert call.repeatable
    path, _, body = sent(call)
    assert path == "/rest/v1/rpc/has_scope"
    assert body == {"p_entity_type": "segment", "p_entity_id": "7", "p_action": "read"}
    assert answered(api_keys.has_scope("segment", "7", "read"), True) is True
    assert answered(api_keys.has_scope("segment", "7", "read"), False) is False


def test_account_id() -> None:
    path, _, body = sent(next(api_keys.account_id()))
    assert (path, body) == ("/rest/v1/rpc/get_api_key_account_id", {})
    assert answered(api_keys.account_id(), ACCOUNT) == UUID(ACCOUNT)
    assert answered(api_keys.account_id(), None) is None


@pytest.mark.parametrize(
    "error",
    [
        PermissionDeniedError(403, "42501", "permission denied for function"),
        AuthenticationError(401, "42501", "permission denied for function"),
    ],
)
@pytest.mark.parametrize(
    "operation", [api_keys.account_id, partial(api_keys.has_scope, "a", "b", "c")]
)
def test_who_is_no_api_key_is_told_how_to_be_one(
    error: PermissionDeniedError, operation: Callable[[], Operation[Any]]
) -> None:
    steps = operation()
    next(steps)
    with pytest.raises(type(error), match="as_api_key"):
        steps.throw(error)


def test_an_expired_token_is_no_reason_to_say_so() -> None:
    steps = api_keys.account_id()
    next(steps)
    with pytest.raises(AuthenticationError) as caught:
        steps.throw(AuthenticationError(401, "PGRST303", "JWT expired"))
    assert "as_api_key" not in str(caught.value)


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
    with pytest.raises(UnexpectedResponseError, match="another shape") as caught:
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
        lambda: api_keys.create(ACCOUNT, "crm", scopes=(), expires_at=datetime(2999, 1, 1)),  # noqa: DTZ001 - it is the point
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
    (lambda: unfetched(api_keys.list, "nope", page_size=10).page(), "account_id must be a UUID"),
    (
        lambda: unfetched(api_keys.list, ACCOUNT, page_size=0).page(),
        "page_size must be from 1 to 1000",
    ),
    (
        lambda: unfetched(api_keys.list, ACCOUNT, page_size=1001).page(),
        "page_size must be from 1 to 1000",
    ),
    (lambda: unfetched(api_keys.list, ACCOUNT, page_size=True).page(), "page_size must be an int"),
    (lambda: api_keys.revoke(API_KEY), "api_key_id must be a UUID"),
    (lambda: api_keys.verify(None), "api_key must be a str"),
    (lambda: log_usage(endpoint=""), "endpoint is empty"),
    (lambda: log_usage(method=""), "method is empty"),
    (lambda: log_usage(endpoint=b"/"), "endpoint must be a str"),
    (lambda: log_usage(status_code=0), "status_code must be from 100 to 999"),
    (lambda: log_usage(status_code="200"), "status_code must be an int"),
    (lambda: log_usage(ip_address=1), "ip_address must be a str"),
    (lambda: api_keys.log_usage_batch([{}]), "sequence of UsageEvent; item 0 is dict"),
    (lambda: api_keys.log_usage_batch(None), "sequence of UsageEvent"),
    (lambda: api_keys.has_scope("", "*", "read"), "entity_type is empty"),
    (lambda: api_keys.has_scope("segment", "", "read"), "entity_id is empty"),
    (lambda: api_keys.has_scope("segment", "*", ""), "action is empty"),
]


@pytest.mark.parametrize(("operation", "message"), REFUSED)
def test_bad_arguments_are_refused_before_any_request(
    operation: Callable[[], Operation[Any]], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        next(operation())
    assert API_KEY not in str(caught.value)


def test_text_at_its_limits_is_accepted() -> None:
    assert sent(next(api_keys.create(ACCOUNT, "é" * 255)))[2]["p_name"] == "é" * 255
    body = sent(next(log_usage(status_code=100, user_agent="")))[2]
    assert (body["p_status_code"], body["p_user_agent"]) == (100, None)


@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_any_text_of_a_client_is_logged(text: str) -> None:
    call = next(log_usage(endpoint=text, method=text, ip_address=text, user_agent=text))
    body = json.loads(json.dumps(sent(call)[2], ensure_ascii=False).encode())
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint=text, method=text, ip_address=text, user_agent=text
    )
    for name in ("endpoint", "method", "ip_address", "user_agent"):
        logged = body[f"p_{name}"]
        assert logged == getattr(event, name)
        assert len(logged) == len(text)
        assert all(new in {old, "\ufffd"} for new, old in zip(logged, text, strict=True))
        assert "\x00" not in logged


def test_long_texts_of_the_log_are_cut() -> None:
    long = {"endpoint": "/" * 3_000, "method": "M" * 300, "user_agent": "u" * 3_000}
    sizes = [2_000, 255, 1_000, 255]
    steps = api_keys.log_usage(KEY_ID, status_code=200, ip_address="i" * 300, **long)
    body = sent(next(steps))[2]
    columns = ("endpoint", "method", "user_agent", "ip_address")
    assert [len(body[f"p_{column}"]) for column in columns] == sizes
    event = UsageEvent.model_validate({"api_key_id": KEY_ID, "ip_address": "i" * 300, **long})
    assert [len(getattr(event, column)) for column in columns] == sizes
