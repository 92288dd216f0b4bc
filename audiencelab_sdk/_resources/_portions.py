"""The outcomes of a chunk, and how many of them the loop has dealt with."""

from collections.abc import Iterator
from itertools import count
from operator import length_hint
from typing import Generic, NamedTuple, TypeVar

from audiencelab_sdk._resources._chunks import Results
from audiencelab_sdk.models import Outcome

T = TypeVar("T")


class Totals(NamedTuple):
    """Numbers of records.

    Attributes:
        processed: The number of records processed, failures included.
        failed: How many of these failed.
    """

    processed: int
    failed: int


class Portion(Generic[T]):
    """The outcomes of consecutive records.

    The iterator is the only thing that changes. So an outcome takes little time, and a report in
    another thread always finds consistent numbers.

    Attributes:
        outcomes: Yields the outcomes.
    """

    def __init__(self, first: int, results: Results[T]) -> None:
        values, failures = results
        self._size = len(values)
        self._failures = failures
        self._values = iter(values)
        self.outcomes: Iterator[Outcome[T]]
        if failures:
            self.outcomes = self._with_failures(first)
        else:
            self.outcomes = map(Outcome, count(first), self._values)

    def handed_out(self) -> Totals:
        """Count the outcomes that were yielded."""
        return self._among_the_first(self._size - length_hint(self._values))

    def dealt_with(self) -> Totals:
        """Count the outcomes that were yielded, except the last one: it may still be in use."""
        return self._among_the_first(max(0, self._size - length_hint(self._values) - 1))

    def _among_the_first(self, number: int) -> Totals:
        return Totals(number, sum(position < number for position in self._failures))

    def _with_failures(self, first: int) -> Iterator[Outcome[T]]:
        for position, value in enumerate(self._values):
            index = first + position
            if position in self._failures:
                yield Outcome(index, error=self._failures[position].of(index))
            else:
                yield Outcome(index, value)
