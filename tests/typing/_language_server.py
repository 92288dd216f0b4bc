"""A client for a language server: requests and responses as JSON-RPC over its standard streams."""

import json
import os
import signal
import subprocess
from pathlib import Path
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import IO, Any, Self, cast

_DEADLINE = 60.0


class LanguageServer:
    """A running language server with one open document. Use it as a context manager.

    Args:
        command: The command that starts the server.
        document: The document to open. Its folder is the workspace.
        settings: The settings of the workspace by section, for the server to ask for.

    Raises:
        queue.Empty: The server does not respond within a minute.
    """

    def __init__(self, command: list[str], document: Path, settings: dict[str, Any]) -> None:
        self._command = command
        self._document = document
        self._settings = settings
        self._received: Queue[dict[str, Any]] = Queue()
        self._last_id = 0

    def __enter__(self) -> Self:
        # The command may start the server as a child. A session of its own ends both.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read)
        self._reader.start()
        try:
            self._open_document()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def ask(self, method: str, line: int, character: int) -> Any:
        """Send a request about a position of the document and return the result."""
        return self._request(
            method,
            {
                "textDocument": {"uri": self._document.as_uri()},
                "position": {"line": line, "character": character},
            },
        )

    def _open_document(self) -> None:
        folder = self._document.parent
        markdown = ["markdown"]
        self._request(
            "initialize",
            {
                "processId": os.getpid(),
                "workspaceFolders": [{"uri": folder.as_uri(), "name": folder.name}],
                "capabilities": {
                    "workspace": {"configuration": True},
                    "textDocument": {
                        "hover": {"contentFormat": markdown},
                        "signatureHelp": {
                            "signatureInformation": {"documentationFormat": markdown}
                        },
                    },
                },
            },
        )
        self._send({"method": "initialized", "params": {}})
        opened = {
            "uri": self._document.as_uri(),
            "languageId": "python",
            "version": 1,
            "text": self._document.read_text(),
        }
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": opened}})

    def _request(self, method: str, params: dict[str, Any]) -> Any:
        self._last_id += 1
        self._send({"id": self._last_id, "method": method, "params": params})
        while True:
            message = self._received.get(timeout=_DEADLINE)
            if "method" in message:
                self._respond(message)
            elif message["id"] == self._last_id:
                assert "error" not in message, message["error"]
                return message["result"]

    def _respond(self, message: dict[str, Any]) -> None:
        """Respond to a request of the server; notifications need no response."""
        if message["method"] == "workspace/configuration":
            sections = (item.get("section") for item in message["params"]["items"])
            result = [self._settings.get(section, {}) for section in sections]
            self._send({"id": message["id"], "result": result})
        elif "id" in message:
            self._send({"id": message["id"], "result": None})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        stdin = cast("IO[bytes]", self._process.stdin)
        stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        stdin.flush()

    def _read(self) -> None:
        stdout = cast("IO[bytes]", self._process.stdout)
        length = 0
        for line in stdout:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif not line.strip():
                self._received.put(json.loads(stdout.read(length)))

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        # Waits for the process and closes its streams.
        with self._process:
            self._reader.join()
