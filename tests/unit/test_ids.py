"""New ids of rows."""

import time
from uuid import RFC_4122

import pytest

from audiencelab_sdk._ids import time_ordered_id


def test_an_id_is_a_uuid_of_version_7_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [time_ordered_id() for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {RFC_4122}
    assert all(before <= each.int >> 80 <= after for each in ids)


def test_ids_of_the_same_millisecond_differ_in_all_other_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    ids = [time_ordered_id().int for _ in range(1000)]
    assert len(set(ids)) == 1000
    varying = 0
    for each in ids:
        varying |= each ^ ids[0]
    assert varying == 0x0FFF_3FFF_FFFF_FFFF_FFFF
