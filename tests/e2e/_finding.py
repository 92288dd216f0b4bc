"""The function that the runs of `test_enrichment_run.py` execute, wherever that is."""

import time
from collections.abc import Iterable

import anyio.lowlevel

from audiencelab_sdk import Outcome

RECORDS = 20_000


class NotFoundByVendorError(Exception):
    """Can be pickled, but not unpickled, like many exceptions of vendors."""

    def __init__(self, record: int, vendor: str) -> None:
        super().__init__(f"{vendor} does not know {record}")


def find_email(record: int) -> str:
    """Return an address, except for every tenth record."""
    if record % 20 == 7:
        raise LookupError(record)
    if record % 20 == 17:
        raise NotFoundByVendorError(record, "acme")
    return f"{record}@example.com"


def slowly_find_email(record: int) -> str:
    time.sleep(0.0002)
    return find_email(record)


async def find_email_later(record: int) -> str:
    await anyio.lowlevel.checkpoint()
    return find_email(record)


def check(outcomes: Iterable[Outcome[str]]) -> None:
    """Make sure that each record has exactly one outcome, and the right one."""
    by_index = sorted(outcomes, key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in by_index] == list(range(RECORDS))
    for outcome in by_index:
        if outcome.index % 10 == 7:
            assert not outcome
            assert str(outcome.index) in str(outcome.error)
        else:
            assert outcome.unwrap() == f"{outcome.index}@example.com"
