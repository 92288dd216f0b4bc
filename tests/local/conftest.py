"""One PostgreSQL server for the tests that need only that, and one whole stack."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import httpx
import jwt
import psycopg
import pytest

from audiencelab_sdk.local import LocalStack, _migrate
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer

SECRET = "conformance-secret-that-is-at-least-32-bytes"
FIXTURE = Path(__file__).parent / "conformance" / "fixture.sql"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"  # psycopg, and so the REST server, runs on nothing else


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    """A new database without the platform's objects, as its superuser."""
    return _migrate.create_database(postgres.admin_url, f"test_{next(_numbers)}")


@dataclass(frozen=True)
class Api:
    """A REST server of its own: schema `api`, as fixture.sql and a test make it."""

    url: str
    admin_url: str
    client: httpx.Client

    def token(self, role: str = "authenticated", secret: str = SECRET, **claims: Any) -> str:
        return jwt.encode({"role": role, **claims}, secret, algorithm="HS256")

    def request(
        self, method: str, path: str, *, role: str | None = "service_role", **options: Any
    ) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if role:
            headers.setdefault("Authorization", f"Bearer {self.token(role)}")
        return self.client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        """Return the JSON of a successful GET."""
        response = self.request("GET", path, **options)
        assert response.is_success, response.text
        return response.json()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.admin_url) as connection:
            connection.execute(sql.encode())


Serve = Callable[..., Api]


@pytest.fixture(scope="session")
def serve(postgres: PostgresServer) -> Iterator[Serve]:
    """Makes a database of fixture.sql and more SQL, and serves its schema `api`.

    Keyword arguments are further settings of the server.
    """
    with contextlib.ExitStack() as stack:

        def start(sql: str, **options: Any) -> Api:
            url = _migrate.create_database(postgres.admin_url, f"api_{next(_numbers)}")
            _migrate.apply_platform(url)
            with psycopg.connect(url) as connection:
                connection.execute(FIXTURE.read_bytes())
                connection.execute(sql.encode())
            db_url = _migrate.as_role(url, "authenticator")
            server = BackgroundServer(
                create_app(Settings(db_url=db_url, jwt_secret=SECRET, schemas=("api",), **options))
            )
            base_url = f"http://127.0.0.1:{server.start()}"
            stack.callback(server.stop)
            client = stack.enter_context(httpx.Client(base_url=base_url, timeout=20))
            return Api(base_url, url, client)

        yield start


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    with LocalStack() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user can reach, unlike the folders of pytest."""
    made = Path(tempfile.mkdtemp(prefix="stack-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def lacking() -> Callable[[str], NoReturn]:
    """Skips a test whose program is missing on a developer's machine. In CI it fails the test."""

    def give_up(reason: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return give_up


_numbers = count(1)
