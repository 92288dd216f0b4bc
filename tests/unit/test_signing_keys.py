"""Keys that sign the tokens of an API key."""

import json
from types import MappingProxyType
from typing import Any

import httpx
import jwt
import pytest
import respx
from pydantic import SecretStr

from audiencelab_sdk import InvalidArgumentError
from tests.unit._both_clients import maybe_await
from tests.unit._private_keys import (
    DSA,
    EC,
    EC_JWK_TEXT,
    ED25519,
    KID,
    OTHER_EC,
    P384,
    RSA,
    SHORT_RSA,
    jwk,
    pem,
    public_pem,
    without,
)
from tests.unit._samples import API_KEY, KEY_ID, VALID

SECRET = "a-secret-of-at-least-thirty-two-bytes"
CIRCLE: dict[str, Any] = {"kty": "EC"}
CIRCLE["itself"] = CIRCLE


@pytest.fixture
def route(api: respx.MockRouter) -> respx.Route:
    return api.post("/rpc/verify_api_key").respond(json=VALID)


async def token_of(client: Any, route: respx.Route) -> str:
    assert await maybe_await(client.api_keys.verify(API_KEY))
    request: httpx.Request = route.calls.last.request
    return request.headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("options", "private"),
    [
        ({"signing_key": jwk(EC)}, EC),
        ({"signing_key": MappingProxyType(jwk(EC, alg="ES256", use="sig"))}, EC),
        ({"signing_key": EC_JWK_TEXT}, EC),
        ({"signing_key": SecretStr(f"\n {EC_JWK_TEXT} \n")}, EC),
        ({"signing_key": EC_JWK_TEXT, "kid": KID}, EC),
        ({"signing_key": without(jwk(EC), "kid"), "kid": KID}, EC),
        ({"signing_key": pem(EC), "kid": KID}, EC),
        ({"signing_key": SecretStr(pem(EC, traditional=True)), "kid": KID}, EC),
        ({"signing_key": jwk(RSA)}, RSA),
        ({"signing_key": jwk(RSA, alg="RS256")}, RSA),
        ({"signing_key": json.dumps(without(jwk(RSA), "p", "q", "dp", "dq", "qi"))}, RSA),
        ({"signing_key": pem(RSA), "kid": KID}, RSA),
        ({"signing_key": pem(RSA, traditional=True), "kid": KID}, RSA),
    ],
)
async def test_a_private_key_signs_the_token(
    client: Any, route: respx.Route, options: dict[str, Any], private: Any
) -> None:
    token = await token_of(client.as_api_key(KEY_ID, **options), route)
    algorithm = "RS256" if private is RSA else "ES256"
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": KID, "typ": "JWT"}
    claims = jwt.decode(token, private.public_key(), algorithms=[algorithm])
    assert (claims["role"], claims["sub"]) == ("api_key", KEY_ID)


async def test_the_shared_secret_signs_a_token_without_kid(client: Any, route: respx.Route) -> None:
    token = await token_of(client.as_api_key(KEY_ID, jwt_secret=SECRET), route)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({}, "pass jwt_secret .* or signing_key"),
    ({"jwt_secret": SECRET, "signing_key": jwk(EC)}, "either jwt_secret or signing_key"),
    ({"jwt_secret": SECRET, "kid": KID}, "kid belongs to signing_key"),
    ({"jwt_secret": pem(EC)}, "jwt_secret is a PEM.*: pass a private key as signing_key"),
    ({"jwt_secret": EC_JWK_TEXT}, "jwt_secret is a PEM.*: pass a private key as signing_key"),
    ({"jwt_secret": jwk(EC)}, "jwt_secret is a PEM.*: pass a private key as signing_key"),
    ({"jwt_secret": f"ssh-rsa {'A' * 40}"}, "jwt_secret is a PEM.*: pass a private key as signing"),
    ({"jwt_secret": "x" * 40 + "\ud800"}, "jwt_secret is not valid Unicode"),
    ({"jwt_secret": "x" * 31}, "jwt_secret must have at least 32 bytes"),
    ({"jwt_secret": 5}, "jwt_secret must be a str or SecretStr, not int"),
    ({"signing_key": 5}, "signing_key must be a private JWK"),
    ({"signing_key": EC}, "signing_key must be a private JWK"),
    ({"signing_key": pem(EC).encode()}, "signing_key must be a private JWK"),
    ({"signing_key": ""}, "signing_key must be a private JWK"),
    ({"signing_key": "garbage"}, "signing_key must be a private JWK"),
    ({"signing_key": SECRET}, "signing_key must be a private JWK"),
    ({"signing_key": "5"}, "signing_key must be a private JWK"),
    ({"signing_key": '{"kty": "EC"'}, "signing_key must be a private JWK"),
    ({"signing_key": "[" * 100_000}, "signing_key must be a private JWK"),
    ({"signing_key": CIRCLE}, "signing_key must be a private JWK"),
    ({"signing_key": {"kty": "oct", "k": "c2VjcmV0", "kid": KID}}, "pass the secret itself as jwt"),
    ({"signing_key": {"keys": [jwk(EC), jwk(RSA)]}}, "a set of keys: pass the one JWK"),
    ({"signing_key": json.dumps({"keys": [jwk(EC)]})}, "a set of keys: pass the one JWK"),
    ({"signing_key": [jwk(EC)]}, "a set of keys: pass the one JWK"),
    ({"signing_key": json.dumps([jwk(EC), jwk(RSA)])}, "a set of keys: pass the one JWK"),
    ({"signing_key": without(jwk(EC), "d")}, "a public key, which signs nothing"),
    ({"signing_key": jwk(RSA.public_key())}, "a public key, which signs nothing"),
    ({"signing_key": public_pem(EC), "kid": KID}, "a public key, which signs nothing"),
    ({"signing_key": public_pem(RSA), "kid": KID}, "a public key, which signs nothing"),
    ({"signing_key": without(jwk(EC), "kty")}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(EC, kty=["EC"])}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(EC, alg="HS256")}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(RSA, alg="PS256")}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(P384)}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(ED25519)}, "must be an EC key on the curve P-256"),
    ({"signing_key": pem(P384), "kid": KID}, "must be an EC key on the curve P-256"),
    ({"signing_key": pem(ED25519), "kid": KID}, "must be an EC key on the curve P-256"),
    ({"signing_key": pem(DSA), "kid": KID}, "must be an EC key on the curve P-256"),
    ({"signing_key": jwk(SHORT_RSA)}, "an RSA key of fewer than 2048 bits"),
    ({"signing_key": pem(SHORT_RSA), "kid": KID}, "an RSA key of fewer than 2048 bits"),
    ({"signing_key": pem(EC, b"password"), "kid": KID}, "an encrypted PEM: decrypt it first"),
    (
        {"signing_key": pem(RSA, b"password", traditional=True), "kid": KID},
        "an encrypted PEM: decrypt it first",
    ),
    ({"signing_key": pem(EC).replace("\n", "\\n"), "kid": KID}, "in place of line breaks"),
    ({"signing_key": pem(EC)[:-60], "kid": KID}, "cannot be read: copy the private key again"),
    ({"signing_key": f"{pem(EC)[:90]}\ud800", "kid": KID}, "cannot be read: copy the private key"),
    ({"signing_key": jwk(EC, d=jwk(OTHER_EC)["d"])}, "cannot be read: copy the private key again"),
    ({"signing_key": jwk(EC, d="!")}, "cannot be read: copy the private key again"),
    ({"signing_key": jwk(EC, x=5)}, "cannot be read: copy the private key again"),
    ({"signing_key": without(jwk(RSA), "q")}, "cannot be read: copy the private key again"),
    ({"signing_key": jwk(RSA, n="AQAB")}, "cannot be read: copy the private key again"),
    ({"signing_key": without(jwk(EC), "kid")}, "signing_key has no kid, .* pass kid="),
    ({"signing_key": pem(EC)}, "signing_key has no kid, .* pass kid="),
    ({"signing_key": pem(RSA)}, "signing_key has no kid, .* pass kid="),
    ({"signing_key": jwk(EC), "kid": "another"}, "kid differs from the kid of signing_key"),
    ({"signing_key": jwk(EC, kid="")}, "the kid of signing_key must be a text"),
    ({"signing_key": jwk(EC, kid=5), "kid": KID}, "the kid of signing_key must be a text"),
    ({"signing_key": pem(EC), "kid": ""}, "kid is empty"),
    ({"signing_key": pem(EC), "kid": 5}, "kid must be a str, not int"),
]


@pytest.mark.parametrize(("options", "message"), UNUSABLE)
async def test_a_key_that_cannot_sign_is_rejected(
    client: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        client.as_api_key(KEY_ID, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
