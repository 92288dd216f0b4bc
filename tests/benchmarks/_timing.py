"""Comparing two ways of doing the same, fairly: alternately, on one machine, by medians."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Comparison:
    """How one thing did against another.

    Attributes:
        what: What was measured.
        against: What it was measured against.
        figures: Both figures with their unit, for people.
        ratio: One figure by the other, so that `limit` makes sense of it.
        limit: What the ratio has to be.
        at_least: Whether `limit` is the least that is good enough, and not the most.
    """

    what: str
    against: str
    figures: tuple[str, str]
    ratio: float
    limit: float
    at_least: bool

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def times_as_fast(
    what: str, against: str, seconds: tuple[float, float], *, at_least: float
) -> Comparison:
    """The other way's time, as a multiple of ours."""
    ours, theirs = seconds
    figures = (_milliseconds(ours), _milliseconds(theirs))
    return Comparison(what, against, figures, theirs / ours, at_least, at_least=True)


def times_as_long(
    what: str, against: str, seconds: tuple[float, float], *, at_most: float
) -> Comparison:
    """Our time, as a multiple of the other way's."""
    ours, theirs = seconds
    figures = (_milliseconds(ours), _milliseconds(theirs))
    return Comparison(what, against, figures, ours / theirs, at_most, at_least=False)


def times_as_many(
    what: str, against: str, rates: tuple[float, float], *, at_least: float
) -> Comparison:
    """Our number of things a second, as a multiple of the other way's."""
    ours, theirs = rates
    figures = (f"{ours:,.0f}/s", f"{theirs:,.0f}/s")
    return Comparison(what, against, figures, ours / theirs, at_least, at_least=True)


def alternating_medians(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    calls: tuple[int, int] = (10, 10),
) -> tuple[float, float]:
    """The median seconds of one call of each, taken in turns as `alternating` does."""
    times = alternating(first, second, rounds=rounds, calls=calls)
    return median(times[0]), median(times[1])


def alternating(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    calls: tuple[int, int] = (10, 10),
) -> tuple[list[float], list[float]]:
    """The seconds of each call of each, taken in turns.

    Whatever else the machine does, it does to both. Each is called a few times beforehand.

    Args:
        first: One way.
        second: The other way.
        rounds: How often each has its turn.
        calls: How many calls of each make a turn.
    """
    ways = ((first, calls[0], list[float]()), (second, calls[1], list[float]()))
    for way, count, _ in ways:
        for _ in range(min(count, 10)):
            way()
    for _ in range(rounds):
        for way, count, times in ways:
            times.extend(seconds(way) for _ in range(count))
    return ways[0][2], ways[1][2]


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def table(comparisons: Iterable[Comparison]) -> str:
    """The comparisons as lines of text."""
    rows = [("what", "against", "ours", "theirs", "ratio", "limit", "")]
    rows += [
        (
            comparison.what,
            comparison.against,
            *comparison.figures,
            f"{comparison.ratio:,.2f}",
            f"{'≥' if comparison.at_least else '≤'} {comparison.limit:,.4g}",
            "ok" if comparison.ok else "MISSED",
        )
        for comparison in comparisons
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _milliseconds(duration: float) -> str:
    return f"{duration * 1000:,.3f} ms"
