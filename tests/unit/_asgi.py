"""A server and a client in one: sends requests to an application and collects its messages."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

Headers = Mapping[str, str] | list[tuple[str, str]]

NO_HEADERS: Headers = []


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(path: str, headers: Headers, kind: str, **fields: Any) -> dict[str, Any]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("192.0.2.1", 1234),
        "server": ("test", 80),
        "extensions": {"websocket.http.response": {}} if kind == "websocket" else {},
        **fields,
    }
    return scope if kind == "websocket" else {"method": "GET", **scope}


async def get(app: Any, path: str, headers: Headers = NO_HEADERS, **fields: Any) -> Response:
    """Send a GET request. What the application raises is raised, if there was no response."""
    return _response(await messages_of(app, path, headers, **fields), "http.response")


async def messages_of(
    app: Any, path: str, headers: Headers = NO_HEADERS, **fields: Any
) -> list[Any]:
    """Send a GET request as `get` does, and return the messages of the application."""
    messages: list[Any] = []
    received: list[Any] = []

    async def receive() -> Any:
        if received:
            await anyio.sleep_forever()
        received.append({"type": "http.request", "body": b"", "more_body": False})
        return received[0]

    async def send(message: Any) -> None:
        messages.append(message)

    try:
        await app(scope_of(path, headers, "http", **fields), receive, send)
    except Exception:
        if not messages:
            raise
    return messages


async def connect(app: Any, path: str, headers: Headers = NO_HEADERS, **fields: Any) -> list[Any]:
    """Open a websocket, and return the messages of the application."""
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect" if not messages else "websocket.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope_of(path, headers, "websocket", **fields), receive, send)
    return messages


def denial(messages: list[Any]) -> Response:
    """Return the response that refuses a websocket."""
    return _response(messages, "websocket.http.response")


def _response(messages: list[Any], kind: str) -> Response:
    start, *rest = messages
    assert start["type"] == f"{kind}.start"
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    body = b"".join(each["body"] for each in rest)
    return Response(start["status"], headers, body)


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[None]:
    """Start an application, and end it after the block."""
    to_app, from_app = anyio.create_memory_object_stream[str](9), []
    started, ended = anyio.Event(), anyio.Event()
    sender, receiver = to_app

    async def receive() -> Any:
        return {"type": await receiver.receive()}

    async def send(message: Any) -> None:
        from_app.append(message["type"])
        (started if "startup" in message["type"] else ended).set()

    async with anyio.create_task_group() as group:
        await sender.send("lifespan.startup")
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        group.start_soon(app, scope, receive, send)
        await started.wait()
        yield
        await sender.send("lifespan.shutdown")
        await ended.wait()
    sender.close()
    receiver.close()
    assert from_app == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
