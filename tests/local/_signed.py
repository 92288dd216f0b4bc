"""Tokens of a stack's signing keys."""

from uuid import uuid4

import httpx
import jwt

from audiencelab_sdk.local import LocalStack


def assert_signs_for_members(stack: LocalStack, algorithm: str) -> None:
    """Send tokens of one signing key, with its `kid`, without one and with another."""
    owner = stack.create_user()
    account_id = str(stack.create_account("Acme", owner=owner))
    key = jwt.PyJWK.from_json(stack.signing_key if algorithm == "ES256" else stack.rsa_signing_key)

    def status(**headers: str) -> int:
        claims = {"role": "authenticated", "sub": str(owner)}
        token = jwt.encode(claims, key.key, algorithm=algorithm, headers=headers)
        return httpx.post(
            f"{stack.url}/rest/v1/rpc/list_api_keys",
            headers={"apikey": stack.publishable_key, "Authorization": f"Bearer {token}"},
            json={"p_account_id": account_id},
        ).status_code

    assert key.algorithm_name == algorithm
    assert key.key_id
    assert status(kid=key.key_id) == 200
    assert status() == 200
    assert status(kid=str(uuid4())) == 401
