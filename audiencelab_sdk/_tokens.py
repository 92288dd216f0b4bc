"""JWTs: sign those of an API key, and read the user of an access token."""

import json
import math
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

from pydantic import SecretStr

from audiencelab_sdk._arguments import checked_uuid
from audiencelab_sdk._process import this_process
from audiencelab_sdk._signing_keys import SigningKey
from audiencelab_sdk.errors import InvalidArgumentError

_LONGEST_LIFETIME = timedelta(days=3650)
# Of the lifetime: for requests that wait or take long, and for a server whose clock is ahead.
_UNUSED_PART = 0.2


class _Token(NamedTuple):
    text: SecretStr
    signed_at: float
    renewed_at: float

    def is_fresh(self) -> bool:
        # After the clock was set back, the token may be from the future.
        return self.signed_at <= time.time() < self.renewed_at


class ApiKeyTokens:
    """Returns a token of an API key, and signs another when little of its lifetime is left.

    A token has the role ``api_key`` and the key's id as subject. The object may be shared between
    threads, and used before and after a fork.

    Args:
        api_key_id: The key's id.
        key: The key that signs the tokens.
        expires_in: The lifetime of each token.

    Raises:
        InvalidArgumentError: The id is not a UUID, or the lifetime is not positive or longer than
            ten years.
    """

    def __init__(self, api_key_id: UUID | str, key: SigningKey, expires_in: timedelta) -> None:
        self._subject = str(checked_uuid("api_key_id", api_key_id))
        self._key = key
        self._lifetime = _checked_lifetime(expires_in).total_seconds()
        # Of each process its own: at a fork, a thread that is not in the child may hold it.
        self._locks: dict[tuple[int, int], threading.Lock] = {}
        self._token = self._signed()

    def __call__(self) -> SecretStr:
        """Return the current token, or another one if less than a fifth of its lifetime is left."""
        token = self._token
        if token.is_fresh():
            return token.text
        with self._locks.setdefault(this_process(), threading.Lock()):
            if not self._token.is_fresh():
                self._token = self._signed()
            return self._token.text

    def _signed(self) -> _Token:
        now = time.time()
        # Whole seconds: PostgREST rejects fractions.
        iat = math.floor(now)
        exp = iat + math.ceil(self._lifetime)
        text = self._key.sign({"role": "api_key", "sub": self._subject, "iat": iat, "exp": exp})
        return _Token(text, now, exp - self._lifetime * _UNUSED_PART)


def creator_of(token: SecretStr | None) -> Mapping[str, str] | None:
    """Return the columns that say in whose name a token creates rows, None for other tokens.

    The signature is not verified here: the server rejects forged tokens.
    """
    claims = _claims(token)
    match claims.get("role"):
        case "authenticated":
            try:
                return {"created_by": str(UUID(str(claims.get("sub"))))}
            except ValueError:
                return None
        case "api_key":
            return {}  # the database stores the user who created the API key
        case _:
            return None


def role_of(token: SecretStr) -> str | None:
    """Return the role that a token claims; None if it is not a JWT or claims none."""
    role = _claims(token).get("role")
    return role if isinstance(role, str) else None


def _claims(token: SecretStr | None) -> Mapping[str, Any]:
    try:
        payload = token.get_secret_value().split(".")[1] if token else ""
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (LookupError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", claims) if isinstance(claims, dict) else {}


def _checked_lifetime(value: Any) -> timedelta:
    if not isinstance(value, timedelta) or not timedelta(0) < value <= _LONGEST_LIFETIME:
        raise InvalidArgumentError(
            "expires_in must be a timedelta of more than 0 seconds and at most "
            f"{_LONGEST_LIFETIME.days} days"
        )
    return value
