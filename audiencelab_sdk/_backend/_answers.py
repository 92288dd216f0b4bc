"""The answers of the database to `authenticate`, for as long as they may be used.

Without I/O: the authenticators look up what is missing.
"""

import hashlib
import math
import os
import threading
import time
from collections.abc import Hashable
from copy import copy, deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Generic, TypeVar

from cachetools import LRUCache
from pydantic import SecretStr

from audiencelab_sdk._backend._bucket import TokenBucket
from audiencelab_sdk._backend._forks import reset_in_children
from audiencelab_sdk._key_format import may_be_api_key
from audiencelab_sdk._resources._api_key_fields import address
from audiencelab_sdk._resources._key_changes import KeyChange, add_listener
from audiencelab_sdk._secrets import checked_secret
from audiencelab_sdk.errors import (
    APIConnectionError,
    AudienceLabError,
    AuthenticationOverloadedError,
    InvalidArgumentError,
    ServerError,
)
from audiencelab_sdk.models import (
    ApiKeyAuthentication,
    AuthenticatedApiKey,
    RejectedApiKey,
    RejectionCode,
)

Signal = TypeVar("Signal")

_UNREACHABLE = (APIConnectionError, ServerError)
_SAME_FROM_EVERYWHERE = (
    RejectionCode.NOT_FOUND,
    RejectionCode.REVOKED,
    RejectionCode.DISABLED,
    RejectionCode.EXPIRED,
)
_MALFORMED = RejectedApiKey(code=RejectionCode.NOT_FOUND)
_LONGEST_TEXT = 128
_INVALID_MAX_AGE = 5.0
_SECONDS_BETWEEN_REFRESHES = 5.0
_MOST_REFRESHES = 10
# Nobody can compute the digests of guessed keys, or find the digests of the database in a dump.
_DIGEST_KEY = os.urandom(32)


@dataclass(frozen=True, slots=True)
class Question:
    """A text to authenticate.

    Attributes:
        key: The text.
        digest: Its digest.
        address: The client's address, as the database takes it.
    """

    key: SecretStr
    digest: bytes
    address: str | None

    @property
    def for_address(self) -> bytes:
        """The digest of the text and the address."""
        return self.digest + b"@" + (self.address or "").encode()


@dataclass(slots=True)
class _Entry:
    answer: ApiKeyAuthentication
    fresh_until: float
    usable_until: float
    failed_at: float = -math.inf  # when the last call about it could not reach the database


@dataclass(slots=True, eq=False)
class Flight(Generic[Signal]):
    """A question that the database is being asked.

    Attributes:
        question: The question.
        place: Where others find it.
        landed: Set when there is an outcome.
        started_at: When it left, by the monotonic clock.
        changes: The number of changes of keys before it left.
        outcome: The answer or the error. None if the call was interrupted.
    """

    question: Question
    place: Hashable
    landed: Signal
    started_at: float
    changes: int
    outcome: ApiKeyAuthentication | Exception | None = None


class Answers(Generic[Signal]):
    """A cache of answers, and the questions that the database is being asked."""

    def __init__(
        self, *, max_age: float, stale_if_error: float, max_entries: int, max_lookups: float
    ) -> None:
        self.max_age = _checked("max_age", max_age)
        self._stale_if_error = _checked("stale_if_error", stale_if_error)
        self._max_entries = int(_checked("max_entries", max_entries, lowest=1))
        self._max_lookups = _checked("max_lookups", max_lookups, lowest=0.001)
        self.reset()
        reset_in_children(self)
        add_listener(self)

    def reset(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        # In caches of their own, so that invented keys do not evict real ones. A valid answer is
        # kept when it is too old to be used: its key is known.
        self._valid: LRUCache[bytes, _Entry] = LRUCache(self._max_entries)
        self._invalid: LRUCache[bytes, _Entry] = LRUCache(self._max_entries)
        self._bucket = TokenBucket(self._max_lookups)
        self._flights: dict[Hashable, Flight[Signal]] = {}
        self._refreshes: set[Flight[Signal]] = set()
        self._answered_at = -math.inf
        self._changes = 0

    def find(self, digest: bytes) -> ApiKeyAuthentication | None:
        """Return the answer for a digest, if it may be used."""
        with self._lock:
            try:
                entry = self._valid[digest]
            except KeyError:
                return self._find(digest)
            return entry.answer if time.monotonic() < entry.fresh_until else None

    def known(
        self, key: SecretStr, ip: str | IPv4Address | IPv6Address | None
    ) -> ApiKeyAuthentication | Question:
        """Return the answer about a text and an address, or the question if it is not known.

        Raises:
            InvalidArgumentError: `key` is not a text, or `ip` is not an address.
        """
        digest = digest_of(key)
        if digest is None:
            return _MALFORMED
        answer = self.find(digest)
        if answer is not None:
            return _for_one_caller(answer)
        question = Question(key, digest, address(ip))
        answer = self.find(question.for_address)
        if answer is not None:
            return _for_one_caller(answer)
        return question if may_be_api_key(key.get_secret_value()) else _MALFORMED

    def stale(
        self, question: Question, loop: object, signal: Signal
    ) -> tuple[ApiKeyAuthentication, Flight[Signal] | None] | None:
        """Return what is used because the database cannot be reached, so that nobody waits for it.

        Returns:
            The last valid answer, and a flight for a call that its caller has to start, but not to
            wait for. No flight if there is one already, or there are many others, or one ended a
            moment ago. None if no call about the key has failed since the last answer about any.
        """
        with self._lock:
            entry = self._usable(question)
            if entry is None or entry.failed_at <= self._answered_at:
                return None
            place, now = (question.digest, loop), time.monotonic()
            flight = None
            if (
                now >= entry.fresh_until
                and place not in self._flights
                and len(self._refreshes) < _MOST_REFRESHES
            ):
                flight = Flight(question, place, signal, now, self._changes)
                self._flights[place] = flight
                self._refreshes.add(flight)
            return _for_one_caller(entry.answer), flight

    def board(
        self, question: Question, digest: bytes, loop: object, signal: Signal
    ) -> tuple[Flight[Signal], bool]:
        """Return the flight with a question, and whether the caller has to make the call.

        Raises:
            AuthenticationOverloadedError: The key is not known, and too many others are not either.
        """
        with self._lock:
            place = (digest, loop)
            flight = self._flights.get(place)
            if flight is not None:
                return flight, False
            flight = Flight(question, place, signal, time.monotonic(), self._changes)
            # It may have landed since the caller looked.
            for each in (question.digest, question.for_address):
                flight.outcome = self._find(each)
                if flight.outcome is not None:
                    return flight, False
            self._admit(question)
            self._flights[place] = flight
            return flight, True

    def admit(self, question: Question) -> Flight[None]:
        """Return a flight for a call that is not shared; raises what `board` does."""
        with self._lock:
            self._admit(question)
            return Flight(question, None, None, time.monotonic(), self._changes)

    def land(self, flight: Flight[Any]) -> None:
        """Keep the answer of a flight, unless a key was changed since it left."""
        with self._lock:
            self._refreshes.discard(flight)
            if self._flights.get(flight.place) is flight:
                del self._flights[flight.place]
            answer, question = flight.outcome, flight.question
            if isinstance(answer, Exception):
                self._use_longer(question, answer)
                return
            if answer is None:
                return
            self._answered_at = time.monotonic()
            if flight.changes != self._changes:
                return
            digest = question.for_address if is_for_address(answer) else question.digest
            for cache in (self._valid, self._invalid):
                cache.pop(question.digest, None)
                cache.pop(question.for_address, None)
            if isinstance(answer, AuthenticatedApiKey):
                self._valid[digest] = self._valid_entry(answer, flight.started_at)
            elif self.max_age:
                fresh_until = flight.started_at + min(_INVALID_MAX_AGE, self.max_age)
                self._invalid[digest] = _Entry(answer, fresh_until, fresh_until)

    def result(self, question: Question, outcome: Any) -> ApiKeyAuthentication:
        """Return the answer to a question, or raise the error.

        If the database cannot be reached, the last valid answer may be used for longer.
        """
        if not isinstance(outcome, Exception):
            answer: ApiKeyAuthentication = outcome
            return _for_one_caller(answer)
        with self._lock:
            entry = self._use_longer(question, outcome)
        if entry is not None:
            return _for_one_caller(entry.answer)
        # A copy, because those who wait for the same call would share its traceback.
        raise copy(outcome) if isinstance(outcome, AudienceLabError) else outcome

    def forget(self, change: KeyChange) -> None:
        """Forget the answers that a change of keys may contradict, and do not keep pending ones."""
        with self._lock:
            self._changes += 1
            self._flights.clear()
            for cache in (self._valid, self._invalid):
                for digest in list(cache):
                    # By the base class, because this is no use of the entry.
                    if change.concerns(super(LRUCache, cache).__getitem__(digest).answer):
                        del cache[digest]

    def _find(self, digest: bytes) -> ApiKeyAuthentication | None:
        entry = self._valid.get(digest) or self._invalid.get(digest)
        if entry is None or time.monotonic() >= entry.fresh_until:
            return None
        return entry.answer

    def _usable(self, question: Question) -> _Entry | None:
        entry = self._valid.get(question.digest) or self._valid.get(question.for_address)
        return entry if entry is not None and time.monotonic() < entry.usable_until else None

    def _use_longer(self, question: Question, error: Exception) -> _Entry | None:
        """Return the entry that is used after an error; None if the error has to be raised."""
        entry = self._usable(question)
        if entry is None:
            return None
        if not self._stale_if_error or not isinstance(error, _UNREACHABLE):
            entry.failed_at = -math.inf
            return None
        # Others need not ask the database in the meantime.
        entry.failed_at = time.monotonic()
        entry.fresh_until = min(entry.usable_until, entry.failed_at + _SECONDS_BETWEEN_REFRESHES)
        return entry

    def _admit(self, question: Question) -> None:
        if question.digest in self._valid or question.for_address in self._valid:
            return
        if seconds := self._bucket.take():
            raise AuthenticationOverloadedError(seconds)

    def _valid_entry(self, answer: AuthenticatedApiKey, started_at: float) -> _Entry:
        fresh_until = started_at + self.max_age
        usable_until = fresh_until + self._stale_if_error
        if answer.expires_at is not None:
            left = (answer.expires_at - datetime.now(UTC)).total_seconds()
            usable_until = min(usable_until, time.monotonic() + left)
        return _Entry(answer, min(fresh_until, usable_until), usable_until)


def digest_of(key: object) -> bytes | None:
    """Return the digest of a text by which answers are found; None if it is too long for a key.

    Raises:
        InvalidArgumentError: It is not a text.
    """
    if not isinstance(key, SecretStr):
        key = checked_secret("api_key", key)
    if len(key) > _LONGEST_TEXT:
        return None
    text = key.get_secret_value().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=_DIGEST_KEY, digest_size=16).digest()


def is_for_address(answer: ApiKeyAuthentication) -> bool:
    """Return whether an answer holds for the address of the question only."""
    if isinstance(answer, AuthenticatedApiKey):
        return answer.ip_restricted
    return answer.code not in _SAME_FROM_EVERYWHERE


def _for_one_caller(answer: ApiKeyAuthentication) -> ApiKeyAuthentication:
    """Return an answer with metadata of its own, which its caller may change."""
    if isinstance(answer, AuthenticatedApiKey) and answer.metadata:
        return answer.model_copy(update={"metadata": deepcopy(answer.metadata)})
    return answer


def _checked(name: str, value: Any, *, lowest: float = 0) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not lowest <= value < math.inf:
        raise InvalidArgumentError(f"{name} must be a number of at least {lowest:g}")
    return float(value)
