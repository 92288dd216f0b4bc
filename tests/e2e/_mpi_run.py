"""A run on the processes of MPI. `test_enrichment_run.py` starts it with ``mpiexec``."""

import os

from mpi4py.futures import MPIPoolExecutor

from audiencelab_sdk import AudienceLab
from tests.e2e._finding import RECORDS, check, find_email


def main() -> None:
    with (
        AudienceLab(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"]) as client,
        MPIPoolExecutor() as executor,
        client.enrichment.run(
            os.environ["JOB_ID"], range(RECORDS), find_email, executor=executor, chunk_size=500
        ) as outcomes,
    ):
        check(outcomes)


if __name__ == "__main__":
    main()
