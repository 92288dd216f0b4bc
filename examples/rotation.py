"""Rotate an API key without an outage, and switch one off for a while, as a member.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import jwt

from audiencelab_sdk import AudienceLab, Scope

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


def main() -> None:
    """Run the example."""
    with project() as (url, key, jwt_secret), AudienceLab(url, key) as backend:
        keys = backend.as_user(sign_in(jwt_secret)).api_keys
        read = Scope(entity_type="segment", entity_id="*", action="read")
        old = keys.create(ACCOUNT_ID, "Example", scopes=[read])

        new = keys.rotate(old.id, overlap=timedelta(hours=1))
        print(f"{old.key_prefix}… is replaced by {new.key_prefix}…")
        for name, text in (("old", old.key), ("new", new.key)):
            caller = backend.api_keys.authenticate(text)
            print(f"the {name} key is {caller.code}")
        print(f"the old key expires at {keys.get(old.id).expires_at}")

        keys.disable(new.id)
        print(f"switched off, the new key is {backend.api_keys.authenticate(new.key).code}")
        keys.enable(new.id)
        caller = backend.api_keys.authenticate(new.key)
        if caller and caller.allows("segment", "42", "read"):
            print("switched on, it may read segment 42 again")

        for api_key_id in (old.id, new.id):
            keys.revoke(api_key_id)


if __name__ == "__main__":
    main()
