"""A customer's script: nothing but the URL of a project, its publishable key and an API key.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project with direct access,
set SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY (or SUPABASE_KEY, for the anon key) and
AUDIENCELAB_API_KEY. The API key needs a scope to read and write all segments.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from audiencelab_sdk import AudienceLab, PermissionDeniedError, Scope, SegmentFilter


@contextmanager
def client() -> Iterator[AudienceLab]:
    """Yield a client that acts as the API key."""
    if "SUPABASE_URL" in os.environ:
        if not os.environ.get("AUDIENCELAB_API_KEY"):
            raise SystemExit("SUPABASE_URL is set; set AUDIENCELAB_API_KEY as well.")
        with AudienceLab.from_env() as from_env:
            yield from_env
    else:
        from audiencelab_sdk.local import LocalStack  # noqa: PLC0415 - only if needed

        with LocalStack() as stack:
            owner_id = stack.create_user()
            account_id = stack.create_account("Analytical Engines", owner=owner_id)
            with AudienceLab(stack.url, stack.publishable_key) as project:
                owner = project.as_user(stack.access_token(owner_id))
                scope = Scope(entity_type="segment", entity_id="*", action="*")
                key = owner.api_keys.create(account_id, "customer", scopes=[scope]).key
            with AudienceLab(stack.url, stack.publishable_key, api_key=key) as customer:
                yield customer


def main() -> None:
    """Run the example."""
    with client() as audiencelab:
        account_id = audiencelab.api_keys.account_id()
        if account_id is None:
            raise SystemExit("The API key was revoked in the meantime.")
        for action in ("read", "write"):
            allowed = audiencelab.api_keys.has_scope("segment", "*", action)
            print(f"may {action} all segments: {'yes' if allowed else 'no'}")

        segment = audiencelab.segments.create(
            account_id,
            "US engineers",
            source_type="audience",
            source_id="audience-1",
            filters=[SegmentFilter.where("country") == "US"],
        )
        names = [found.name for found in audiencelab.segments.list(name_contains="engineers")]
        print(f"created {segment.name!r}, which is listed: {segment.name in names}")
        audiencelab.segments.delete(segment.id)

        try:
            audiencelab.api_keys.list(account_id)
        except PermissionDeniedError as error:
            print(f"may not list keys: {error}")


if __name__ == "__main__":
    main()
