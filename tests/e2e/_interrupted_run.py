"""A run that its test interrupts. It prints when it begins to wait, and how long the end took."""

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from audiencelab_sdk import AudienceLab

EXECUTORS = {"processes": ProcessPoolExecutor, "threads": ThreadPoolExecutor}


def enrich(record: int) -> int:
    time.sleep(0.1)
    return record


def main() -> None:
    # A shell that runs the tests in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with AudienceLab(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"]) as client:
        try:
            # A chunk takes ten seconds.
            with client.enrichment.run(
                os.environ["JOB_ID"],
                range(10_000),
                enrich,
                executor=EXECUTORS[os.environ["EXECUTOR"]],
                chunk_size=100,
                on_error="leave",
            ) as outcomes:
                print("waiting", flush=True)
                for outcome in outcomes:
                    print(outcome)
        except KeyboardInterrupt:
            print("interrupted", flush=True)


if __name__ == "__main__":
    main()
