"""The life cycle of a segment: create, list, update, delete and restore.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jwt

from audiencelab_sdk import AudienceLab, CustomColumn, NewSegment, SegmentFilter, SourceType

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
        segments = backend.as_user(sign_in(jwt_secret)).segments
        segment = segments.create(
            ACCOUNT_ID,
            "US engineers",
            source_type=SourceType.AUDIENCE,
            source_id="audience-1",
            filters=[
                SegmentFilter.where("country") == "US",
                SegmentFilter.where("title").op("contains", "engineer"),
            ],
            custom_columns=[CustomColumn(field="score", header_name="Score", type="number")],
            tags=["example"],
        )
        print(f"created {segment.name!r} with {len(segment.filters)} filters")

        csv = SourceType.CSV_UPLOAD
        batch = [NewSegment(name=f"Upload {n}", source_type=csv, source_id="1") for n in range(120)]
        uploads = [outcome.unwrap() for outcome in segments.create_many(ACCOUNT_ID, batch)]
        print(f"created {len(uploads)} more at once")

        listed = segments.list(account_id=ACCOUNT_ID, name_contains="upload", page_size=50)
        print(f"listed {len({found.id for found in listed} & {u.id for u in uploads})} of them")

        segment = segments.update(segment.id, description="People who build things")
        print(f"updated: {segment.name}, {segment.description}")
        for saved in (segment, *uploads):
            segments.delete(saved.id)
        print(f"deleted; restored: {segments.restore(segment.id).name}")
        segments.delete(segment.id)


if __name__ == "__main__":
    main()
