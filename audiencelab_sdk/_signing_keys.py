"""Keys that sign tokens: the project's shared secret, or one of its private keys.

The functions that read a key return a problem instead of raising it, because a traceback shows
their local variables.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import SecretStr

from audiencelab_sdk._arguments import checked_text
from audiencelab_sdk._secrets import checked_secret, hidden
from audiencelab_sdk.errors import InvalidArgumentError

_SHORTEST_SECRET = 32  # bytes, the length of an HS256 signature
_SHORTEST_RSA_KEY = 2048  # bits
_ALGORITHMS = {"EC": "ES256", "RSA": "RS256"}

_NONE = (
    "pass jwt_secret (the project's shared secret, HS256) or signing_key (a private key, ES256 or "
    "RS256)"
)
_BOTH = "pass either jwt_secret or signing_key: a token has one signature"
_SHORT_SECRET = (
    f"jwt_secret must have at least {_SHORTEST_SECRET} bytes: "
    "pass the project's JWT secret (in the dashboard: Project Settings, JWT Keys)"
)
_NOT_SHARED = (
    "jwt_secret is a PEM, a JWK or an SSH key, and not a shared secret: pass a private key as "
    "signing_key"
)
_NOT_UNICODE = "jwt_secret is not valid Unicode: copy the project's JWT secret again"
_UNREADABLE = (
    "signing_key must be a private JWK (a mapping or its JSON text) or a private key as PEM, "
    "as a str or SecretStr"
)
_ESCAPED = "signing_key contains \\n in place of line breaks: replace them by line breaks"
_DAMAGED = "signing_key cannot be read: copy the private key again, all of it"
_SET = "signing_key is a set of keys: pass the one JWK of it that signs the tokens"
_SHARED = (
    "signing_key is a shared secret (kty oct, HS256): pass the secret itself as jwt_secret, or a "
    "private key (ES256 or RS256)"
)
_PUBLIC = "signing_key is a public key, which signs nothing: pass the private key"
_ENCRYPTED = "signing_key is an encrypted PEM: decrypt it first, for example with openssl pkey"
_UNSUPPORTED = (
    "signing_key must be an EC key on the curve P-256 (ES256) or an RSA key (RS256): Supabase "
    "accepts no other"
)
_SHORT_RSA_KEY = (
    f"signing_key is an RSA key of fewer than {_SHORTEST_RSA_KEY} bits: use a longer one"
)
_NO_ID = (
    "signing_key has no kid, by which the project selects the key of a token: pass kid=, the id of "
    "the key (in the dashboard: Project Settings, JWT Keys)"
)
_WRONG_ID = "the kid of signing_key must be a text that is not empty"
_TWO_IDS = "kid differs from the kid of signing_key: omit kid, or pass the key that it belongs to"
_NO_ID_WANTED = "kid belongs to signing_key: omit it with jwt_secret"


@dataclass(frozen=True)
class SigningKey:
    """A key that signs tokens.

    Attributes:
        algorithm: HS256, ES256 or RS256.
        id: The key's id in the project's JWKS. None for the shared secret.
        material: The secret as a SecretStr, or a private key of the package cryptography.
    """

    algorithm: str
    id: str | None
    material: Any = field(repr=False)

    def sign(self, claims: Mapping[str, Any]) -> SecretStr:
        """Return a JWT with these claims."""
        # Imported here, because it takes as long to import as all modules of the SDK together.
        import jwt  # noqa: PLC0415

        return SecretStr(
            jwt.encode(
                dict(claims),
                self.material.get_secret_value()
                if isinstance(self.material, SecretStr)
                else self.material,
                algorithm=self.algorithm,
                headers={"kid": self.id} if self.id else None,
            )
        )


def hidden_key(value: Any) -> Any:
    """Return a key as a SecretStr without checking it, a JWK as JSON; other objects as they are.

    Called first, so that no frame of a traceback holds the plain text.
    """
    if not isinstance(value, Mapping | list | tuple):
        return value if value is None else hidden(value)
    plain = dict(cast("Any", value)) if isinstance(value, Mapping) else cast("Any", value)
    try:
        return SecretStr(json.dumps(plain, default=str))
    except (TypeError, ValueError, RecursionError):
        return SecretStr("")  # is refused, as any text that is no JWK


def checked_signing_key(jwt_secret: Any, signing_key: Any, kid: Any) -> SigningKey:
    """Return the key of which a caller passes one form, hidden by `hidden_key`.

    Raises:
        InvalidArgumentError: Both or none are given, or the key cannot sign.
    """
    if (jwt_secret is None) is (signing_key is None):
        raise InvalidArgumentError(_NONE if jwt_secret is None else _BOTH)
    key_id = None if kid is None else checked_text("kid", kid)
    if signing_key is None:
        found = _shared_secret(checked_secret("jwt_secret", jwt_secret), key_id)
    elif isinstance(signing_key, SecretStr):
        found = _private_key(signing_key, key_id)
    else:
        found = _UNREADABLE
    if isinstance(found, str):
        raise InvalidArgumentError(found)
    return found


def _shared_secret(secret: SecretStr, key_id: str | None) -> SigningKey | str:
    text = secret.get_secret_value()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return _NOT_UNICODE
    if size < _SHORTEST_SECRET:
        return _SHORT_SECRET
    if _is_other_key(text):
        return _NOT_SHARED
    return SigningKey("HS256", None, secret) if key_id is None else _NO_ID_WANTED


def _is_other_key(text: str) -> bool:
    import jwt  # noqa: PLC0415 - see above
    from jwt.algorithms import HMACAlgorithm  # noqa: PLC0415 - see above

    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(text)
    except jwt.InvalidKeyError:  # a PEM or an SSH key
        return True
    return "-----BEGIN " in text or isinstance(_json(text), dict)


def _private_key(secret: SecretStr, key_id: str | None) -> SigningKey | str:
    text = secret.get_secret_value()
    if "-----BEGIN " in text:
        return _from_pem(text, key_id)
    jwk = _json(text)
    if isinstance(jwk, list) or (isinstance(jwk, dict) and "keys" in jwk):
        return _SET
    return _from_jwk(cast("dict[str, Any]", jwk), key_id) if isinstance(jwk, dict) else _UNREADABLE


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_jwk(jwk: dict[str, Any], key_id: str | None) -> SigningKey | str:
    import jwt  # noqa: PLC0415 - see above
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: PLC0415 - see above

    own_id = jwk.get("kid")
    if problem := _problem_of_jwk(jwk) or _problem_of_ids(own_id, key_id):
        return problem
    try:
        private = (ECAlgorithm if jwk["kty"] == "EC" else RSAAlgorithm).from_jwk(jwk)
    except (jwt.PyJWTError, TypeError, ValueError):
        return _DAMAGED
    return _from_object(private, own_id or key_id)


def _problem_of_jwk(jwk: dict[str, Any]) -> str | None:
    if jwk.get("kty") == "oct":
        return _SHARED
    algorithm = _ALGORITHMS.get(str(jwk.get("kty")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return _UNSUPPORTED
    if algorithm == "ES256" and jwk.get("crv") != "P-256":
        return _UNSUPPORTED
    return None if "d" in jwk else _PUBLIC


def _problem_of_ids(own_id: Any, key_id: str | None) -> str | None:
    if own_id is None:
        return None
    if not isinstance(own_id, str) or not own_id:
        return _WRONG_ID
    return None if key_id in {None, own_id} else _TWO_IDS


def _from_pem(text: str, key_id: str | None) -> SigningKey | str:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - see above
        load_pem_private_key,
    )

    if "PRIVATE KEY-----" not in text:
        return _PUBLIC
    if "\\n" in text:
        return _ESCAPED
    try:
        private = load_pem_private_key(text.encode(), password=None)
    except TypeError:  # it needs a password
        return _ENCRYPTED
    except (ValueError, UnsupportedAlgorithm):
        return _DAMAGED
    return _from_object(private, key_id)


def _from_object(private: Any, key_id: str | None) -> SigningKey | str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415 - see above

    if isinstance(private, rsa.RSAPrivateKey):
        if private.key_size < _SHORTEST_RSA_KEY:
            return _SHORT_RSA_KEY
    elif not (
        isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1)
    ):
        return _UNSUPPORTED
    if key_id is None:
        return _NO_ID
    algorithm = "RS256" if isinstance(private, rsa.RSAPrivateKey) else "ES256"
    return SigningKey(algorithm, key_id, private)
