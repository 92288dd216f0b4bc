"""The outcomes of a chunk."""

import pytest

from audiencelab_sdk import EnrichmentRecordError
from audiencelab_sdk._resources._chunks import Failure, Results
from audiencelab_sdk._resources._portions import Portion


@pytest.mark.parametrize("failures", [{}, {1: Failure(ValueError("odd"))}])
def test_outcomes_are_counted_as_they_are_handed_out(failures: dict[int, Failure]) -> None:
    portion = Portion(10, Results(["a", None, "c"], failures))
    failed = len(failures)

    seen = []
    for outcome in portion.outcomes:
        seen.append((portion.dealt_with(), portion.handed_out()))
        assert outcome.index == 9 + len(seen)
        assert bool(outcome) is not (failures and outcome.index == 11)

    assert seen == [((0, 0), (1, 0)), ((1, 0), (2, failed)), ((2, failed), (3, failed))]


def test_nothing_is_counted_before_the_first_outcome() -> None:
    portion = Portion(0, Results([1], {}))

    assert portion.handed_out() == portion.dealt_with() == (0, 0)


def test_a_failed_record_has_an_error() -> None:
    portion = Portion(10, Results([1, None], {1: Failure(ValueError("odd"))}))

    good, bad = portion.outcomes

    assert good.unwrap() == 1
    with pytest.raises(EnrichmentRecordError, match="record 11: ValueError: odd"):
        bad.unwrap()
