"""A mocked API with one enrichment job."""

import json
from typing import Any

import httpx
import respx

from tests.unit._samples import JOB


class Database:
    """Keeps one job, and the reports of its units.

    Attributes:
        job: The row of the job.
        reports: The processed and failed records of each report.
        failures: Each replaces the response to a report, in turn.
    """

    def __init__(self, api: respx.MockRouter) -> None:
        self.job = dict(JOB, metadata={})
        self.reports: list[tuple[int, int]] = []
        self.units: set[str] = set()
        self.failures: list[httpx.Response | Exception] = []
        api.post("/rpc/report_enrichment_progress").mock(side_effect=self.report)
        api.get("/enrichment_tracking").mock(side_effect=lambda _: self.respond(self.job))
        api.patch("/enrichment_tracking").mock(side_effect=self.change)

    @property
    def state(self) -> tuple[Any, ...]:
        """The job's status, its counters and the reason of its failure."""
        job = self.job
        reason = job["metadata"].get("error")
        return job["status"], job["processed_records"], job["failed_records"], reason

    def respond(self, data: Any) -> httpx.Response:
        return httpx.Response(200, json=data)

    def report(self, request: httpx.Request) -> httpx.Response:
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        body = json.loads(request.content)
        self.units.add(body["p_unit"])
        self.reports.append((body["p_processed"], body["p_failed"]))
        self.job["status"] = "processing"
        self.job["processed_records"], self.job["failed_records"] = self.reports[-1]
        return self.respond(self.job)

    def change(self, request: httpx.Request) -> httpx.Response:
        self.job |= json.loads(request.content)
        return self.respond([self.job])
