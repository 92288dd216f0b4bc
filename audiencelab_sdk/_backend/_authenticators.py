"""`KeyAuthenticator` and `AsyncKeyAuthenticator`: API keys checked from a cache."""

import threading
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import anyio
from pydantic import SecretStr

from audiencelab_sdk._backend._answers import (
    Answers,
    Flight,
    Question,
    is_for_address,
)
from audiencelab_sdk._backend._clients import refuse
from audiencelab_sdk._client import AsyncAudienceLab, AudienceLab
from audiencelab_sdk._loops import event_loop, spawn
from audiencelab_sdk._secrets import hidden
from audiencelab_sdk.models import ApiKeyAuthentication


class KeyAuthenticator:
    """Checks API keys from a cache. A revoked key is refused everywhere after `max_age` seconds.

    What this process itself changes, through any client, it forgets at once: it refuses a key that
    it revoked with the next call. A key's own expiry is kept to the second.

    It may be shared between threads, and used before and after a fork: a child begins with an empty
    cache. Threads that ask for the same key at the same time share one call of the database. Only
    digests of keys stay in memory. ::

        authenticator = KeyAuthenticator(client)
        text = request.headers.get("x-api-key", "")
        caller = authenticator.authenticate(text, request.remote_addr)

    Args:
        client: A client that acts as the service role. It stays the caller's to close.
        max_age: How long a valid answer is used, in seconds. An invalid one is used for 5 seconds,
            or for `max_age` if that is less. With 0, each call asks the database.
        stale_if_error: For how many seconds longer a valid answer is used while the database cannot
            be reached (APIConnectionError, ServerError), but never beyond the key's expiry. Once a
            call for the key has failed, it is repeated beside the requests, every 5 seconds, and
            they do not wait for it. With 0, the error is raised.
        max_entries: How many valid answers are kept, and how many invalid ones. The least recently
            used are removed.
        max_lookups: The largest number of lookups a second for keys without a valid answer in the
            cache. It protects the database from invented keys. After an idle second, as many are
            possible at once.

    Raises:
        ConfigurationError: `client` is an AsyncAudienceLab, which AsyncKeyAuthenticator takes.
        InvalidArgumentError: A number is negative or not finite.
    """

    def __init__(
        self,
        client: AudienceLab,
        *,
        max_age: float = 30.0,
        stale_if_error: float = 0.0,
        max_entries: int = 10_000,
        max_lookups: float = 200.0,
    ) -> None:
        refuse(AsyncAudienceLab, client, twin="AsyncKeyAuthenticator")
        self._client = client
        self._answers: Answers[threading.Event] = Answers(
            max_age=max_age,
            stale_if_error=stale_if_error,
            max_entries=max_entries,
            max_lookups=max_lookups,
        )

    def authenticate(
        self, api_key: str | SecretStr, ip: str | IPv4Address | IPv6Address | None = None
    ) -> ApiKeyAuthentication:
        """Check whether a text is an API key that may be used, whose, and what it may do.

        Calls `api_keys.authenticate` (the database function ``authenticate_api_key``) unless the
        answer is in the cache. If a key is restricted to networks, its answer is cached for each
        address separately.

        Args:
            api_key: The text that came with the request. It may contain anything.
            ip: The client's address. Keys that are restricted to networks are rejected without it.

        Returns:
            An AuthenticatedApiKey, which is truthy and has the key's account and scopes, or a
            RejectedApiKey, which is falsy and has the reason.

        Raises:
            AuthenticationOverloadedError: The key is not in the cache, and too many other keys are
                not either. Answer it with 503 and `retry_after`, not with 401.
            AudienceLabError: What `api_keys.authenticate` raises.
        """
        api_key = hidden(api_key)
        found = self._answers.known(api_key, ip)
        return self._look_up(found) if isinstance(found, Question) else found

    def _look_up(self, question: Question) -> ApiKeyAuthentication:
        answers = self._answers
        stale = answers.stale(question, None, threading.Event())
        if stale is not None:
            answer, refresh = stale
            if refresh is not None:
                self._fly_apart(refresh)
            return answer
        if not answers.max_age:
            alone = answers.admit(question)
            self._fly(alone)
            return answers.result(question, alone.outcome)
        digest = question.digest
        while True:
            flight, leads = answers.board(question, digest, None, threading.Event())
            if leads:
                self._fly(flight)
            elif flight.outcome is None:
                flight.landed.wait()
            if _concerns(flight, question):
                return answers.result(question, flight.outcome)
            if flight.outcome is not None:
                digest = question.for_address

    def _fly_apart(self, flight: Flight[threading.Event]) -> None:
        thread = threading.Thread(
            target=self._fly, args=(flight,), name="audiencelab-keys", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the process ends, and no thread can be started
            self._fly(flight)

    def _fly(self, flight: Flight[threading.Event] | Flight[None]) -> None:
        question = flight.question
        try:
            flight.outcome = self._client.api_keys.authenticate(question.key, question.address)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            flight.outcome = error.with_traceback(None)
        finally:
            # After an interrupt there is no outcome, and another thread asks again.
            _land(self._answers, flight)


class AsyncKeyAuthenticator:
    """Checks API keys from a cache. A revoked key is refused everywhere after `max_age` seconds.

    What this process itself changes, through any client, it forgets at once: it refuses a key that
    it revoked with the next call. A key's own expiry is kept to the second.

    It may be used from several event loops of asyncio and trio, and before and after a fork: a
    child begins with an empty cache. Tasks that ask for the same key at the same time share one
    call of the database, which goes on if they are cancelled. Only digests of keys stay in
    memory. ::

        authenticator = AsyncKeyAuthenticator(client)
        text = request.headers.get("x-api-key", "")
        caller = await authenticator.authenticate(text, request.client and request.client.host)

    Args:
        client: A client that acts as the service role. It stays the caller's to close.
        max_age: How long a valid answer is used, in seconds. An invalid one is used for 5 seconds,
            or for `max_age` if that is less. With 0, each call asks the database.
        stale_if_error: For how many seconds longer a valid answer is used while the database cannot
            be reached (APIConnectionError, ServerError), but never beyond the key's expiry. Once a
            call for the key has failed, it is repeated beside the requests, every 5 seconds, and
            they do not wait for it. With 0, the error is raised.
        max_entries: How many valid answers are kept, and how many invalid ones. The least recently
            used are removed.
        max_lookups: The largest number of lookups a second for keys without a valid answer in the
            cache. It protects the database from invented keys. After an idle second, as many are
            possible at once.

    Raises:
        ConfigurationError: `client` is an AudienceLab, which KeyAuthenticator takes.
        InvalidArgumentError: A number is negative or not finite.
    """

    def __init__(
        self,
        client: AsyncAudienceLab,
        *,
        max_age: float = 30.0,
        stale_if_error: float = 0.0,
        max_entries: int = 10_000,
        max_lookups: float = 200.0,
    ) -> None:
        refuse(AudienceLab, client, twin="KeyAuthenticator")
        self._client = client
        self._answers: Answers[anyio.Event] = Answers(
            max_age=max_age,
            stale_if_error=stale_if_error,
            max_entries=max_entries,
            max_lookups=max_lookups,
        )

    async def authenticate(
        self, api_key: str | SecretStr, ip: str | IPv4Address | IPv6Address | None = None
    ) -> ApiKeyAuthentication:
        """Check whether a text is an API key that may be used, whose, and what it may do.

        Calls `api_keys.authenticate` (the database function ``authenticate_api_key``) unless the
        answer is in the cache. If a key is restricted to networks, its answer is cached for each
        address separately.

        Args:
            api_key: The text that came with the request. It may contain anything.
            ip: The client's address. Keys that are restricted to networks are rejected without it.

        Returns:
            An AuthenticatedApiKey, which is truthy and has the key's account and scopes, or a
            RejectedApiKey, which is falsy and has the reason.

        Raises:
            AuthenticationOverloadedError: The key is not in the cache, and too many other keys are
                not either. Answer it with 503 and `retry_after`, not with 401.
            AudienceLabError: What `api_keys.authenticate` raises.
        """
        api_key = hidden(api_key)
        found = self._answers.known(api_key, ip)
        return await self._look_up(found) if isinstance(found, Question) else found

    async def _look_up(self, question: Question) -> ApiKeyAuthentication:
        answers, loop = self._answers, event_loop()
        stale = answers.stale(question, loop, anyio.Event())
        if stale is not None:
            answer, refresh = stale
            if refresh is not None:
                self._spawn(refresh)
            return answer
        if not answers.max_age:
            alone = answers.admit(question)
            try:
                await self._fly(alone)
            finally:
                _land(answers, alone)
            return answers.result(question, alone.outcome)
        digest = question.digest
        while True:
            flight, leads = answers.board(question, digest, loop, anyio.Event())
            if leads:
                self._spawn(flight)
            if flight.outcome is None:
                await flight.landed.wait()
            if _concerns(flight, question):
                return answers.result(question, flight.outcome)
            if flight.outcome is not None:
                digest = question.for_address

    def _spawn(self, flight: Flight[anyio.Event]) -> None:
        fly, land = partial(self._fly, flight), partial(_land, self._answers, flight)
        spawn(fly, name="audiencelab authentication", on_end=land)

    async def _fly(self, flight: Flight[anyio.Event] | Flight[None]) -> None:
        question = flight.question
        try:
            authenticate = self._client.api_keys.authenticate
            flight.outcome = await authenticate(question.key, question.address)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            flight.outcome = error.with_traceback(None)


def _land(answers: Answers[Any], flight: Flight[Any]) -> None:
    """Keep the answer of a flight, and wake up those who wait for it in any case."""
    try:
        answers.land(flight)
    finally:
        if flight.landed is not None:
            flight.landed.set()


def _concerns(flight: Flight[threading.Event] | Flight[anyio.Event], question: Question) -> bool:
    """Return whether the outcome of a flight is the outcome of a question about the same key."""
    outcome = flight.outcome
    if outcome is None:
        return False
    if isinstance(outcome, Exception) or not is_for_address(outcome):
        return True
    return flight.question.address == question.address
