"""Two threads share an enrichment job, each with a unit of work. Needs the extra `progress`.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL,
SUPABASE_KEY (the secret or service_role key) and SUPABASE_JWT_SECRET. AUDIENCELAB_USER_ID and
AUDIENCELAB_ACCOUNT_ID default to the user and account of supabase/seed.sql.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import jwt

from audiencelab_sdk import AudienceLab, EnrichmentJob

USER_ID = os.environ.get("AUDIENCELAB_USER_ID", "11111111-1111-4111-8111-111111111111")
ACCOUNT_ID = os.environ.get("AUDIENCELAB_ACCOUNT_ID", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
RECORDS = 400


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


def work(client: AudienceLab, job: EnrichmentJob, unit: str) -> None:
    """Enrich half of the records in batches of ten. One record in fifty has no match.

    If this process crashes, another one may process the same unit again: it counts once.
    """
    # The caller completes the job, after both units are finished.
    with client.enrichment.track(job, unit=unit, complete=False) as progress:
        for first in range(0, RECORDS // 2, 10):
            time.sleep(0.1)  # stands for a request to a vendor
            progress.advance(10, failed=1 if first % 50 == 0 else 0)


def main() -> None:
    """Create a job, work on its two units and wait for it."""
    with project() as (url, key, jwt_secret), AudienceLab(url, key) as backend:
        member = backend.as_user(sign_in(jwt_secret))
        job = member.enrichment.create(ACCOUNT_ID, uuid4(), "email", total_records=RECORDS)
        print(f"job {job.id} is {job.status}")
        with ThreadPoolExecutor(3) as threads:
            watcher = threads.submit(
                member.enrichment.wait, job.id, timeout=60, poll_interval=0.5, show=True
            )
            halves = "first half", "second half"
            for worker in [threads.submit(work, backend, job, half) for half in halves]:
                worker.result()
            backend.enrichment.complete(job.id)
            job = watcher.result()
        print(f"job {job.id} is {job.status}: {job.processed_records} records are processed")
        print(f"{job.failed_records} of them failed")


if __name__ == "__main__":
    main()
