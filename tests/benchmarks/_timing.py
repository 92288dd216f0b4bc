"""Compare two implementations: alternately, on one machine, by medians."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The exit status of a benchmark of which nothing but a ratio failed. A second run may succeed, if
# the reason was other load on the machine.
MISSED = 3


@dataclass(frozen=True)
class Comparison:
    """A measurement of an implementation and of its baseline.

    Attributes:
        what: What was measured.
        against: The baseline.
        figures: Both figures with their unit, for people.
        ratio: The ratio of the figures that `limit` applies to.
        limit: The limit of the ratio.
        at_least: Whether `limit` is a minimum, and not a maximum.
    """

    what: str
    against: str
    figures: tuple[str, str]
    ratio: float
    limit: float
    at_least: bool

    @property
    def ok(self) -> bool:
        """Whether the ratio is within the limit."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    def with_tolerance(self, tolerance: float) -> Comparison:
        """Return the comparison with a limit that is less strict by a fraction of itself."""
        factor = 1 - tolerance if self.at_least else 1 + tolerance
        return replace(self, limit=self.limit * factor)


def times_as_fast(
    what: str, against: str, seconds: tuple[float, float], *, at_least: float
) -> Comparison:
    """Compare times by how many times as fast ours is."""
    ours, theirs = seconds
    figures = (_milliseconds(ours), _milliseconds(theirs))
    return Comparison(what, against, figures, theirs / ours, at_least, at_least=True)


def times_as_long(
    what: str, against: str, seconds: tuple[float, float], *, at_most: float
) -> Comparison:
    """Compare times by how many times as long ours is."""
    ours, theirs = seconds
    figures = (_milliseconds(ours), _milliseconds(theirs))
    return Comparison(what, against, figures, ours / theirs, at_most, at_least=False)


def times_as_long_in_pairs(
    what: str, against: str, times: tuple[list[float], list[float]], *, at_most: float
) -> Comparison:
    """Compare each time with the one measured right after it, under the same load.

    The ratio is the median of their ratios.
    """
    ours, theirs = times
    figures = (_milliseconds(median(ours)), _milliseconds(median(theirs)))
    ratio = median(own / other for own, other in zip(ours, theirs, strict=True))
    return Comparison(what, against, figures, ratio, at_most, at_least=False)


def times_as_many(
    what: str, against: str, rates: tuple[float, float], *, at_least: float
) -> Comparison:
    """Compare rates per second by how many times as high ours is."""
    ours, theirs = rates
    figures = (f"{ours:,.0f}/s", f"{theirs:,.0f}/s")
    return Comparison(what, against, figures, ours / theirs, at_least, at_least=True)


def times_as_many_in_pairs(
    what: str, against: str, rates: tuple[list[float], list[float]], *, at_least: float
) -> Comparison:
    """Compare each rate per second with the one measured right after or before it.

    The ratio is the median of their ratios.
    """
    ours, theirs = rates
    figures = (f"{median(ours):,.0f}/s", f"{median(theirs):,.0f}/s")
    ratio = median(own / other for own, other in zip(ours, theirs, strict=True))
    return Comparison(what, against, figures, ratio, at_least, at_least=True)


def alternating_medians(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    calls: tuple[int, int] = (10, 10),
) -> tuple[float, float]:
    """Return the median seconds of a call of each, measured by `alternating`."""
    times = alternating(first, second, rounds=rounds, calls=calls)
    return median(times[0]), median(times[1])


def alternating(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    calls: tuple[int, int] = (10, 10),
) -> tuple[list[float], list[float]]:
    """Return the seconds of each call of two functions, called in turns.

    Other load on the machine therefore affects both. A few calls of each warm up first.

    Args:
        first: One function.
        second: The other function.
        rounds: The number of turns of each.
        calls: The number of calls of each per turn.
    """
    measured = ((first, calls[0], list[float]()), (second, calls[1], list[float]()))
    for function, count, _ in measured:
        for _ in range(min(count, 10)):
            function()
    for _ in range(rounds):
        for function, count, times in measured:
            times.extend(seconds(function) for _ in range(count))
    return measured[0][2], measured[1][2]


def seconds(call: Callable[[], object]) -> float:
    """Return the duration of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def exit_status(comparisons: Iterable[Comparison]) -> int:
    """Return 0, or `MISSED` if a ratio is outside its limit."""
    return 0 if all(comparison.ok for comparison in comparisons) else MISSED


def table(comparisons: Iterable[Comparison]) -> str:
    """Return the comparisons as a table of text."""
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
