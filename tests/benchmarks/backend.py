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
import selectors
import socket
import subprocess
import sys
import threading
import time
import timeit
import tracemalloc
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

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
from tests.benchmarks._timing import (
    Comparison,
    exit_status,
    seconds,
    table,
    times_as_many,
    times_as_many_in_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

HERE = Path(__file__).parent
SPAWN = get_context("spawn")
CONNECTIONS = 8
ROUNDS = 41
LONGEST_QUEUE = 10_000
FEWEST_EVENTS = 20 * LONGEST_QUEUE


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


def ask(port: int, request: bytes) -> bytes:
    """Send a request, and return the response.

    Raises:
        RuntimeError: Its status is not 200.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    if b" 200 " not in response.partition(b"\r\n")[0]:
        raise RuntimeError(response.decode())
    return response


def rate(port: int, request: bytes, requests: int) -> float:
    """Return the requests per second over several connections at once.

    It knows how long a response is, and parses nothing: on a machine with few cores, a client that
    does would take most of the time that is measured.
    """
    length = len(ask(port, request)) - len(b"connection: close\r\n")
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(CONNECTIONS)
        ]
        missing = dict.fromkeys(connections, length)
        begin = time.perf_counter()
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(request)
        to_send, to_receive = requests - CONNECTIONS, requests
        while to_receive:
            for key, _ in selector.select():
                connection = cast("socket.socket", key.fileobj)
                received = connection.recv(65536)
                missing[connection] -= len(received)
                if not received or missing[connection] < 0:
                    raise RuntimeError(received.decode())
                if missing[connection]:
                    continue
                to_receive -= 1
                if to_send:
                    to_send -= 1
                    missing[connection] = length
                    connection.sendall(request)
        return requests / (time.perf_counter() - begin)


@contextmanager
def application(world: World, variant: str, **environment: str) -> Iterator[int]:
    """Run a variant of the application until the end of the block. Gives its port."""
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
                    ask(port, world.request)
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def compare_rates(
    what: str, against: str, ports: tuple[int, int], load: tuple[bytes, int], at_least: float
) -> Comparison:
    """Compare the requests a second of two applications, measured in turns."""
    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        for each in (0, 1) if number % 2 else (1, 0):
            rates[each].append(rate(ports[each], *load))
    return times_as_many_in_pairs(what, against, rates, at_least=at_least)


def endpoints(world: World, requests: int) -> list[Comparison]:
    """Compare endpoints over HTTP."""
    load = world.request, requests
    with ExitStack() as stack:
        opened, dictionary, required = (
            stack.enter_context(application(world, variant))
            for variant in ("open", "dictionary", "required")
        )
        recording = stack.enter_context(application(world, "required", USAGE="1"))
        protected = "an endpoint behind require, cached key"
        return [
            compare_rates(protected, "without authentication", (required, opened), load, 0.8),
            compare_rates(protected, "a dependency with a dict", (required, dictionary), load, 0.9),
            compare_rates(
                "an application that records every request",
                "the same one that does not",
                (recording, required),
                (world.request, 4 * requests),
                0.8,
            ),
        ]


def cold_keys(world: World) -> Comparison:
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
    return Comparison(
        "1,000 requests at once, one cold key",
        "one call",
        (f"{count} calls", "1 call"),
        float(count),
        1,
        at_least=False,
    )


def recording(world: World) -> Comparison:
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
    return Comparison(
        "record",
        "append to a deque under a lock",
        (f"{ours * 1e9:,.0f} ns", f"{theirs * 1e9:,.0f} ns"),
        median(own / other for own, other in times),
        3,
        at_least=False,
    )


def rows(world: World, events: int) -> Comparison:
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
    return times_as_many("rows logged by the recorder", "single calls", (ours, theirs), at_least=10)


def memory(world: World, events: int) -> Comparison:
    """Compare the peaks of Python's memory during all events with those during the first tenth.

    No batch is accepted until the queue is full, and from then on each of them at once: so the
    longest queue is the same in both.
    """
    full = threading.Event()

    class Accepting:
        def log_usage_batch(self, events: Iterable[UsageEvent]) -> list[Any]:
            full.wait()
            return [True for _ in events]

    class Client:
        api_keys = Accepting()

    client: Any = Client()
    event, first = world.event(), 1
    tracemalloc.start()
    with UsageRecorder(client, max_queued=LONGEST_QUEUE) as recorder:
        for number in range(1, events + 1):
            recorder.record(event)
            if number >= LONGEST_QUEUE:
                full.set()
                if number % 5_000 == 0:
                    recorder.flush()
            if number == events // 10:
                first = tracemalloc.get_traced_memory()[1]
        whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if recorder.statistics.sent != events:
        raise AssertionError(recorder.statistics)
    return Comparison(
        f"most memory used, {events:,} events",
        "by the first tenth",
        (f"{whole / 1e6:.2f} MB", f"{first / 1e6:.2f} MB"),
        whole / first,
        1.1,
        at_least=False,
    )


def measure(world: World, requests: int, events: int) -> list[Comparison]:
    """Run all comparisons."""
    return [
        *endpoints(world, requests),
        cold_keys(world),
        recording(world),
        rows(world, events),
        memory(world, events),
    ]


def main() -> int:
    """Run all comparisons, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=500, help="in each measurement")
    parser.add_argument(
        "--events",
        type=int,
        default=1_000_000,
        help=f"for the memory; at least {FEWEST_EVENTS}",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="the fraction by which a limit may be missed, on a machine with other load",
    )
    arguments = parser.parse_args()
    if arguments.events < FEWEST_EVENTS:
        parser.error(f"--events must be {FEWEST_EVENTS} or more")
    # In a separate process, because this one serves the REST API.
    with LocalStack() as stack, ProcessPoolExecutor(1, mp_context=SPAWN) as executor:
        measured = executor.submit(
            measure, World.of(stack), arguments.requests, arguments.events
        ).result()
    comparisons = [comparison.with_tolerance(arguments.tolerance) for comparison in measured]
    print("Requests over HTTP to uvicorn and one LocalStack, measured in turns:")
    print()
    print(table(comparisons))
    return exit_status(comparisons)


if __name__ == "__main__":
    sys.exit(main())
