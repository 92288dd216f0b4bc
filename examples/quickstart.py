"""The life cycle of an API key: create, verify, check scopes, log usage and revoke.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import jwt

from audiencelab_sdk import AudienceLab, PermissionDeniedError, Scope

USER_ID = os.environ.get("AUDIENCELAB_USER_ID", "11111111-1111-4111-8111-111111111111")
ACCOUNT_ID = UUID(os.environ.get("AUDIENCELAB_ACCOUNT_ID", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"))
STRANGER_ID = "22222222-2222-4222-8222-222222222222"


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

        print("No SUPABASE_URL is set: starting PostgreSQL and a REST API on this machine ...")
        with LocalStack() as stack:
            yield stack.url, stack.secret_key, stack.jwt_secret


def sign_in(user_id: str, jwt_secret: str) -> str:
    """Return an access token like the one that Supabase Auth issues to the user."""
    claims = {"role": "authenticated", "sub": user_id, "exp": int(time.time()) + 600}
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


def main() -> None:
    """Run the example."""
    with project() as (url, key, jwt_secret), AudienceLab(url, key) as backend:
        print(f"\nThe project is {backend.url}")
        ada = backend.as_user(sign_in(USER_ID, jwt_secret))
        grace = backend.as_user(sign_in(STRANGER_ID, jwt_secret))

        print("\n1. Ada creates a key for her account. It may read every segment.")
        created = ada.api_keys.create(
            ACCOUNT_ID,
            "Quick start",
            scopes=[Scope(entity_type="segment", entity_id="*", action="read")],
        )
        text = created.key.get_secret_value()  # not readable again: the database stores only a hash
        print(f"   {created.name!r}, {created.key_prefix}..., {len(text)} characters")

        print("\n2. The backend verifies the key of a request.")
        verification = backend.api_keys.verify(text)
        if not verification:
            raise SystemExit(f"   {verification.error}")
        print(f"   valid, account {verification.account_id}")
        mistyped = backend.api_keys.verify(text[:-1] + "?")
        print(f"   with a typing error: {mistyped.error}")

        print("\n3. The backend checks the scopes of the key.")
        caller = backend.as_api_key(verification.api_key_id, jwt_secret=jwt_secret)
        for action in ("read", "write"):
            allowed = caller.api_keys.has_scope("segment", "any-id", action)
            print(f"   {action} a segment: {'yes' if allowed else 'no'}")

        print("\n4. The backend logs the request.")
        log = backend.api_keys.log_usage(
            verification.api_key_id, endpoint="/v1/segments", method="GET", status_code=200
        )
        print(f"   log entry {log.log_id} at {log.timestamp:%H:%M:%S} UTC")
        for listed in ada.api_keys.list(ACCOUNT_ID):
            print(f"   {listed.key_prefix}... {listed.name!r}, last used {listed.last_used_at}")

        print("\n5. Grace, who is not a member of the account, tries to revoke the key.")
        try:
            grace.api_keys.revoke(created.id)
        except PermissionDeniedError as error:
            print(f"   rejected: {error}")

        print("\n6. Ada revokes the key.")
        ada.api_keys.revoke(created.id)
        allowed = caller.api_keys.has_scope("segment", "any-id", "read")
        print(f"   verify: {backend.api_keys.verify(text).error}")
        print(f"   read a segment: {'yes' if allowed else 'no'}")


if __name__ == "__main__":
    main()
