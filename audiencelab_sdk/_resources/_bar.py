"""The progress bar of an enrichment job, drawn by rich on standard error."""

import inspect
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob, EnrichmentStatus

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text

Observer: TypeAlias = Callable[[EnrichmentJob], object]

# Two heartbeats, which are 30 seconds apart.
_SECONDS_OF_SILENCE = 60.0


@contextmanager
def observer(on_progress: Observer | None, *, show: bool) -> Generator[Observer | None, None, None]:
    """Yield the observer: `on_progress`, combined with a progress bar if `show` is true.

    It calls `on_progress` after changes of anything but `updated_at`.
    """
    if inspect.iscoroutinefunction(on_progress):
        raise InvalidArgumentError("on_progress must be a plain function, not a coroutine function")
    if on_progress:
        on_progress = _without_heartbeats(on_progress)
    if not show:
        yield on_progress
        return
    with _bar() as draw:

        def observe(job: EnrichmentJob) -> None:
            draw(job)
            if on_progress:
                on_progress(job)

        yield observe


def _without_heartbeats(on_progress: Observer) -> Observer:
    before: EnrichmentJob | None = None

    def observe(job: EnrichmentJob) -> None:
        nonlocal before
        same = before and job == before.model_copy(update={"updated_at": job.updated_at})
        before = job
        if not same:
            on_progress(job)

    return observe


class Silence:
    """How long a job was not updated."""

    def __init__(self) -> None:
        self._updated_at: datetime | None = None
        self._since = 0.0

    def see(self, job: EnrichmentJob) -> None:
        """Note the time of the last update."""
        if job.updated_at == self._updated_at:
            return
        self._since = time.monotonic()
        if self._updated_at is None:
            # Later updates are timed by this machine's clock alone, which may differ from the
            # database's.
            self._since -= max(0.0, (datetime.now(UTC) - job.updated_at).total_seconds())
        self._updated_at = job.updated_at

    @property
    def seconds(self) -> float:
        """The seconds since the last update."""
        return time.monotonic() - self._since


def pace(
    job: EnrichmentJob, silent_seconds: float, rate: float | None, seconds_left: float | None
) -> str:
    """Return what the bar says about a job's speed.

    Args:
        job: The job.
        silent_seconds: The time since the last report.
        rate: The number of records a second, if it is known.
        seconds_left: The time until all records are processed, if it is known.
    """
    if job.is_final:
        return ""
    if job.status == EnrichmentStatus.PENDING:
        return "not started"
    if silent_seconds >= _SECONDS_OF_SILENCE:
        return f"no report for {_rounded(silent_seconds)}"
    parts: list[str] = []
    if rate:
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    if seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return ", ".join(parts)


def _rounded(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


@contextmanager
def _bar() -> Generator[Observer, None, None]:
    try:
        # Imported here, because it is optional.
        from rich import progress  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        advice = "the progress bar needs rich: pip install 'audiencelab-sdk[progress]'"
        raise ConfigurationError(advice) from None

    silence = Silence()

    class PaceColumn(progress.ProgressColumn):
        # Rendered regularly, so that a silent job shows without a change.
        def render(self, task: "Task") -> "Text":
            job: EnrichmentJob | None = task.fields["job"]
            return Text(
                pace(job, silence.seconds, task.speed, task.time_remaining) if job else "",
                style="progress.remaining",
            )

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[failed]}", style="red"),
        PaceColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("enrichment", total=None, failed="", job=None)

        def draw(job: EnrichmentJob) -> None:
            silence.see(job)
            bar.update(
                task,
                description=f"{job.enrichment_type} enrichment {job.status}",
                total=job.total_records or None,
                completed=job.processed_records,
                failed=f"{job.failed_records:,} failed" if job.failed_records else "",
                job=job,
            )

        yield draw
