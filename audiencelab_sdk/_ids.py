"""New ids of rows."""

import time
from secrets import randbits
from uuid import UUID


def time_ordered_id() -> UUID:
    """Return a UUID of version 7 (RFC 9562).

    New rows are added at the end of the index. Random ids would spread them over all its pages.
    """
    milliseconds = time.time_ns() // 1_000_000
    version, variant = 0x7, 0b10
    return UUID(
        int=milliseconds << 80 | version << 76 | randbits(12) << 64 | variant << 62 | randbits(62)
    )
