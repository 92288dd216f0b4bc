"""Administer the API keys of an account with the secret key: issue, rotate, audit and count.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from audiencelab_sdk import AudienceLab, UsageEvent

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


def main() -> None:
    """Run the example."""
    with project() as (url, key, _), AudienceLab(url, key) as backend:
        keys = backend.api_keys
        issued = keys.issue(ACCOUNT_ID, "Back office", created_by=USER_ID)
        keys.update(issued.id, metadata={"ticket": 4711}, allowed_ips=["192.0.2.0/24"])
        rotated = keys.rotate(issued.id)

        for listed in keys.list(ACCOUNT_ID):
            if listed.id in {issued.id, rotated.id}:
                print(
                    f"{listed.name}: {listed.key_prefix}…, expires: {listed.expires_at or 'never'}"
                )

        yesterday = datetime.now(UTC) - timedelta(days=1)
        keys.log_usage_batch(
            UsageEvent(
                api_key_id=issued.id,
                endpoint="/v1/segments",
                method="GET",
                status_code=status,
                timestamp=yesterday,
            )
            for status in (200, 200, 404)
        )
        counts = keys.usage(
            ACCOUNT_ID,
            start=yesterday - timedelta(hours=1),
            end=yesterday + timedelta(hours=1),
            api_key_id=issued.id,
        )
        for count in counts:
            print(f"{count.bucket:%Y-%m-%d}: {count.requests} requests, {count.errors} errors")

        for event in keys.events(ACCOUNT_ID, api_key_id=issued.id):
            print(f"{event.event} by {event.actor_type}")
        for api_key_id in (issued.id, rotated.id):
            keys.revoke(api_key_id)


if __name__ == "__main__":
    main()
