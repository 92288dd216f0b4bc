"""An asynchronous backend: it verifies a hundred requests at once and logs them in one batch.

With SUPABASE_URL, SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET it runs
against that project, as the user and account of supabase/seed.sql or those that AUDIENCELAB_USER_ID
and AUDIENCELAB_ACCOUNT_ID name. Without SUPABASE_URL it starts an embedded stack, and stops it.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jwt

from audiencelab_sdk import AsyncAudienceLab, Scope, UsageEvent

USER_ID = os.environ.get("AUDIENCELAB_USER_ID", "11111111-1111-4111-8111-111111111111")
ACCOUNT_ID = os.environ.get("AUDIENCELAB_ACCOUNT_ID", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")


@contextmanager
def project() -> Iterator[tuple[str, str, str]]:
    """The URL, secret key and JWT secret of the project to run against."""
    if "SUPABASE_URL" in os.environ:
        missing = {"SUPABASE_KEY", "SUPABASE_JWT_SECRET"} - os.environ.keys()
        if missing:
            raise SystemExit(f"SUPABASE_URL is set; set {' and '.join(sorted(missing))} as well.")
        env = os.environ
        yield env["SUPABASE_URL"], env["SUPABASE_KEY"], env["SUPABASE_JWT_SECRET"]
    else:
        from audiencelab_sdk.local import LocalStack  # noqa: PLC0415 - only when it is needed

        with LocalStack() as stack:
            yield stack.url, stack.service_role_key, stack.jwt_secret


def sign_in(jwt_secret: str) -> str:
    """The access token that Supabase Auth would give to the user."""
    claims = {"role": "authenticated", "sub": USER_ID, "exp": int(time.time()) + 600}
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


async def handle(backend: AsyncAudienceLab, api_key: str, path: str) -> UsageEvent | None:
    """Answer a request: who asks, and is there a record to keep of it?"""
    verification = await backend.api_keys.verify(api_key)
    if not verification:
        return None
    return UsageEvent(
        api_key_id=verification.api_key_id, endpoint=path, method="GET", status_code=200
    )


async def serve(url: str, key: str, jwt_secret: str) -> None:
    """Serve a hundred requests, one in ten with a wrong key."""
    async with AsyncAudienceLab(url, key) as backend:
        member = backend.as_user(sign_in(jwt_secret))
        created = await member.api_keys.create(
            ACCOUNT_ID, "Example", scopes=[Scope(entity_type="*", entity_id="*", action="read")]
        )
        good = created.key.get_secret_value()
        requests = [("sk_wrong" if n % 10 == 0 else good, f"/v1/segments/{n}") for n in range(100)]
        events = await asyncio.gather(*(handle(backend, key, path) for key, path in requests))
        used = [event for event in events if event]
        print(f"{len(used)} of {len(requests)} requests had a valid key")
        outcomes = await backend.api_keys.log_usage_batch(used)
        print(f"{sum(map(bool, outcomes))} were logged at once")
        await member.api_keys.revoke(created.id)


def main() -> None:
    """Find the project, and serve."""
    with project() as settings:
        asyncio.run(serve(*settings))


if __name__ == "__main__":
    main()
