"""Keys checked from a cache: how long answers are used, what is shared, and what is bounded."""

import asyncio
import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import anyio
import httpx
import pytest
import respx
from pydantic import SecretStr

from audiencelab_sdk import (
    APIConnectionError,
    AsyncAudienceLab,
    AudienceLab,
    AudienceLabError,
    AuthenticatedApiKey,
    AuthenticationOverloadedError,
    ConfigurationError,
    InvalidArgumentError,
    KeyAuthenticator,
    RateLimitError,
    RejectionCode,
    ServerError,
)
from audiencelab_sdk._backend import _answers, _authenticators, _bucket
from audiencelab_sdk.testing import authenticated_key
from tests.unit._backends import ANSWER, UNKNOWN, Clock, authenticator_of, invented, soon
from tests.unit._both_clients import close, maybe_await
from tests.unit._samples import ACCOUNT, API_KEY, DETAILS, KEY, KEY_ID, URL, USER

OTHER_KEY_ID = str(UUID(int=7))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_answers, "time", clock)
    monkeypatch.setattr(_bucket, "time", clock)
    return clock


class Database:
    """Answers `authenticate_api_key`, and counts its calls."""

    def __init__(self, api: respx.MockRouter) -> None:
        self.answer: Any = ANSWER
        self.failure: Exception | httpx.Response | None = None
        self.route = api.post("/rpc/authenticate_api_key").mock(side_effect=self._respond)

    def _respond(self, _: httpx.Request) -> httpx.Response:
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            return self.failure
        return httpx.Response(200, json=self.answer)

    @property
    def calls(self) -> int:
        return self.route.call_count


@pytest.fixture
def database(api: respx.MockRouter) -> Database:
    return Database(api)


@pytest.fixture
def make(client_kind: str, client: Any) -> Callable[..., Any]:
    """Create an authenticator with options. The client does not retry."""
    return partial(authenticator_of, client_kind, client.with_options(max_retries=0))


async def ask(authenticator: Any, key: str = API_KEY, ip: str | None = None) -> Any:
    return await maybe_await(authenticator.authenticate(key, ip))


async def with_a_stale_answer(make: Callable[..., Any], database: Database, clock: Clock) -> Any:
    """Return an authenticator that has just used an answer because the database was away."""
    authenticator = make(stale_if_error=60)
    await ask(authenticator)
    database.failure = httpx.ConnectError("refused")
    clock.now += 30
    await ask(authenticator)
    return authenticator


async def landed(authenticator: Any) -> None:
    """Wait until no call is under way."""
    await soon(lambda: not authenticator._answers._flights)


async def test_a_valid_answer_is_used_for_max_age(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make()
    for seconds, calls in ((0, 1), (29.9, 1), (0.1, 2), (29.9, 2)):
        clock.now += seconds
        caller = await ask(authenticator)
        assert caller
        assert caller.allows("segment", "1", "read")
        assert database.calls == calls


async def test_a_caller_may_change_its_metadata(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(stale_if_error=60)
    database.answer = {**ANSWER, "metadata": {"plan": {"limits": [1]}}}

    async def change() -> None:
        caller = await ask(authenticator)
        assert caller.metadata == {"plan": {"limits": [1]}}
        caller.metadata["plan"]["limits"].append(2)

    await change()  # of the database
    await change()  # from the cache
    database.failure = httpx.ConnectError("refused")
    clock.now += 30
    await change()  # stale
    await change()


async def test_an_invalid_answer_is_used_for_five_seconds(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make()
    database.answer = UNKNOWN
    for seconds, calls in ((0, 1), (4.9, 1), (0.1, 2)):
        clock.now += seconds
        assert (await ask(authenticator)).code == RejectionCode.NOT_FOUND
        assert database.calls == calls


async def test_an_invalid_answer_is_used_no_longer_than_a_valid_one(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(max_age=2)
    database.answer = UNKNOWN
    await ask(authenticator)
    clock.now += 2
    await ask(authenticator)
    assert database.calls == 2


async def test_without_a_cache_each_call_asks(make: Callable[..., Any], database: Database) -> None:
    authenticator = make(max_age=0, max_lookups=1)
    for _ in range(5):  # the key is known after the first call
        assert await ask(authenticator)
    database.answer = UNKNOWN
    assert not await ask(authenticator)
    assert database.calls == 6
    with pytest.raises(AuthenticationOverloadedError):
        await ask(authenticator)


async def test_a_key_expires_to_the_second(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(stale_if_error=3600)
    expires_at = datetime.now(UTC) + timedelta(seconds=10)
    database.answer = {**ANSWER, "expires_at": expires_at.isoformat()}
    await ask(authenticator)
    clock.now += 9.5
    await ask(authenticator)
    assert database.calls == 1
    database.failure = httpx.ConnectError("refused")
    clock.now += 0.6
    with pytest.raises(APIConnectionError):  # a stale answer is not used either
        await ask(authenticator)


@pytest.mark.parametrize("expires_at", ["infinity", "2020-01-01T00:00:00+00:00"])
async def test_odd_expiries(
    make: Callable[..., Any], database: Database, clock: Clock, expires_at: str
) -> None:
    authenticator = make()
    database.answer = {**ANSWER, "expires_at": expires_at}
    for _ in range(2):
        assert await ask(authenticator)
    # By this machine's clock the key is expired, but the database decides.
    assert database.calls == (1 if expires_at == "infinity" else 2)
    clock.now += 1


@pytest.mark.parametrize(
    "text", ["", "no key", "sk_", API_KEY[:-1] + "X", "sk_\0", "sk_\udc80", "sk_" + "A" * 1_000_000]
)
async def test_what_cannot_be_a_key_reaches_nothing(
    make: Callable[..., Any], database: Database, text: str
) -> None:
    authenticator = make()
    assert (await ask(authenticator, text)).code == RejectionCode.NOT_FOUND
    assert database.calls == 0


async def test_wrong_arguments(make: Callable[..., Any], database: Database) -> None:
    with pytest.raises(InvalidArgumentError):
        await maybe_await(make().authenticate(7))
    with pytest.raises(InvalidArgumentError):
        await ask(make(), ip="no address")
    assert database.calls == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": -1},
        {"max_age": True},
        {"stale_if_error": float("inf")},
        {"max_entries": 0},
        {"max_lookups": 0},
        {"max_age": "30"},
    ],
)
async def test_wrong_options(make: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        make(**options)


async def test_the_other_kind_of_client(client_kind: str) -> None:
    other: Any = AudienceLab(URL, KEY)
    twin = "to KeyAuthenticator"
    if client_kind == "sync":
        other, twin = AsyncAudienceLab(URL, KEY), "to AsyncKeyAuthenticator"
    with pytest.raises(ConfigurationError, match=twin):
        authenticator_of(client_kind, other)
    await close(other)


async def test_an_answer_about_a_restricted_key_is_used_for_its_address(
    make: Callable[..., Any], database: Database
) -> None:
    authenticator = make()
    database.answer = {**ANSWER, "ip_restricted": True}
    assert await ask(authenticator, ip="192.0.2.1")
    assert await ask(authenticator, ip="192.0.2.1")
    assert database.calls == 1
    database.answer = {**UNKNOWN, "code": "ip_not_allowed", "api_key_id": KEY_ID}
    assert not await ask(authenticator, ip="192.0.2.2")
    assert not await ask(authenticator)
    assert not await ask(authenticator, ip="192.0.2.2")
    assert database.calls == 3
    assert await ask(authenticator, ip="192.0.2.1")
    assert database.calls == 3


async def test_a_restriction_replaces_an_older_answer(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(stale_if_error=3600)
    await ask(authenticator)
    clock.now += 30
    database.answer = {**ANSWER, "ip_restricted": True}
    await ask(authenticator, ip="192.0.2.1")
    database.failure = httpx.ConnectError("refused")
    with pytest.raises(APIConnectionError):
        await ask(authenticator, ip="192.0.2.2")
    clock.now += 31
    assert await ask(authenticator, ip="192.0.2.1")


async def test_entries_are_bounded_and_the_least_recently_used_go(
    make: Callable[..., Any], database: Database
) -> None:
    authenticator = make(max_entries=3)
    for number in (1, 2, 3, 1, 4, 1):
        await ask(authenticator, invented(number))
    assert database.calls == 4
    await ask(authenticator, invented(2))
    assert database.calls == 5


async def test_a_flood_evicts_no_real_key_and_reaches_the_database_at_a_bounded_rate(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(max_entries=50, max_lookups=10)
    await ask(authenticator)
    database.answer = UNKNOWN
    refused: list[AuthenticationOverloadedError] = []
    for number in range(1000):
        clock.now += 0.001
        try:
            await ask(authenticator, invented(number))
        except AuthenticationOverloadedError as error:
            refused.append(error)
    assert database.calls <= 1 + 10 + 10
    assert len(refused) >= 980
    assert all(0 < error.retry_after <= 0.1 for error in refused)
    database.answer = ANSWER
    clock.now += 0.001
    assert await ask(authenticator)  # from the cache
    clock.now += 30.0
    for number in range(2000, 2010):
        await ask(authenticator, invented(number))
    with pytest.raises(AuthenticationOverloadedError, match=r"retry in 0\.1 s"):
        await ask(authenticator, invented(3000))
    assert await ask(authenticator)  # known, so its lookup is not bounded


async def test_a_slow_rate(make: Callable[..., Any], database: Database, clock: Clock) -> None:
    authenticator = make(max_lookups=0.1)
    database.answer = UNKNOWN
    await ask(authenticator, invented(1))
    with pytest.raises(AuthenticationOverloadedError) as caught:
        await ask(authenticator, invented(2))
    assert caught.value.retry_after == pytest.approx(10)
    clock.now += 10.01
    await ask(authenticator, invented(2))


FAILURES: list[tuple[Any, type[AudienceLabError]]] = [
    (httpx.ConnectError("refused"), APIConnectionError),
    (httpx.Response(503, json={"message": "down"}), ServerError),
]


@pytest.mark.parametrize(("failure", "error"), FAILURES)
async def test_closed_by_default(
    make: Callable[..., Any],
    database: Database,
    clock: Clock,
    failure: Any,
    error: type[AudienceLabError],
) -> None:
    authenticator = make()
    await ask(authenticator)
    database.failure = failure
    assert await ask(authenticator)
    clock.now += 30
    with pytest.raises(error):
        await ask(authenticator)


@pytest.mark.parametrize(("failure", "error"), FAILURES)
async def test_stale_if_error(
    make: Callable[..., Any],
    database: Database,
    clock: Clock,
    failure: Any,
    error: type[AudienceLabError],
) -> None:
    authenticator = make(stale_if_error=60)
    await ask(authenticator)
    database.failure = failure
    for seconds, calls in ((30, 2), (4.9, 2), (0.2, 3), (54.8, 4)):
        clock.now += seconds
        assert await ask(authenticator)
        await landed(authenticator)
        assert database.calls == calls
    with pytest.raises(error):
        await ask(authenticator, invented(1))
    clock.now += 0.2
    with pytest.raises(error):
        await ask(authenticator)


@pytest.mark.parametrize("max_age", [0, 30])
async def test_nobody_waits_for_a_database_that_hangs(
    client_kind: str, clock: Clock, max_age: float
) -> None:
    key, calls, released = authenticated_key(), [0], threading.Event()

    def count() -> bool:
        """Count a call, and return whether it hangs."""
        calls[0] += 1
        if calls[0] == 2:
            raise APIConnectionError("refused")
        return calls[0] > 2

    def authenticate(*_: object) -> AuthenticatedApiKey:
        if count():
            released.wait(5)
        return key

    async def authenticate_later(*_: object) -> AuthenticatedApiKey:
        hangs = count()
        while hangs and not released.is_set():  # noqa: ASYNC110 - both kinds use one event
            await anyio.sleep(0.005)
        return key

    api_keys = SimpleNamespace(
        authenticate=authenticate if client_kind == "sync" else authenticate_later
    )
    authenticator = authenticator_of(
        client_kind, SimpleNamespace(api_keys=api_keys), max_age=max_age, stale_if_error=60
    )
    assert await ask(authenticator)
    clock.now += max_age + 1
    assert await ask(authenticator)
    clock.now += 5
    began = time.monotonic()
    with anyio.fail_after(2):
        for _ in range(3):
            assert await ask(authenticator)
    assert time.monotonic() - began < 2
    await soon(lambda: calls == [3])
    released.set()
    await landed(authenticator)
    if max_age:
        assert await ask(authenticator)
        assert calls == [3]


async def test_refreshes_are_bounded(
    make: Callable[..., Any],
    database: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_answers, "_MOST_REFRESHES", 0)
    authenticator = await with_a_stale_answer(make, database, clock)
    clock.now += 5
    assert await ask(authenticator)
    assert database.calls == 2


async def test_once_the_database_is_back_no_stale_answer_is_used(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = await with_a_stale_answer(make, database, clock)
    database.failure = None
    database.answer = {**UNKNOWN, "code": "revoked", "api_key_id": KEY_ID}
    clock.now += 5
    assert not await ask(authenticator, invented(1))
    assert not await ask(authenticator)


async def test_a_refresh_that_fails_otherwise_ends_the_use_of_a_stale_answer(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = await with_a_stale_answer(make, database, clock)
    clock.now += 5
    database.failure = httpx.Response(429, json={"message": "slow"})
    assert await ask(authenticator)
    await landed(authenticator)
    with pytest.raises(RateLimitError):
        await ask(authenticator)


@pytest.mark.parametrize("client_kind", ["sync"], indirect=True)
async def test_without_threads_the_caller_refreshes(
    make: Callable[..., Any], database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    authenticator = await with_a_stale_answer(make, database, clock)
    clock.now += 5
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert await ask(authenticator)
    assert database.calls == 3


async def test_a_rejection_is_an_answer(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(stale_if_error=60)
    await ask(authenticator)
    clock.now += 30
    database.answer = {**UNKNOWN, "code": "revoked", "api_key_id": KEY_ID}
    assert not await ask(authenticator)
    clock.now += 5
    database.failure = httpx.ConnectError("refused")
    with pytest.raises(APIConnectionError):
        await ask(authenticator)


async def test_other_errors_use_no_stale_answer(
    make: Callable[..., Any], database: Database, clock: Clock
) -> None:
    authenticator = make(stale_if_error=60)
    await ask(authenticator)
    clock.now += 30
    database.failure = httpx.Response(429, json={"message": "slow"}, headers={"Retry-After": "7"})
    with pytest.raises(RateLimitError) as caught:
        await ask(authenticator)
    assert caught.value.retry_after == 7


CHANGES: list[tuple[str, Any, Callable[[Any], Any]]] = [
    ("revoke_api_key", True, lambda client: client.api_keys.revoke(KEY_ID)),
    ("update_api_key", DETAILS, lambda client: client.api_keys.update(KEY_ID, name="n")),
    ("disable_api_key", DETAILS, lambda client: client.api_keys.disable(KEY_ID)),
    ("enable_api_key", DETAILS, lambda client: client.api_keys.enable(KEY_ID)),
    ("rotate_api_key", None, lambda client: client.api_keys.rotate(KEY_ID)),
    ("revoke_api_keys_of", 1, lambda client: client.api_keys.revoke_all_of(ACCOUNT)),
]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("function", "result", "change"), CHANGES, ids=[c[0] for c in CHANGES])
async def test_what_this_process_changes_is_forgotten_at_once(
    client_class: Any,
    make: Callable[..., Any],
    api: respx.MockRouter,
    database: Database,
    function: str,
    result: Any,
    change: Callable[[Any], Any],
    lost: bool,
) -> None:
    authenticator = make()
    database.answer = {**ANSWER, "api_key_id": OTHER_KEY_ID, "created_by": str(USER)}
    await ask(authenticator, invented(1))
    database.answer = {**ANSWER, "ip_restricted": True}
    await ask(authenticator, ip="192.0.2.1")
    database.answer = {**UNKNOWN, "code": "disabled", "api_key_id": KEY_ID, "created_by": ACCOUNT}
    await ask(authenticator, invented(2))
    calls = database.calls

    route = api.post(f"/rpc/{function}")
    route.mock(side_effect=httpx.ReadError("lost")) if lost else route.respond(json=result)
    other = client_class(URL, KEY, max_retries=0).as_user("a.b.c")
    try:
        await maybe_await(change(other))
    except AudienceLabError:
        assert lost or result is None
    await ask(authenticator, invented(1))
    assert database.calls == calls
    await ask(authenticator, ip="192.0.2.1")
    await ask(authenticator, invented(2))
    assert database.calls == calls + 2


async def test_a_listener_that_is_gone_is_not_told(
    make: Callable[..., Any], client: Any, api: respx.MockRouter
) -> None:
    authenticator = make()
    del authenticator
    gc.collect()
    api.post("/rpc/revoke_api_key").respond(json=True)
    await maybe_await(client.api_keys.revoke(KEY_ID))


def no_frame_shows(error: BaseException, secret: str) -> None:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in shown.stack if "audiencelab_sdk" in frame.filename]
    assert ours
    assert not any(secret in str(frame.locals) for frame in ours)


async def test_no_text_of_a_key_stays_in_memory_or_in_an_error(
    make: Callable[..., Any], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authenticator = make()
    secrets = [invented(number) for number in (4711, 4712, 4713)]
    await ask(authenticator, secrets[0])
    database.answer = UNKNOWN
    await ask(authenticator, secrets[1])
    database.failure = httpx.Response(503)
    with suppress(ServerError):
        await ask(authenticator, secrets[2])
    gc.collect()
    questions = [each for each in gc.get_objects() if isinstance(each, _answers.Question)]
    held = {each.key.get_secret_value() for each in questions}
    for secret in secrets:
        assert secret not in caplog.text
        assert secret not in held
        assert secret not in repr(vars(authenticator._answers))


async def test_a_hundred_calls_with_one_key_are_one_call(
    client_kind: str, make: Callable[..., Any], api: respx.MockRouter
) -> None:
    authenticator = make()
    answer = {**ANSWER, "metadata": {"plan": "free"}}
    calls: list[int] = []

    if client_kind == "sync":
        release = threading.Event()

        def respond(_: httpx.Request) -> httpx.Response:
            calls.append(1)
            release.wait(5)
            return httpx.Response(200, json=answer)

        api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(authenticator.authenticate(API_KEY)))
            for _ in range(100)
        ]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join()
    else:
        ready = anyio.Event()

        async def respond_later(_: httpx.Request) -> httpx.Response:
            calls.append(1)
            await ready.wait()
            return httpx.Response(200, json=answer)

        api.post("/rpc/authenticate_api_key").mock(side_effect=respond_later)
        answers = []

        async def call() -> None:
            answers.append(await authenticator.authenticate(API_KEY))

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(call)
            await soon(lambda: bool(calls))
            ready.set()
    assert len(answers) == 100
    assert all(answers)
    assert len({id(answer.metadata) for answer in answers}) == 100
    assert len(calls) == 1


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"], indirect=True)
async def test_cancelled_tasks_cancel_neither_the_call_nor_each_other(
    make: Callable[..., Any], api: respx.MockRouter
) -> None:
    authenticator = make()
    calls: list[int] = []
    ready = anyio.Event()

    async def respond(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        await ready.wait()
        return httpx.Response(200, json=ANSWER)

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    answers: list[Any] = []

    async def call(scope: anyio.CancelScope) -> None:
        with scope:
            answers.append(await authenticator.authenticate(API_KEY))

    scopes = [anyio.CancelScope() for _ in range(10)]
    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(call, scope)
        await soon(lambda: bool(calls))
        for scope in scopes[:9]:  # the first one, which started the call, among them
            scope.cancel()
        await anyio.sleep(0.01)
        ready.set()
    assert len(answers) == 1
    assert await authenticator.authenticate(API_KEY)
    assert len(calls) == 1


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"], indirect=True)
async def test_a_call_goes_on_if_all_tasks_are_cancelled(
    make: Callable[..., Any], api: respx.MockRouter
) -> None:
    authenticator = make()
    calls: list[int] = []
    ready = anyio.Event()

    async def respond(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        await ready.wait()
        return httpx.Response(200, json=ANSWER)

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    with anyio.move_on_after(0.05):
        await authenticator.authenticate(API_KEY)
    ready.set()
    await soon(lambda: not authenticator._answers._flights)
    assert await authenticator.authenticate(API_KEY)
    assert len(calls) == 1


@pytest.mark.parametrize("client_kind", ["asyncio"], indirect=True)
async def test_a_call_that_asyncio_cancels_before_its_first_step_leaves_nobody_waiting(
    make: Callable[..., Any], api: respx.MockRouter
) -> None:
    route = api.post("/rpc/authenticate_api_key").respond(json=ANSWER)
    authenticator = make()
    leader = asyncio.create_task(authenticator.authenticate(API_KEY))
    await asyncio.sleep(0)
    (call,) = [each for each in asyncio.all_tasks() if "authentication" in each.get_name()]
    call.cancel()
    with anyio.fail_after(30):
        assert await leader
    assert call.cancelled()
    assert route.call_count == 1


def test_an_interrupted_thread_interrupts_no_other(api: respx.MockRouter) -> None:
    calls: list[int] = []
    waiting = threading.Event()

    def respond(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        if len(calls) == 1:
            waiting.wait(5)
            raise KeyboardInterrupt
        return httpx.Response(200, json=ANSWER)

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    answers: list[Any] = []
    with AudienceLab(URL, KEY) as client:
        authenticator = KeyAuthenticator(client)

        def call() -> None:
            try:
                answers.append(authenticator.authenticate(API_KEY))
            except KeyboardInterrupt:
                answers.append("interrupted")

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        waiting.set()
        for thread in threads:
            thread.join()
    assert answers.count("interrupted") == 1
    assert len([each for each in answers if each]) == 5
    assert len(calls) == 2


async def test_those_who_wait_for_one_call_get_errors_of_their_own(
    client_kind: str, make: Callable[..., Any], api: respx.MockRouter
) -> None:
    authenticator = make()
    route = api.post("/rpc/authenticate_api_key")
    errors: list[Any] = []
    if client_kind == "sync":
        release = threading.Event()

        def respond(_: httpx.Request) -> httpx.Response:
            release.wait(5)
            raise httpx.ConnectError("refused")

        route.mock(side_effect=respond)

        def call() -> None:
            try:
                authenticator.authenticate(API_KEY)
            except APIConnectionError as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join()
    else:

        async def call_later() -> None:
            with pytest.raises(APIConnectionError) as caught:
                await authenticator.authenticate(API_KEY)
            errors.append(caught.value)

        route.mock(side_effect=httpx.ConnectError("refused"))
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call_later)
    assert len({id(error) for error in errors}) == 5
    for error in errors:
        assert error.__context__ is None
        no_frame_shows(error, API_KEY)


async def test_an_answer_that_cannot_be_kept_leaves_nobody_waiting(
    make: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    authenticator = make()
    monkeypatch.setattr(authenticator._answers, "land", fail)
    flight: Any = _answers.Flight(
        _answers.Question(SecretStr(API_KEY), b"", None), None, SimpleNamespace(set=Mock()), 0, 0
    )
    with pytest.raises(ZeroDivisionError):
        _authenticators._land(authenticator._answers, flight)
    flight.landed.set.assert_called_once()


async def test_an_error_that_is_not_the_sdks_is_raised_as_it_is(
    make: Callable[..., Any], database: Database
) -> None:
    database.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await ask(make())


@pytest.mark.parametrize("client_kind", ["asyncio", "trio"], indirect=True)
async def test_a_call_that_left_before_a_change_is_not_kept(
    make: Callable[..., Any], client: Any, api: respx.MockRouter
) -> None:
    authenticator = make()
    outcomes: list[Any] = []
    ready = anyio.Event()
    calls: list[int] = []

    async def respond(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        if len(calls) == 1:
            await ready.wait()
            return httpx.Response(200, json=ANSWER)
        return httpx.Response(200, json={**UNKNOWN, "code": "revoked", "api_key_id": KEY_ID})

    async def call() -> None:
        outcomes.append(await authenticator.authenticate(API_KEY))

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    api.post("/rpc/revoke_api_key").respond(json=True)
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await soon(lambda: bool(calls))
        await client.api_keys.revoke(KEY_ID)
        # It does not wait for the older call either.
        assert not await authenticator.authenticate(API_KEY)
        ready.set()
    assert outcomes[0]  # it was asked for before the key was revoked
    assert not await authenticator.authenticate(API_KEY)
    assert len(calls) == 2


async def test_those_who_wait_with_another_address_ask_for_themselves(
    client_kind: str, make: Callable[..., Any], api: respx.MockRouter
) -> None:
    authenticator = make()
    addresses: list[str] = []
    lock = threading.Lock()

    def respond(request: httpx.Request) -> httpx.Response:
        address = httpx.Response(200, content=request.content).json()["p_ip"]
        with lock:
            addresses.append(address)
        time.sleep(0.1 if client_kind == "sync" else 0)  # so that the others wait
        if address.endswith(".1"):
            return httpx.Response(200, json={**ANSWER, "ip_restricted": True})
        return httpx.Response(200, json={**UNKNOWN, "code": "ip_not_allowed"})

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    answers: dict[str, Any] = {}
    ips = [f"192.0.2.{number}" for number in (1, 1, 1, 2, 2, 3)]

    async def call(ip: str) -> None:
        answers[ip] = await maybe_await(
            await anyio.to_thread.run_sync(authenticator.authenticate, API_KEY, ip)
            if client_kind == "sync"
            else authenticator.authenticate(API_KEY, ip)
        )

    async with anyio.create_task_group() as group:
        for ip in ips:
            group.start_soon(call, ip)
    assert [bool(answers[ip]) for ip in sorted(answers)] == [True, False, False]
    assert sorted(addresses) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


async def test_an_answer_that_arrived_meanwhile_is_used(
    make: Callable[..., Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = make()
    await ask(authenticator)
    monkeypatch.setattr(authenticator._answers, "find", lambda _: None)
    assert await ask(authenticator)
    assert database.calls == 1


@pytest.mark.parametrize("client_kind", ["asyncio"], indirect=True)
async def test_a_call_that_was_cancelled_is_made_again(
    make: Callable[..., Any], api: respx.MockRouter
) -> None:
    calls: list[int] = []

    def respond(_: httpx.Request) -> httpx.Response:
        calls.append(1)
        if len(calls) == 1:
            raise anyio.get_cancelled_exc_class()
        return httpx.Response(200, json=ANSWER)

    api.post("/rpc/authenticate_api_key").mock(side_effect=respond)
    assert await ask(make())
    assert len(calls) == 2
