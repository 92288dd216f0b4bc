"""API keys after their creation: authenticate, get, update, disable, enable, rotate and issue."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import pytest

from audiencelab_sdk import (
    UNSET,
    AuthenticatedApiKey,
    InvalidArgumentError,
    RejectedApiKey,
    RejectionCode,
    Scope,
)
from audiencelab_sdk._http._operation import Operation
from tests.unit._operations import api_keys, result_of, sent
from tests.unit._samples import ACCOUNT, API_KEY, CREATED, DETAILS, KEY_ID

TOMORROW = datetime.now(UTC) + timedelta(days=1)
READ = Scope(entity_type="segment", entity_id="*", action="read")
AUTHENTICATED: dict[str, Any] = {
    "valid": True,
    "code": "valid",
    "api_key_id": KEY_ID,
    "account_id": ACCOUNT,
    "name": "crm",
    "scopes": [READ.model_dump(), {"entity_type": "segment"}],
    "expires_at": None,
    "created_by": ACCOUNT,
    "metadata": {"team": "crm"},
    "ip_restricted": False,
}
NOT_FOUND = dict.fromkeys(AUTHENTICATED) | {"valid": False, "code": "not_found"}


def test_authenticate_sends_the_text_and_the_address() -> None:
    request = next(api_keys.authenticate(API_KEY, "192.0.2.1"))
    assert request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/authenticate_api_key",
        {},
        {"p_api_key": API_KEY, "p_ip": "192.0.2.1"},
    )


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        (ip_address("2001:db8::1"), "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_authenticate_accepts_any_address(ip: Any, address: str) -> None:
    body = sent(next(api_keys.authenticate(API_KEY, ip)))[2]
    assert ip_address(body["p_ip"]) == ip_address(address)


def test_authenticate_needs_no_address() -> None:
    assert sent(next(api_keys.authenticate(API_KEY)))[2]["p_ip"] is None


def test_authenticate_returns_the_caller() -> None:
    caller = result_of(api_keys.authenticate(API_KEY), AUTHENTICATED)
    assert caller
    assert type(caller) is AuthenticatedApiKey
    assert caller.account_id == UUID(ACCOUNT)
    assert caller.scopes == (READ,)
    assert caller.metadata == {"team": "crm"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("not_found", RejectionCode.NOT_FOUND),
        ("disabled", RejectionCode.DISABLED),
        ("ip_not_allowed", RejectionCode.IP_NOT_ALLOWED),
        ("of_a_newer_database", "of_a_newer_database"),
    ],
)
def test_authenticate_returns_the_reason(code: str, expected: Any) -> None:
    rejected = result_of(api_keys.authenticate(API_KEY), NOT_FOUND | {"code": code})
    assert not rejected
    assert type(rejected) is RejectedApiKey
    assert rejected.code == expected
    assert rejected.error == "Invalid API key"


@pytest.mark.parametrize("text", ["", "sk_", "Bearer x", API_KEY[:-1] + "0", "\x00", "x" * 10_000])
def test_authenticate_rejects_a_malformed_key_without_a_request(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="audiencelab_sdk")
    with pytest.raises(StopIteration) as stop:
        next(api_keys.authenticate(text))
    assert stop.value.value.code is RejectionCode.NOT_FOUND
    assert "api_keys.authenticate: no request for a malformed API key" in caplog.text


@pytest.mark.parametrize(
    ("scope", "asked", "allowed"),
    [
        (("segment", "*", "read"), ("segment", "7", "read"), True),
        (("segment", "7", "read"), ("segment", "7", "read"), True),
        (("segment", "7", "read"), ("segment", "8", "read"), False),
        (("segment", "*", "read"), ("segment", "7", "write"), False),
        (("segment", "*", "read"), ("enrichment", "7", "read"), False),
        (("*", "*", "*"), ("anything", "at", "all"), True),
        (("segment", "7", "read"), ("*", "*", "*"), False),
    ],
)
def test_allows_decides_by_the_scopes(
    scope: tuple[str, str, str], asked: tuple[str, str, str], allowed: bool
) -> None:
    scopes = [dict(zip(Scope.model_fields, scope, strict=True))]
    caller = AuthenticatedApiKey.model_validate(AUTHENTICATED | {"scopes": scopes})
    assert caller.allows(*asked) is allowed


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (api_keys.get, "get_api_key"),
        (api_keys.disable, "disable_api_key"),
        (api_keys.enable, "enable_api_key"),
    ],
)
def test_methods_of_one_key(method: Any, function: str) -> None:
    request = next(method(KEY_ID))
    assert request.repeatable
    assert sent(request) == (f"/rest/v1/rpc/{function}", {}, {"p_api_key_id": KEY_ID})
    key = result_of(method(KEY_ID), DETAILS)
    assert key.allowed_ips == (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128"))
    assert key.account_id == UUID(ACCOUNT)


def test_update_sends_only_what_is_passed() -> None:
    request = next(
        api_keys.update(
            KEY_ID,
            expires_at=None,
            allowed_ips=["192.0.2.0/24", ip_network("2001:db8::/32")],
            metadata={"team": "crm"},
        )
    )
    assert request.repeatable
    assert sent(request)[2] == {
        "p_api_key_id": KEY_ID,
        "p_changes": {
            "expires_at": None,
            "allowed_ips": ["192.0.2.0/24", "2001:db8::/32"],
            "metadata": {"team": "crm"},
        },
    }
    changes = sent(next(api_keys.update(KEY_ID, name="n", scopes=[READ], expires_at=TOMORROW)))[2]
    assert changes["p_changes"] == {
        "name": "n",
        "scopes": [READ.model_dump()],
        "expires_at": TOMORROW.isoformat(),
    }
    assert sent(next(api_keys.update(KEY_ID, allowed_ips=None)))[2]["p_changes"] == {
        "allowed_ips": None
    }


def test_update_returns_the_key() -> None:
    key = result_of(api_keys.update(KEY_ID, name="crm"), DETAILS)
    assert key.metadata == {"team": "crm"}


def test_rotate_is_not_repeated() -> None:
    request = next(api_keys.rotate(KEY_ID, overlap=timedelta(hours=2)))
    assert not request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/rotate_api_key",
        {},
        {"p_api_key_id": KEY_ID, "p_overlap": "7200.000000 seconds"},
    )
    assert result_of(api_keys.rotate(KEY_ID), CREATED).key.get_secret_value() == API_KEY


def test_issue_sends_the_creator() -> None:
    request = next(api_keys.issue(ACCOUNT, "crm", created_by=KEY_ID, scopes=[READ]))
    assert not request.repeatable
    assert sent(request) == (
        "/rest/v1/rpc/issue_api_key",
        {},
        {
            "p_account_id": ACCOUNT,
            "p_created_by": KEY_ID,
            "p_name": "crm",
            "p_scopes": [READ.model_dump()],
            "p_expires_at": None,
        },
    )
    assert result_of(api_keys.issue(ACCOUNT, "crm", created_by=KEY_ID), CREATED).name == "crm"


REFUSED: list[tuple[Callable[[], Operation[Any]], str]] = [
    (lambda: api_keys.authenticate(None), "api_key must be a str or SecretStr"),
    (lambda: api_keys.authenticate(API_KEY, "nowhere"), "ip must be an IP address, such as"),
    (lambda: api_keys.authenticate(API_KEY, 7.5), "ip must be an IP address, such as"),
    (lambda: api_keys.get("sk_a"), "api_key_id must be a UUID"),
    (lambda: api_keys.update(KEY_ID), "there is nothing to update"),
    (lambda: api_keys.update(KEY_ID, name=UNSET), "there is nothing to update"),
    (lambda: api_keys.update(KEY_ID, name=" "), "name is empty or blank"),
    (lambda: api_keys.update(KEY_ID, metadata=[1]), "metadata must be a mapping"),
    (lambda: api_keys.update(KEY_ID, metadata={"a": "x" * 5000}), "at most 4,096 are allowed"),
    (lambda: api_keys.update(KEY_ID, allowed_ips="192.0.2.1"), "allowed_ips must be a sequence"),
    (lambda: api_keys.update(KEY_ID, allowed_ips=[]), "1 to 50 networks, or be None"),
    (lambda: api_keys.update(KEY_ID, allowed_ips=["::"] * 51), "1 to 50 networks, or be None"),
    (lambda: api_keys.update(KEY_ID, allowed_ips=["a"]), r"allowed_ips\[0\] is not a network"),
    (lambda: api_keys.update(KEY_ID, allowed_ips=["192.0.2.1/24"]), "has host bits set"),
    (lambda: api_keys.rotate(KEY_ID, overlap=timedelta(days=31)), "overlap must be a timedelta of"),
    (lambda: api_keys.rotate(KEY_ID, overlap=3600), "overlap must be a timedelta of 0 to 30 days"),
    (lambda: api_keys.issue(ACCOUNT, "n", created_by="me"), "created_by must be a UUID"),
]


@pytest.mark.parametrize(("call", "problem"), REFUSED)
def test_invalid_arguments_raise_before_any_request(
    call: Callable[[], Operation[Any]], problem: str
) -> None:
    operation = call()
    with pytest.raises(InvalidArgumentError, match=problem):
        next(operation)
