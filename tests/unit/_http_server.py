"""A real HTTP server, for what a mock cannot show."""

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from audiencelab_sdk import (
    AudienceLabError,
)
from tests.unit._both_clients import close, settle
from tests.unit._samples import API_KEY, KEY, VALID


class Server(ThreadingHTTPServer):
    """Answers every request as `respond` does; counts the connections."""

    daemon_threads = True
    request_queue_size = 256
    respond: Callable[["Handler"], None]
    connections = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Server)
        self.server.respond(self)

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Keep the tests' output clean."""


class Held:
    """Responds to no request until all are released."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._released = threading.Event()

    def __call__(self, handler: Handler) -> None:
        self._arrived.release()
        assert self._released.wait(30)
        handler.answer(json.dumps(VALID).encode())

    def wait_for(self, requests: int) -> None:
        for _ in range(requests):
            assert self._arrived.acquire(timeout=30)

    def release(self) -> None:
        self._released.set()


def slow(seconds: float) -> Callable[[Handler], None]:
    def respond(handler: Handler) -> None:
        time.sleep(seconds)
        handler.answer(json.dumps(VALID).encode())

    return respond


async def error_from(client_class: Any, url: str, seconds: float = 5.0) -> Any:
    client = client_class(url, KEY, timeout=seconds, max_retries=0)
    with pytest.raises(AudienceLabError) as caught:
        await settle(client.api_keys.verify(API_KEY))
    await close(client)
    return caught.value
