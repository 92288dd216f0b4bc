"""An asynchronous backend that verifies 100 requests concurrently and logs them in one batch.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
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
    """Yield the URL, secret key and JWT secret of the project to run against."""
    if "SUPABASE_URL" in os.environ:
        missing = {"SUPABASE_KEY", "SUPABASE_JWT_SECRET"} - os.environ.keys()
        if missing:
            raise SystemExit(f"SUPABASE_URL is set; set {' and '.join(sorted(missing))} as well.")
        env = os.environ
        yield env["SUPABASE_URL"], env["SUPABASE_KEY"], env["SUPABASE_JWT_SECRET"]
    else:
        from audiencelab_sdk.local import LocalStack  # noqa: PLC0415 - only if needed

        with LocalStack() as stack:
            yield stack.url, stack.secret_key, stack.jwt_secret


def sign_in(jwt_secret: str) -> str:
    """Return an access token like the one that Supabase Auth issues to the user."""
    claims = {"role": "authenticated", "sub": USER_ID, "exp": int(time.time()) + 600}
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


async def handle(backend: AsyncAudienceLab, api_key: str, path: str) -> UsageEvent | None:
    """Verify the key of a request, and return the event to log if it is valid."""
    verification = await backend.api_keys.verify(api_key)
    if not verification:
        return None
    return UsageEvent(
        api_key_id=verification.api_key_id, endpoint=path, method="GET", status_code=200
    )


async def serve(url: str, key: str, jwt_secret: str) -> None:
    """Serve 100 requests, one in ten with an invalid key."""
    async with AsyncAudienceLab(url, key) as backend:
        member = backend.as_user(sign_in(jwt_secret))
        created = await member.api_keys.create(
            ACCOUNT_ID, "Example", scopes=[Scope(entity_type="*", entity_id="*", action="read")]
        )
        valid = created.key.get_secret_value()
        requests = [("sk_wrong" if n % 10 == 0 else valid, f"/v1/segments/{n}") for n in range(100)]
        events = await asyncio.gather(*(handle(backend, key, path) for key, path in requests))
        valid_events = [event for event in events if event]
        print(f"{len(valid_events)} of {len(requests)} requests had a valid key")
        outcomes = await backend.api_keys.log_usage_batch(valid_events)
        print(f"{sum(map(bool, outcomes))} were logged at once")
        await member.api_keys.revoke(created.id)


def main() -> None:
    """Run the example."""
    with project() as settings:
        asyncio.run(serve(*settings))


if __name__ == "__main__":
    main()
