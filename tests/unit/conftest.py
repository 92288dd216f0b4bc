"""The same test runs against both clients, and against the asynchronous one on two event loops.

A test awaits `settle(client.api_keys.verify(...))`, whichever client it was given.
"""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import respx
from hypothesis import settings

from audiencelab_sdk import AsyncAudienceLab, AudienceLab
from audiencelab_sdk._http import _drivers
from tests.unit._both_clients import close
from tests.unit._http_server import Handler, Server
from tests.unit._samples import KEY, URL, VALID

# A busy machine is no failure.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str:
    colour = request.getfixturevalue("colour") if "colour" in request.fixturenames else "asyncio"
    return "trio" if colour == "trio" else "asyncio"


@pytest.fixture
def client_class(colour: str) -> Any:
    return AudienceLab if colour == "sync" else AsyncAudienceLab


@pytest.fixture
async def client(client_class: Any) -> AsyncIterator[Any]:
    client = client_class(URL, KEY)
    yield client
    await close(client)


@pytest.fixture
def api() -> Iterator[respx.MockRouter]:
    """The API, mocked: a request that the test did not expect is an error."""
    with respx.mock(base_url=f"{URL}/rest/v1", assert_all_called=False) as router:
        yield router


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the drivers would have slept, with jitter at its longest."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(_drivers, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(_drivers, "anyio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(_drivers, "random", SimpleNamespace(uniform=lambda _low, high: high))
    return slept


@pytest.fixture
def server() -> Iterator[Server]:
    """Answers with a valid key, until a test sets `respond`."""
    server = Server(("127.0.0.1", 0), Handler)
    server.respond = lambda handler: handler.answer(json.dumps(VALID).encode())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"
