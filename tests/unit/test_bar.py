"""What the progress bar says."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audiencelab_sdk import EnrichmentJob
from audiencelab_sdk._resources import _bar
from audiencelab_sdk._resources._bar import Silence, observer, pace
from tests.unit._samples import JOB


def job(**columns: Any) -> EnrichmentJob:
    return EnrichmentJob.model_validate(JOB | {"status": "processing"} | columns)


@pytest.mark.parametrize(
    ("status", "silence", "rate", "left", "text"),
    [
        ("processing", 5, None, None, ""),
        ("processing", 5, 12.4, 310.4, "12/s, 0:05:10 left"),
        ("processing", 5, 1234.5, None, "1,234/s"),
        ("processing", 5, 0.25, 4000, "0.2/s, 1:06:40 left"),
        ("processing", 59, 12.4, 310, "12/s, 0:05:10 left"),
        ("processing", 60, 12.4, 310, "no report for 1 min"),
        ("processing", 150, None, None, "no report for 2 min"),
        ("processing", 3 * 3600, None, None, "no report for 3 h"),
        ("processing", 50 * 3600, None, None, "no report for 2 days"),
        ("pending", 500, None, None, "not started"),
        ("completed", 500, 12.4, 0, ""),
        ("failed", 500, 12.4, 20, ""),
    ],
)
def test_pace(
    status: str, silence: float, rate: float | None, left: float | None, text: str
) -> None:
    assert pace(job(status=status), silence, rate, left) == text


def test_silence_is_the_time_since_the_last_update(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    silence = Silence()
    silence.see(job(updated_at=(datetime.now(UTC) - timedelta(minutes=5)).isoformat()))
    assert silence.seconds == pytest.approx(300, abs=2)

    heard = job(updated_at="2020-01-01T00:00:00+00:00")
    silence.see(heard)
    assert silence.seconds == 0
    now[0] += 7
    silence.see(heard)
    assert silence.seconds == 7


def test_a_database_whose_clock_is_ahead_is_not_silent_for_a_negative_time() -> None:
    silence = Silence()
    silence.see(job(updated_at=(datetime.now(UTC) + timedelta(minutes=5)).isoformat()))
    assert 0 <= silence.seconds < 2


def test_on_progress_is_not_called_for_heartbeats() -> None:
    seen: list[EnrichmentJob] = []
    first, heartbeat = job(), job(updated_at="2030-01-01T00:00:00+00:00")
    progress = job(updated_at="2030-01-01T00:00:01+00:00", processed_records=9)
    with observer(seen.append, show=False) as observe:
        assert observe
        for each in (first, heartbeat, heartbeat, progress):
            observe(each)
    assert seen == [first, progress]


def test_the_bar_shows_failed_records_apart_and_a_silent_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    seen: list[EnrichmentJob] = []
    old = (datetime.now(UTC) - timedelta(minutes=2, seconds=10)).isoformat()
    with observer(seen.append, show=True) as observe:
        assert observe
        observe(job(processed_records=5, failed_records=1, updated_at=old))
    written = capsys.readouterr().err
    assert "email enrichment processing" in written
    assert "5/10" in written
    assert "1 failed" in written
    assert "no report for 2 min" in written
    assert len(seen) == 1


def test_heartbeats_are_more_frequent_than_what_counts_as_silence() -> None:
    assert _bar._SECONDS_OF_SILENCE >= 2 * 30
