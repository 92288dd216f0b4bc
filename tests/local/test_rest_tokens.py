"""Verification of tokens: those that are accepted, and the errors of the others."""

import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.tokens import LEEWAY, TokenReader

SECRET = "a secret of sixty-four bytes, which is long enough for HS512 too"


@pytest.fixture
def reader() -> TokenReader:
    return TokenReader(SECRET, "anon")


def bearer(claims: dict[str, Any], secret: str = SECRET) -> str:
    return "Bearer " + jwt.encode(claims, secret, algorithm="HS256")


def test_no_token_is_the_anonymous_role(reader: TokenReader) -> None:
    identity = reader.identify(None)
    assert (identity.role, identity.anonymous) == ("anon", True)
    assert json.loads(identity.claims) == {"role": "anon"}


def test_another_scheme_is_anonymous(reader: TokenReader) -> None:
    assert reader.identify("Basic dXNlcjpwYXNz").anonymous


def test_a_token_gives_role_and_claims(reader: TokenReader) -> None:
    claims = {"role": "authenticated", "sub": "x", "app": {"deep": [1, "é"]}}
    identity = reader.identify(bearer(claims).replace("Bearer", "bearer"))
    assert (identity.role, identity.anonymous) == ("authenticated", False)
    assert json.loads(identity.claims) == claims


def test_a_token_without_a_role_is_anonymous(reader: TokenReader) -> None:
    assert reader.identify(bearer({"sub": "x"})).role == "anon"


@pytest.mark.parametrize(
    ("claim", "offset"), [("exp", -LEEWAY + 5), ("nbf", LEEWAY - 5), ("iat", LEEWAY - 5)]
)
def test_clock_skew_within_the_leeway_is_accepted(
    reader: TokenReader, claim: str, offset: int
) -> None:
    assert reader.identify(bearer({"role": "a", claim: time.time() + offset})).role == "a"


@pytest.mark.parametrize(
    ("claim", "offset", "message"),
    [
        ("exp", -LEEWAY - 5, "JWT expired"),
        ("nbf", LEEWAY + 5, "JWT not yet valid"),
        ("iat", LEEWAY + 5, "JWT issued at future"),
    ],
)
def test_clock_skew_beyond_the_leeway_is_rejected(
    reader: TokenReader, claim: str, offset: int, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        reader.identify(bearer({"role": "a", claim: time.time() + offset}))
    assert (caught.value.status, caught.value.code) == (401, "PGRST303")
    assert caught.value.headers["WWW-Authenticate"] == (
        f'Bearer error="invalid_token", error_description="{message}"'
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Bearer ", "Empty JWT"),
        ("Bearer a.b", "Expected 3 parts in JWT; got 2"),
        ("Bearer a.b.c", "cryptographic operation failed"),
        ("Bearer " + "é" * 9 + "..", "cryptographic operation failed"),
        (bearer({"role": "a"}, "another secret of thirty-two bytes"), "No suitable key"),
        ("Bearer " + jwt.encode({"role": "a"}, SECRET, algorithm="HS512"), "Wrong or unsupported"),
        ("Bearer " + jwt.encode({"role": "a"}, "", algorithm="none"), "Wrong or unsupported"),
    ],
)
def test_invalid_tokens_are_rejected(reader: TokenReader, header: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        reader.identify(header)
    assert (caught.value.status, caught.value.code) == (401, "PGRST301")


@pytest.mark.parametrize(
    "claims", [{"role": 5}, {"role": "a\0b"}, {"exp": "soon"}, {"nbf": True}, {"exp": []}]
)
def test_claims_of_the_wrong_kind(reader: TokenReader, claims: dict[str, Any]) -> None:
    token = jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")
    with pytest.raises(ApiError) as caught:
        reader.identify(f"Bearer {token}")
    assert (caught.value.status, caught.value.code) == (401, "PGRST303")


def test_a_short_secret_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        TokenReader("short", "anon")


def jwks(**secrets: str) -> str:
    keys = [
        {"kty": "oct", "kid": name, "alg": "HS256", "k": base64url_encode(secret.encode()).decode()}
        for name, secret in secrets.items()
    ]
    return json.dumps({"keys": keys})


def test_a_jwks_selects_the_key_by_its_id() -> None:
    other = "another secret of thirty-two bytes"
    reader = TokenReader(jwks(first=SECRET, second=other), "anon")
    for name, secret in (("first", SECRET), ("second", other), (None, SECRET), (None, other)):
        headers = {"kid": name} if name else None
        token = jwt.encode({"role": "a"}, secret, algorithm="HS256", headers=headers)
        assert reader.identify(f"Bearer {token}").role == "a"
    for name in ("second", "third", ""):
        token = jwt.encode({"role": "a"}, SECRET, algorithm="HS256", headers={"kid": name})
        with pytest.raises(ApiError, match="No suitable key"):
            reader.identify(f"Bearer {token}")


def test_a_key_without_an_id_verifies_no_token_with_one() -> None:
    (key,) = json.loads(jwks(name=SECRET))["keys"]
    del key["kid"]
    token = jwt.encode({"role": "a"}, SECRET, algorithm="HS256", headers={"kid": "name"})
    for reader in (TokenReader(json.dumps(key), "anon"), TokenReader(SECRET, "anon")):
        assert reader.identify(bearer({"role": "a"})).role == "a"
        with pytest.raises(ApiError, match="No suitable key"):
            reader.identify(f"Bearer {token}")


@pytest.mark.parametrize("reverse", [False, True])
def test_a_forged_token_gets_the_same_error_from_keys_in_any_order(*, reverse: bool) -> None:
    keys = [*json.loads(jwks(shared=SECRET))["keys"], public_jwk(RSA_KEY), public_jwk(EC_KEY)]
    reader = TokenReader(json.dumps({"keys": keys[::-1] if reverse else keys}), "anon")
    other = ec.generate_private_key(ec.SECP256R1())
    forged = [
        bearer({"role": "a"}, "another secret of thirty-two bytes"),
        "Bearer " + jwt.encode({"role": "a"}, other, algorithm="ES256"),
    ]
    for header in forged:
        with pytest.raises(ApiError, match="No suitable key"):
            reader.identify(header)
    with pytest.raises(ApiError, match="Wrong or unsupported"):
        reader.identify("Bearer " + jwt.encode({"role": "a"}, SECRET, algorithm="HS512"))


def public_jwk(private: Any, **more: str) -> dict[str, Any]:
    if isinstance(private, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), **more}
    return {**ECAlgorithm.to_jwk(private.public_key(), as_dict=True), **more}


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(("algorithm", "private"), [("RS256", RSA_KEY), ("ES256", EC_KEY)])
def test_asymmetric_keys(algorithm: str, private: Any) -> None:
    shared = json.loads(jwks(shared=SECRET))["keys"]
    keys = [*shared, public_jwk(RSA_KEY, kid="rsa"), public_jwk(EC_KEY, kid="ec")]
    reader = TokenReader(json.dumps({"keys": keys}), "anon")
    for headers in (None, {"kid": "rsa" if private is RSA_KEY else "ec"}):
        token = jwt.encode({"role": "a"}, private, algorithm=algorithm, headers=headers)
        assert reader.identify(f"Bearer {token}").role == "a"
    assert reader.identify(bearer({"role": "b"})).role == "b"
    header, claims, signature = token.split(".")
    forged = base64url_encode(b'{"role": "service_role"}').decode()
    for changed in (f"{header}.{forged}.{signature}", f"{header}.{claims}.{signature[::-1]}"):
        with pytest.raises(ApiError) as caught:
            reader.identify(f"Bearer {changed}")
        assert (caught.value.status, caught.value.code) == (401, "PGRST301")


def public_texts(key: Any) -> list[bytes]:
    """What an attacker may know of a key and try as a shared secret."""
    public, jwk = key.public_key(), public_jwk(key)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    texts = [public.public_bytes(each, info) for each in (Encoding.PEM, Encoding.DER)]
    return [
        *texts,
        texts[0].strip(),
        json.dumps(jwk).encode(),
        *(str(jwk[name]).encode() for name in ("x", "n") if name in jwk),
    ]


@pytest.mark.parametrize("kid", [None, "ec", "rsa", "shared"])
@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY])
def test_a_public_key_is_not_accepted_as_a_shared_secret(key: Any, kid: str | None) -> None:
    shared = json.loads(jwks(shared=SECRET))["keys"]
    keys = [*shared, public_jwk(RSA_KEY, kid="rsa"), public_jwk(EC_KEY, kid="ec")]
    readers = [TokenReader(json.dumps(each), "anon") for each in ({"keys": keys}, public_jwk(key))]
    header = json.dumps({"alg": "HS256"} | ({"kid": kid} if kid else {})).encode()
    signed = base64url_encode(header) + b"." + base64url_encode(b'{"role":"a"}')
    for secret in public_texts(key):
        mac = base64url_encode(hmac.digest(secret, signed, "sha256"))
        for reader in readers:
            with pytest.raises(ApiError) as caught:
                reader.identify(f"Bearer {(signed + b'.' + mac).decode()}")
            assert (caught.value.status, caught.value.code) == (401, "PGRST301")


def test_a_token_of_another_private_key_is_rejected() -> None:
    reader = TokenReader(json.dumps(public_jwk(RSA_KEY)), "anon")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(ApiError, match="No suitable key"):
        reader.identify("Bearer " + jwt.encode({"role": "a"}, other, algorithm="RS256"))


@pytest.mark.parametrize(
    "text", ["{", '{"keys": []}', '{"keys": [{"kty": "odd", "k": "hush"}]}', '{"keys": 5}']
)
def test_an_invalid_jwks_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="JWKS") as caught:
        TokenReader(text, "anon")
    assert "hush" not in str(caught.value)


def test_no_token_and_no_secret_in_an_error(reader: TokenReader) -> None:
    header = bearer({"role": "a"}, "another secret of thirty-two bytes")
    with pytest.raises(ApiError) as caught:
        reader.identify(header)
    shown = repr(caught.value) + caught.value.body.decode() + repr(reader)
    assert header.split()[1] not in shown
    assert SECRET not in shown
