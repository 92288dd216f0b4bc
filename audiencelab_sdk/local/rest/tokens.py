"""Verify bearer tokens and derive the database role and claims of a request."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, cast

import jwt

from audiencelab_sdk.local.rest.errors import ApiError

LEEWAY = 30  # seconds of clock skew
SHORTEST_SECRET = 32  # bytes, the length of an HS256 signature


@dataclass(frozen=True)
class Identity:
    """The database role of a request, and the claims that SQL reads from `request.jwt.claims`."""

    role: str
    claims: str
    anonymous: bool


@dataclass(frozen=True)
class _Key:
    """A key that verifies tokens, and its algorithm."""

    id: str | None
    algorithm: str
    material: Any = field(repr=False)


class TokenReader:
    """Verifies bearer tokens.

    Args:
        secret: The HS256 secret that signs tokens, or a JWK or JWKS as JSON.
        anonymous_role: The role of requests without a token, and of tokens without a role.

    Raises:
        ValueError: The secret is shorter than 32 bytes, or the JWKS is not valid.
    """

    def __init__(self, secret: str, anonymous_role: str) -> None:
        self._keys = _read_keys(secret)
        self._anonymous_role = anonymous_role
        # PyJWS checks the signature only. Of the claims, PostgREST checks only exp, nbf and iat.
        self._signatures = jwt.PyJWS()

    def identify(self, authorization: str | None) -> Identity:
        """Return the identity of a request.

        Args:
            authorization: The Authorization header, or None.

        Raises:
            ApiError: The token is not genuine (401, PGRST301), or its claims are not valid (401,
                PGRST303).
        """
        scheme, _, token = (authorization or "").partition(" ")
        claims = self._claims(token.strip()) if scheme.lower() == "bearer" else {}
        role = claims.setdefault("role", self._anonymous_role)
        if not isinstance(role, str) or not role.isprintable():
            raise _unauthorized("PGRST303", "The JWT 'role' claim must be a string")
        return Identity(role, json.dumps(claims), anonymous=role == self._anonymous_role)

    def _claims(self, token: str) -> dict[str, Any]:
        if not token:
            raise _unauthorized("PGRST301", "Empty JWT is sent in Authorization header")
        parts = token.count(".") + 1
        if parts != 3:
            raise _unauthorized("PGRST301", f"Expected 3 parts in JWT; got {parts}")
        try:
            claims: Any = json.loads(self._verified(token))
        except jwt.InvalidSignatureError as error:
            raise _unauthorized(
                "PGRST301",
                "No suitable key or wrong key type",
                details="None of the keys was able to decode the JWT",
            ) from error
        except jwt.InvalidAlgorithmError as error:
            raise _unauthorized("PGRST301", "Wrong or unsupported encoding algorithm") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _unauthorized("PGRST301", "JWT cryptographic operation failed") from error
        if not isinstance(claims, dict):
            raise _unauthorized("PGRST303", "Parsing claims failed")
        checked = cast("dict[str, Any]", claims)
        _check_times(checked)
        return checked

    def _verified(self, token: str) -> bytes:
        """Return the payload of a token that one of the keys has signed.

        A token with a `kid` selects the key of this id, a token without one is tried with all keys.
        A key verifies signatures of its own algorithm only, whatever the token names.
        """
        key_id = jwt.get_unverified_header(token).get("kid")
        failure: jwt.PyJWTError | None = None
        for key in self._keys:
            if key_id not in {None, key.id}:
                continue
            try:
                return bytes(
                    self._signatures.decode(token, key.material, algorithms=[key.algorithm])
                )
            except jwt.InvalidSignatureError as error:
                failure = error
            except jwt.InvalidAlgorithmError as error:
                failure = failure or error
        raise failure or jwt.InvalidSignatureError


def _read_keys(secret: str) -> list[_Key]:
    if not secret.lstrip().startswith("{"):
        if len(secret.encode()) < SHORTEST_SECRET:
            raise ValueError(f"The JWT secret must be at least {SHORTEST_SECRET} bytes long.")
        return [_Key(None, "HS256", secret)]
    try:
        document: Any = json.loads(secret)
        keys = [
            _Key(data.get("kid"), key.algorithm_name, key.key)
            for data in document.get("keys", [document])
            for key in [jwt.PyJWK(data)]
        ]
    except jwt.PyJWTError as error:
        # PyJWT's messages may quote the key itself.
        raise ValueError(f"A key of the JWKS cannot be used ({type(error).__name__}).") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError("The JWT secret looks like a JWKS but cannot be parsed.") from error
    if not keys:
        raise ValueError("The JWKS contains no key.")
    return keys


def _check_times(claims: dict[str, Any]) -> None:
    now = time.time()
    moments: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unauthorized("PGRST303", f"The JWT '{name}' claim must be a number")
        moments[name] = value
    if moments.get("exp", now) < now - LEEWAY:
        raise _unauthorized("PGRST303", "JWT expired")
    if moments.get("nbf", now) > now + LEEWAY:
        raise _unauthorized("PGRST303", "JWT not yet valid")
    if moments.get("iat", now) > now + LEEWAY:
        raise _unauthorized("PGRST303", "JWT issued at future")


def _unauthorized(code: str, message: str, details: str | None = None) -> ApiError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return ApiError(401, code, message, details=details, headers={"WWW-Authenticate": challenge})
