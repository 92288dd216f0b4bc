"""Serve an ASGI application from a background thread."""

import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http import h11_impl

HOST = "127.0.0.1"

# SQL may raise any status of three digits, but uvicorn knows only those that it has a phrase for.
h11_impl.STATUS_PHRASES.update((status, b"") for status in range(600, 1000))


def server_config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return the configuration of a server for an application.

    Args:
        app: The application.
        options: More arguments of `uvicorn.Config`.
    """
    return uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=2**18,  # the application itself refuses long headers
        log_level="warning",
        ws="none",
        **options,
    )


class BackgroundServer:
    """Serves an application on a port of 127.0.0.1, from a thread with its own event loop.

    Args:
        app: The application.
        port: The port, 0 for a free one.
    """

    def __init__(self, app: ASGIApp, port: int = 0) -> None:
        self._port = port
        self._server = uvicorn.Server(
            server_config(
                app,
                log_config=None,  # the surrounding program configures logging
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=5,
            )
        )
        # A daemon thread, so that a program that does not stop the stack can exit.
        self._thread = threading.Thread(target=self._serve, name="audiencelab-rest", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> int:
        """Start the server and return its port when it accepts requests.

        Raises:
            OSError: The port is in use.
            RuntimeError: The application did not start; the log gives the reason.
        """
        # asyncio sets TCP_NODELAY only if the protocol is given. Without TCP_NODELAY, each response
        # waits 40 ms for the client's acknowledgement.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((HOST, self._port))
        except OSError:
            self._socket.close()
            raise
        port: int = self._socket.getsockname()[1]
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                self._socket.close()
                raise RuntimeError("The REST server did not start; its log gives the reason.")
            time.sleep(0.002)
        return port

    def stop(self) -> None:
        """Finish running requests and stop. Does nothing if the server is not running."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket else None)
