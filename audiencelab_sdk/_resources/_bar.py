"""The progress bar of an enrichment job, drawn by rich on standard error."""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError
from audiencelab_sdk.models import EnrichmentJob

Observer: TypeAlias = Callable[[EnrichmentJob], object]


@contextmanager
def observer(on_progress: Observer | None, *, show: bool) -> Generator[Observer | None, None, None]:
    """Yield the observer: `on_progress`, combined with a progress bar if `show` is true."""
    if inspect.iscoroutinefunction(on_progress):
        raise InvalidArgumentError("on_progress must be a plain function, not a coroutine function")
    if not show:
        yield on_progress
        return
    with _bar() as draw:

        def observe(job: EnrichmentJob) -> None:
            draw(job)
            if on_progress:
                on_progress(job)

        yield observe


@contextmanager
def _bar() -> Generator[Observer, None, None]:
    try:
        # Imported here, because it is optional.
        from rich import progress  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        advice = "the progress bar needs rich: pip install 'audiencelab-sdk[progress]'"
        raise ConfigurationError(advice) from None
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("enrichment", total=None)

        def draw(job: EnrichmentJob) -> None:
            failures = f", {job.failed_records} failed" if job.failed_records else ""
            bar.update(
                task,
                description=f"{job.enrichment_type} enrichment {job.status}{failures}",
                total=job.total_records or None,
                completed=job.processed_records,
            )

        yield draw
