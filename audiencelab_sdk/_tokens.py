"""JWTs: sign one for an API key, and read the user of an access token."""

import json
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from audiencelab_sdk._arguments import checked_uuid
from audiencelab_sdk._secrets import checked_secret
from audiencelab_sdk.errors import InvalidArgumentError

_SHORTEST_SECRET = 32
_CREATORS = {"authenticated", "api_key"}
_LONGEST_LIFETIME = timedelta(days=3650)


def api_key_token(
    api_key_id: UUID | str, jwt_secret: str | SecretStr, expires_in: timedelta
) -> SecretStr:
    """Return a JWT with the role ``api_key`` and the key's id as subject, signed with HS256.

    Raises:
        InvalidArgumentError: The id is not a UUID, the secret is shorter than 32 bytes, or the
            lifetime is not positive or longer than ten years.
    """
    # Imported here, because it takes as long to import as all modules of the SDK together.
    import jwt  # noqa: PLC0415

    subject = str(checked_uuid("api_key_id", api_key_id))
    secret = _checked_jwt_secret(jwt_secret)
    lifetime = _checked_lifetime(expires_in)
    now = datetime.now(UTC)
    claims = {"role": "api_key", "sub": subject, "iat": now, "exp": now + lifetime}
    # PyJWT's annotations need the optional package cryptography.
    token = jwt.encode(  # pyright: ignore[reportUnknownMemberType]
        claims, secret.get_secret_value(), algorithm="HS256"
    )
    return SecretStr(token)


def creator_of(token: SecretStr) -> UUID | None:
    """Return in whose name a token creates rows: its user or API key. None for other tokens.

    For an API key, the database stores the user who created it.

    The signature is not verified here: the server rejects forged tokens.
    """
    try:
        payload = token.get_secret_value().split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return UUID(str(claims["sub"])) if claims["role"] in _CREATORS else None
    except (LookupError, TypeError, ValueError):
        return None


def _checked_lifetime(value: Any) -> timedelta:
    if not isinstance(value, timedelta) or not timedelta(0) < value <= _LONGEST_LIFETIME:
        raise InvalidArgumentError(
            "expires_in must be a timedelta of more than 0 seconds and at most "
            f"{_LONGEST_LIFETIME.days} days"
        )
    return value


def _checked_jwt_secret(value: Any) -> SecretStr:
    secret = checked_secret("jwt_secret", value)
    if len(secret.get_secret_value().encode()) < _SHORTEST_SECRET:
        raise InvalidArgumentError(
            f"jwt_secret must have at least {_SHORTEST_SECRET} bytes: "
            "pass the project's JWT secret (in the dashboard: Project Settings, JWT Keys)"
        )
    return secret
