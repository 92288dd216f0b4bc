"""Compares requests with API keys with requests without, and the recorder with single calls.

    python tests/benchmarks/backend.py [--requests 500] [--events 1000000] [--tolerance 0]

The applications run on uvicorn, in processes of their own, against one LocalStack. Two variants
alternate, and the median of their ratios counts. Only ratios and counts have limits, because they
do not depend on the machine.
"""

# ruff: noqa: T201 - a program that prints its results

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import threading
import time
import timeit
import tracemalloc
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncKeyAuthenticator,
    AudienceLab,
    RequestAttempt,
    Scope,
    UsageEvent,
    UsageRecorder,
)
from audiencelab_sdk.local import LocalStack
from audiencelab_sdk.local._keeper_process import free_port
from tests.benchmarks._timing import Comparison, seconds, table, times_as_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

HERE = Path(__file__).parent
CONNECTIONS = 8
ROUNDS = 41


@dataclass(frozen=True)
class World:
    """A stack with one key that may read segments.

    Attributes:
        url: The project's API URL.
        key: The service role key.
        api_key: The text of the key.
        api_key_id: Its id.
    """

    url: str
    key: str
    api_key: str
    api_key_id: UUID

    @classmethod
    def of(cls, stack: LocalStack) -> World:
        """Create the key."""
        owner = stack.create_user("owner@example.com")
        account = stack.create_account("Benchmark", owner=owner)
        with AudienceLab(stack.url, stack.service_role_key) as client:
            created = client.as_user(stack.access_token(owner)).api_keys.create(
                account,
                "benchmark",
                scopes=[Scope(entity_type="segment", entity_id="*", action="read")],
            )
        return cls(stack.url, stack.service_role_key, created.key.get_secret_value(), created.id)

    def event(self) -> UsageEvent:
        """Return an event to log."""
        return UsageEvent(
            api_key_id=self.api_key_id,
            endpoint="/v1/segments/{segment_id}",
            method="GET",
            status_code=200,
            ip_address="192.0.2.1",
            user_agent="benchmark/1.0",
        )

    @property
    def request(self) -> bytes:
        """A request as it is sent."""
        head = f"GET /segments/1 HTTP/1.1\r\nHost: x\r\nX-API-Key: {self.api_key}\r\n\r\n"
        return head.encode()


async def ask(port: int, request: bytes, times: int) -> None:
    """Send requests one after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head:
            raise RuntimeError(head.decode())
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()


async def rate(port: int, request: bytes, requests: int) -> float:
    """Return the requests per second over several connections at once."""
    begin = time.perf_counter()
    each = max(requests // CONNECTIONS, 1)
    await asyncio.gather(*(ask(port, request, each) for _ in range(CONNECTIONS)))
    return each * CONNECTIONS / (time.perf_counter() - begin)


@dataclass(frozen=True)
class Application:
    """A running application.

    Attributes:
        port: Its port.
        pid: Its process.
    """

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def application(world: World, variant: str, **environment: str) -> Iterator[Application]:
    """Run a variant of the application until the end of the block."""
    port = free_port()
    command = ["uvicorn", "--app-dir", str(HERE), "_backend_app:app", "--log-level", "error"]
    settings = {
        "SUPABASE_URL": world.url,
        "SUPABASE_KEY": world.key,
        "EXAMPLE_KEY": world.api_key,
        "VARIANT": variant,
    }
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--no-access-log", "--port", str(port)],
        env=os.environ | settings | environment,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    asyncio.run(ask(port, world.request, 1))
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield Application(port, process.pid)
        finally:
            process.terminate()


def compare_rates(
    against: str,
    ours: Application,
    theirs: Application,
    load: tuple[bytes, int],
    at_least: float,
) -> Comparison:
    """Compare the requests a second of two applications, measured in turns."""
    rates: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        measured = tuple(asyncio.run(rate(each.port, *load)) for each in (first, second))
        rates.append((measured[0], measured[1]) if number % 2 else (measured[1], measured[0]))
    ratio = median(own / other for own, other in rates)
    figures = [f"{median(each):,.0f}/s" for each in zip(*rates, strict=True)]
    what = "an endpoint behind require, cached key"
    return Comparison(what, against, (figures[0], figures[1]), ratio, at_least, at_least=True)


def compare_work(
    ours: Application, theirs: Application, load: tuple[bytes, int], at_least: float
) -> Comparison:
    """Compare the requests per second of CPU time of two applications, measured in turns.

    The database of the usage log runs on the same machine, and its work is not the application's.
    """

    def work(application: Application) -> float:
        before = application.cpu_seconds()
        asyncio.run(rate(application.port, *load))
        time.sleep(1.2)  # the last events are sent after a second
        return load[1] / (application.cpu_seconds() - before)

    rates = [(work(ours), work(theirs)) for _ in range(7)]
    figures = [f"{median(each):,.0f}/CPU s" for each in zip(*rates, strict=True)]
    return Comparison(
        "an application that records every request",
        "the same one that does not",
        (figures[0], figures[1]),
        median(own / other for own, other in rates),
        at_least,
        at_least=True,
    )


def endpoints(world: World, requests: int) -> list[Comparison]:
    """Compare endpoints over HTTP."""
    load = world.request, requests
    with ExitStack() as stack:
        opened, dictionary, required = (
            stack.enter_context(application(world, variant))
            for variant in ("open", "dictionary", "required")
        )
        recording = stack.enter_context(application(world, "required", USAGE="1"))
        return [
            compare_rates("without authentication", required, opened, load, 0.8),
            compare_rates("a dependency with a dict", required, dictionary, load, 0.9),
            compare_work(recording, required, (world.request, 8 * requests), 0.8),
        ]


def cold_keys(world: World) -> list[Comparison]:
    """Count the calls for 1,000 requests at once with one key that is not cached."""
    calls: list[RequestAttempt] = []

    async def authenticate() -> int:
        async with AsyncAudienceLab(world.url, world.key, on_response=calls.append) as client:
            authenticator = AsyncKeyAuthenticator(client)
            answers = await asyncio.gather(
                *(authenticator.authenticate(world.api_key) for _ in range(1000))
            )
            return sum(map(bool, answers))

    valid = asyncio.run(authenticate())
    if valid != 1000:
        raise AssertionError(f"{valid} of 1000 keys were valid")
    count = len(calls)
    return [
        Comparison(
            "1,000 requests at once, one cold key",
            "one call",
            (f"{count} calls", "1 call"),
            float(count),
            1,
            at_least=False,
        )
    ]


def recording(world: World) -> list[Comparison]:
    """Compare `record` with a bare deque, without a thread that sends."""
    event = world.event()
    queue: deque[UsageEvent] = deque(maxlen=10_000)
    lock = threading.Lock()

    def append(event: UsageEvent) -> None:
        with lock:
            queue.append(event)

    with AudienceLab(world.url, world.key) as client:
        recorder = UsageRecorder(client)
        recorder._thread = threading.current_thread()
        times = [
            (
                min(timeit.repeat(lambda: recorder.record(event), number=20_000, repeat=3)),
                min(timeit.repeat(lambda: append(event), number=20_000, repeat=3)),
            )
            for _ in range(15)
        ]
    ours, theirs = (median(each) / 20_000 for each in zip(*times, strict=True))
    return [
        Comparison(
            "record",
            "append to a deque under a lock",
            (f"{ours * 1e9:,.0f} ns", f"{theirs * 1e9:,.0f} ns"),
            median(own / other for own, other in times),
            3,
            at_least=False,
        )
    ]


def rows(world: World, events: int) -> list[Comparison]:
    """Compare the rows a second of the recorder with those of single calls."""
    count = min(20_000, max(2_000, events // 20))
    with AudienceLab(world.url, world.key) as client:
        with UsageRecorder(client, max_queued=count) as recorder:

            def in_batches() -> None:
                for _ in range(count):
                    recorder.record(world.event())
                if not recorder.flush(120):
                    raise AssertionError("the events were not sent")

            def alone() -> None:
                for _ in range(count // 20):
                    client.api_keys.log_usage(
                        world.api_key_id,
                        endpoint="/v1/segments/{segment_id}",
                        method="GET",
                        status_code=200,
                        ip_address="192.0.2.1",
                        user_agent="benchmark/1.0",
                    )

            rates = [(count / seconds(in_batches), count // 20 / seconds(alone)) for _ in range(3)]
        statistics = recorder.statistics
        if statistics.sent != 3 * count:
            raise AssertionError(statistics)
    ours, theirs = (median(each) for each in zip(*rates, strict=True))
    return [
        times_as_many("rows logged by the recorder", "single calls", (ours, theirs), at_least=10)
    ]


def memory(world: World, events: int) -> list[Comparison]:
    """Compare the peaks of Python's memory during all events with those during the first tenth.

    The batches are accepted at once, so that the queue is as short as that of a working database.
    """

    class Accepting:
        def log_usage_batch(self, events: Iterable[UsageEvent]) -> list[Any]:
            return [True for _ in events]

    class Client:
        api_keys = Accepting()

    client: Any = Client()
    event, first = world.event(), 1
    tracemalloc.start()
    with UsageRecorder(client) as recorder:
        for number in range(1, events + 1):
            recorder.record(event)
            if number % 5_000 == 0:
                recorder.flush()
            if number == events // 10:
                first = tracemalloc.get_traced_memory()[1]
        whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if recorder.statistics.sent != events:
        raise AssertionError(recorder.statistics)
    return [
        Comparison(
            f"most memory used, {events:,} events",
            "by the first tenth",
            (f"{whole / 1e6:.2f} MB", f"{first / 1e6:.2f} MB"),
            whole / first,
            1.1,
            at_least=False,
        )
    ]


def main() -> int:
    """Run all comparisons. Returns 1 if a ratio is outside its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=500, help="in each measurement")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    measurements: list[Callable[[World], list[Comparison]]] = [
        lambda world: endpoints(world, arguments.requests),
        cold_keys,
        recording,
        lambda world: rows(world, arguments.events),
        lambda world: memory(world, arguments.events),
    ]
    with LocalStack() as stack:
        world = World.of(stack)
        comparisons = [
            comparison.with_tolerance(arguments.tolerance)
            for measure in measurements
            for comparison in measure(world)
        ]
    print("Requests over HTTP to uvicorn and one LocalStack, measured in turns:")
    print()
    print(table(comparisons))
    return 0 if all(comparison.ok for comparison in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
