"""Enriches 2,000 records with threads of this machine, or on a Dask cluster.

To use a cluster, set DASK_SCHEDULER to the address of its scheduler. Its workers need
`audiencelab_sdk`, and this machine needs `distributed`.

Without SUPABASE_URL it runs on an embedded stack. To run it against a project, set SUPABASE_URL and
SUPABASE_KEY (the secret or service_role key). AUDIENCELAB_USER_ID and AUDIENCELAB_ACCOUNT_ID
default to the user and account of supabase/seed.sql.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from uuid import uuid4

from audiencelab_sdk import AudienceLab

USER_ID = os.environ.get("AUDIENCELAB_USER_ID", "11111111-1111-4111-8111-111111111111")
ACCOUNT_ID = os.environ.get("AUDIENCELAB_ACCOUNT_ID", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
RECORDS = 2_000


@contextmanager
def project() -> Iterator[tuple[str, str]]:
    """Yield the URL and the secret key of the project to run against."""
    if "SUPABASE_URL" in os.environ:
        if "SUPABASE_KEY" not in os.environ:
            raise SystemExit("SUPABASE_URL is set; set SUPABASE_KEY as well.")
        yield os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"]
    else:
        from audiencelab_sdk.local import LocalStack  # noqa: PLC0415 - only if needed

        with LocalStack() as stack:
            yield stack.url, stack.service_role_key


def cluster() -> Executor:
    """Return an executor that runs calls on the Dask cluster."""
    from distributed import Client  # noqa: PLC0415 - only if needed

    return Client(os.environ["DASK_SCHEDULER"]).get_executor()  # type: ignore[no-any-return]


def find_email(person: str) -> str:
    """Ask a vendor for an address. One person in fifty has none."""
    time.sleep(0.001)
    if person.endswith(("49", "99")):
        raise LookupError(f"no address of {person}")
    return f"{person}@example.com"


def main() -> None:
    """Create a job, and enrich its records."""
    people = (f"person{number}" for number in range(RECORDS))
    emails: dict[int, str] = {}
    with project() as (url, key), AudienceLab(url, key) as client:
        job = client.enrichment.create(
            ACCOUNT_ID, uuid4(), "email", total_records=RECORDS, created_by=USER_ID
        )
        executor = cluster() if "DASK_SCHEDULER" in os.environ else None
        with client.enrichment.run(
            job, people, find_email, executor=executor, chunk_size=50, show=True
        ) as outcomes:
            for outcome in outcomes:
                if outcome:
                    emails[outcome.index] = outcome.unwrap()
        job = outcomes.job
        print(f"job {job.id} is {job.status}: {job.processed_records} records are processed")
        print(f"{len(emails)} addresses were found, {job.failed_records} were not")


if __name__ == "__main__":
    main()
