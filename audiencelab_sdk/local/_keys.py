"""The keys of the embedded stack.

They are the development values of `supabase start`, so that one .env works with both. Only the RSA
key is made here, because `supabase start` has none.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode

JWT_SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"  # noqa: S105 - public
PUBLISHABLE_KEY = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH"
SECRET_KEY = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"  # noqa: S105 - public
SIGNING_KEY: Mapping[str, Any] = {
    "kty": "EC",
    "kid": "b81269f1-21d8-4f2e-b719-c2240a840d90",
    "use": "sig",
    "key_ops": ["sign", "verify"],
    "alg": "ES256",
    "ext": True,
    "crv": "P-256",
    "x": "M5Sjqn5zwC9Kl1zVfUUGvv9boQjCGd45G8sdopBExB4",
    "y": "P6IXMvA2WYXSHSOMTBH2jsw_9rrzGy89FjPf6oOsIxQ",
    "d": "dIhR8wywJlqlua4y_yMq2SLhlFXDZJBCvFrY1DCHyVU",
}
_KEY_EXPIRY = 1983812996
_TOKEN_LIFETIME = 60  # seconds
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "key_ops"}


@functools.cache
def rsa_signing_key() -> Mapping[str, Any]:
    """Return the RSA key of all stacks of this process, as a private JWK."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    members = RSAAlgorithm.to_jwk(private, as_dict=True)
    return {**members, "kid": str(uuid4()), "use": "sig", "alg": "RS256"}


def verifying_keys() -> str:
    """Return the JWKS that verifies tokens, as JSON.

    The shared secret has no `kid`, as with `supabase start`: tokens of it have none either.
    """
    secret = base64url_encode(JWT_SECRET.encode()).decode()
    public = [
        {name: value for name, value in key.items() if name not in _PRIVATE}
        for key in (SIGNING_KEY, rsa_signing_key())
    ]
    return json.dumps({"keys": [*public, {"kty": "oct", "alg": "HS256", "k": secret}]})


def project_key(role: str) -> str:
    """Return the key of the older form, a JWT, for the role `anon` or `service_role`."""
    return sign({"iss": "supabase-demo", "role": role, "exp": _KEY_EXPIRY})


def tokens_of_keys() -> dict[str, Callable[[], str]]:
    """Return for each of the project's keys what makes the token of a request without its own."""
    anon, service_role = project_key("anon"), project_key("service_role")
    return {
        anon: lambda: anon,
        service_role: lambda: service_role,
        PUBLISHABLE_KEY: functools.partial(_short_lived, "anon"),
        SECRET_KEY: functools.partial(_short_lived, "service_role"),
    }


def sign(claims: dict[str, Any]) -> str:
    """Return a JWT with these claims, signed with the shared secret."""
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


def _short_lived(role: str) -> str:
    now = int(time.time())
    return sign({"role": role, "iat": now, "exp": now + _TOKEN_LIFETIME})
