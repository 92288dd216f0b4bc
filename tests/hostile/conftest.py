"""Databases of both PostgreSQL versions for attacks in SQL, and a project for attacks over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest

from audiencelab_sdk import AudienceLab
from tests.database._attempts import World
from tests.database._sql import SERVICE_ROLE
from tests.database.conftest import db, programs, server, tenant
from tests.e2e.conftest import project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.database._sql import Database
    from tests.e2e._project import Project

__all__ = ["db", "programs", "project", "server", "tenant"]


@pytest.fixture(scope="session")
def world(db: Database) -> Iterator[World]:
    """One account and the actors that try to reach its rows."""
    with psycopg.connect(db.admin_url, autocommit=True) as admin:
        yield World(db, admin)


@pytest.fixture
def owners_only(db: Database) -> Iterator[None]:
    """Only owners may manage the keys of their accounts."""
    db.rows(SERVICE_ROLE, "update api_keys_private.settings set manage_keys_role = 'owner'")
    yield
    db.rows(SERVICE_ROLE, "update api_keys_private.settings set manage_keys_role = null")


@pytest.fixture(scope="session")
def rest(project: Project) -> Iterator[httpx.Client]:
    """The REST API, without a token."""
    with httpx.Client(
        base_url=f"{project.url}/rest/v1", headers={"apikey": project.anon_key}
    ) as client:
        yield client


@pytest.fixture(scope="session")
def backend(project: Project) -> Iterator[AudienceLab]:
    """The SDK as the service role."""
    with AudienceLab(project.url, project.service_role_key) as client:
        yield client
