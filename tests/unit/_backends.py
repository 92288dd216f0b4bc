"""Helpers for the tests of authenticators and recorders, of either client."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio

from audiencelab_sdk import (
    AsyncKeyAuthenticator,
    AsyncUsageRecorder,
    KeyAuthenticator,
    UsageEvent,
    UsageRecorder,
)
from audiencelab_sdk._key_format import checksum
from tests.unit._both_clients import maybe_await
from tests.unit._samples import ACCOUNT, KEY_ID

ANSWER: dict[str, Any] = {
    "valid": True,
    "code": "valid",
    "api_key_id": KEY_ID,
    "account_id": ACCOUNT,
    "name": "crm",
    "scopes": [{"entity_type": "segment", "entity_id": "*", "action": "read"}],
    "expires_at": None,
    "created_by": ACCOUNT,
    "metadata": {},
    "ip_restricted": False,
}
UNKNOWN: dict[str, Any] = {"valid": False, "code": "not_found"}


def invented(number: int) -> str:
    """Return a text that may be an API key."""
    text = f"sk_{number:040}"
    return text + checksum(text)


def authenticator_of(client_kind: str, client: Any, **options: Any) -> Any:
    kind = KeyAuthenticator if client_kind == "sync" else AsyncKeyAuthenticator
    return kind(client, **options)


def recorder_of(client_kind: str, client: Any, **options: Any) -> Any:
    kind = UsageRecorder if client_kind == "sync" else AsyncUsageRecorder
    return kind(client, **options)


async def close_recorder(recorder: Any, *arguments: Any) -> None:
    close = recorder.aclose if isinstance(recorder, AsyncUsageRecorder) else recorder.close
    await maybe_await(close(*arguments))


def event(endpoint: str = "/v1/segments", **fields: Any) -> UsageEvent:
    return UsageEvent(api_key_id=UUID(KEY_ID), endpoint=endpoint, method="GET", **fields)


class Clock:
    """A clock that a test moves, for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


async def soon(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait in a task until a condition holds."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is anything
            await anyio.sleep(0.005)
