"""Private keys that sign tokens, as JWK and as PEM."""

import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KID = "b1f3c6de-3f6c-4d4c-9f0b-1c2d3e4f5a6b"
EC = ec.generate_private_key(ec.SECP256R1())
OTHER_EC = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ED25519 = ed25519.Ed25519PrivateKey.generate()
DSA = dsa.generate_private_key(key_size=1024)


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    """Return the JWK of a private or public key, with a kid."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        members = RSAAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        members = OKPAlgorithm.to_jwk(key, as_dict=True)
    else:
        members = ECAlgorithm.to_jwk(key, as_dict=True)
    return {**members, "kid": KID, **more}


def without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a JWK without some of its members."""
    return {name: value for name, value in members.items() if name not in names}


def pem(key: Any, password: bytes | None = None, *, traditional: bool = False) -> str:
    """Return a private key as PEM."""
    encryption: Any = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    kind = serialization.PrivateFormat
    return str(
        key.private_bytes(
            serialization.Encoding.PEM,
            kind.TraditionalOpenSSL if traditional else kind.PKCS8,
            encryption,
        ).decode()
    )


def public_pem(key: Any) -> str:
    """Return the public half of a private key as PEM."""
    return str(
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def secrets_of(key: Any) -> list[str]:
    """Return the texts that no error may show: members of the JWK, and lines of the PEMs."""
    members = jwk(key)
    secret = [str(members[name]) for name in ("d", "p", "q", "dp", "dq", "qi") if name in members]
    lines = [line for text in (pem(key), pem(key, traditional=True)) for line in text.splitlines()]
    return [*secret, *(line for line in lines if len(line) > 30 and "-----" not in line)]


EC_JWK_TEXT = json.dumps(jwk(EC))
