"""One PostgreSQL server for the tests that need only that, and one whole stack."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import NoReturn

import pytest

from audiencelab_sdk.local import LocalStack, _migrate
from audiencelab_sdk.local._postgres import PostgresServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"  # psycopg's, and so the REST server's


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    """A new database without the platform's objects, as its superuser."""
    return _migrate.create_database(postgres.admin_url, f"test_{next(_numbers)}")


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    with LocalStack() as running:
        yield running


@pytest.fixture
def lacking() -> Callable[[str], NoReturn]:
    """Skip for something that a developer's machine may lack; in CI that is a failure."""

    def give_up(reason: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return give_up


_numbers = count(1)
