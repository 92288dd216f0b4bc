from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.from_thread import start_blocking_portal

from audiencelab_sdk import (
    AsyncAudienceLab,
    AsyncKeyAuthenticator,
    AsyncUsageRecorder,
    AudienceLab,
    CreatedApiKey,
    KeyAuthenticator,
    UsageRecorder,
)
from audiencelab_sdk.local import LocalStack
from tests.e2e._project import Project, Tenant
from tests.e2e._scenarios import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from anyio.from_thread import BlockingPortal

    from audiencelab_sdk import EnrichmentJob


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    if "SUPABASE_URL" in os.environ:
        yield Project.from_env()
    else:
        with LocalStack() as stack:
            yield Project.of(stack)


@pytest.fixture
def tenant(project: Project) -> Tenant:
    return project.add_tenant()


def method(client: AudienceLab | AsyncAudienceLab, name: str) -> Callable[..., Any]:
    """Return a method by its name: ``segments.create``, or ``create`` for one of `api_keys`."""
    resource, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(getattr(client, resource or "api_keys"), function)
    return found


class SyncClient:
    """The synchronous client. Its methods are called by their names."""

    def __init__(self, client: AudienceLab) -> None:
        self.client = client

    def call(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        return method(self.client, name)(*arguments, **options)

    def walk(self, account_id: UUID, **options: Any) -> list[Any]:
        return self.walk_all("api_keys.list", account_id, **options)

    def walk_all(self, name: str, /, *arguments: Any, **options: Any) -> list[Any]:
        return list(method(self.client, name)(*arguments, **options))

    def next_page(self, page: Any) -> Any:
        return page.next()

    def authenticator(self, **options: Any) -> KeyAuthenticator:
        return KeyAuthenticator(self.client, **options)

    def recorder(self, **options: Any) -> UsageRecorder:
        return UsageRecorder(self.client, **options)

    def wait_for(self, result: Any) -> Any:
        return result

    def track(
        self, job: Any, body: Callable[[Callable[..., None]], None], **options: Any
    ) -> EnrichmentJob:
        """Run `body` with the method `advance` inside `track`, and return the job."""
        with self.client.enrichment.track(job, **options) as progress:
            body(progress.advance)
        return progress.job

    def run(self, job: Any, body: Callable[[], object], **options: Any) -> EnrichmentJob:
        """Enrich a few records, call `body` inside the block of `run`, and return the job."""
        with self.client.enrichment.run(job, range(10), str, **options) as outcomes:
            body()
            assert len(list(outcomes)) == 10
        return outcomes.job

    def with_options(self, **options: Any) -> SyncClient:
        return SyncClient(self.client.with_options(**options))

    def as_user(self, token: str) -> SyncClient:
        return SyncClient(self.client.as_user(token))

    def as_api_key(self, key_id: UUID, jwt_secret: str | None = None, **options: Any) -> SyncClient:
        return SyncClient(self.client.as_api_key(key_id, jwt_secret=jwt_secret, **options))


class AsyncClient:
    """The asynchronous client with the same methods, each run to its end in an event loop."""

    def __init__(self, client: AsyncAudienceLab, portal: BlockingPortal) -> None:
        self.client = client
        self._portal = portal

    def call(self, name: str, /, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            return await method(self.client, name)(*arguments, **options)

        return self._portal.call(run)

    def walk(self, account_id: UUID, **options: Any) -> list[Any]:
        return self.walk_all("api_keys.list", account_id, **options)

    def walk_all(self, name: str, /, *arguments: Any, **options: Any) -> list[Any]:
        async def run() -> list[Any]:
            page = await method(self.client, name)(*arguments, **options)
            return [item async for item in page]

        return self._portal.call(run)

    def next_page(self, page: Any) -> Any:
        return self._portal.call(page.next)

    def authenticator(self, **options: Any) -> AsyncKeyAuthenticator:
        return AsyncKeyAuthenticator(self.client, **options)

    def recorder(self, **options: Any) -> AsyncUsageRecorder:
        return AsyncUsageRecorder(self.client, **options)

    def wait_for(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._portal.call(wait)

    def track(
        self, job: Any, body: Callable[[Callable[..., None]], None], **options: Any
    ) -> EnrichmentJob:
        async def run() -> EnrichmentJob:
            async with self.client.enrichment.track(job, **options) as progress:

                def advance(*arguments: Any, **counts: Any) -> None:
                    anyio.from_thread.run(partial(progress.advance, *arguments, **counts))

                await anyio.to_thread.run_sync(body, advance)
            return progress.job

        return self._portal.call(run)

    def run(self, job: Any, body: Callable[[], object], **options: Any) -> EnrichmentJob:
        """Enrich a few records, call `body` inside the block of `run`, and return the job."""

        async def run() -> EnrichmentJob:
            options.setdefault("executor", ThreadPoolExecutor)
            async with self.client.enrichment.run(job, range(10), str, **options) as outcomes:
                await anyio.to_thread.run_sync(body)
                assert len([outcome async for outcome in outcomes]) == 10
            return outcomes.job

        return self._portal.call(run)

    def with_options(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.client.with_options(**options), self._portal)

    def as_user(self, token: str) -> AsyncClient:
        return AsyncClient(self.client.as_user(token), self._portal)

    def as_api_key(
        self, key_id: UUID, jwt_secret: str | None = None, **options: Any
    ) -> AsyncClient:
        as_key = self.client.as_api_key(key_id, jwt_secret=jwt_secret, **options)
        return AsyncClient(as_key, self._portal)


Client = SyncClient | AsyncClient


@contextmanager
def open_client(client_kind: str, project: Project, key: str) -> Iterator[Client]:
    if client_kind == "sync":
        with AudienceLab(project.url, key) as client:
            yield SyncClient(client)
        return
    with start_blocking_portal("trio" if client_kind == "trio" else "asyncio") as portal:
        async_client = AsyncAudienceLab(project.url, key)
        try:
            yield AsyncClient(async_client, portal)
        finally:
            portal.call(async_client.aclose)


@pytest.fixture(scope="session", params=["sync", "asyncio", "trio"])
def client_kind(request: pytest.FixtureRequest) -> str:
    """Run each test with both clients, and with the asynchronous one on two event loops."""
    return str(request.param)


@pytest.fixture(scope="session")
def backend(client_kind: str, project: Project) -> Iterator[Client]:
    """Acts as the service role."""
    with open_client(client_kind, project, project.service_role_key) as client:
        yield client


@pytest.fixture(scope="session")
def anon(client_kind: str, project: Project) -> Iterator[Client]:
    with open_client(client_kind, project, project.anon_key) as client:
        yield client


@pytest.fixture
def member(backend: Client, project: Project, tenant: Tenant) -> Client:
    return backend.as_user(project.access_token(tenant.user_id))


@pytest.fixture
def stranger(backend: Client, project: Project) -> Client:
    """The owner of another account."""
    return backend.as_user(project.access_token(project.add_tenant().user_id))


@pytest.fixture
def created(member: Client, tenant: Tenant) -> CreatedApiKey:
    key = member.call("create", tenant.account_id, "test", scopes=[EVERYTHING])
    assert isinstance(key, CreatedApiKey)
    return key
