"""Fixtures for the tests of applications that use the AudienceLab SDK. Needs the extra ``local``.

pytest loads this module in each session. It is not part of `audiencelab_sdk`, and imports it only
where a fixture is used, so that a measurement of coverage has begun by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from audiencelab_sdk import AudienceLab, CreatedApiKey, Scope
    from audiencelab_sdk.local import LocalStack


@pytest.fixture(scope="session")
def audiencelab_stack() -> Iterator[LocalStack]:
    """An embedded stack, which starts with the first test that needs it."""
    from audiencelab_sdk.local import LocalStack  # noqa: PLC0415 - see above

    with LocalStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def audiencelab_client(audiencelab_stack: LocalStack) -> Iterator[AudienceLab]:
    """A client of the stack that acts as the service role."""
    from audiencelab_sdk import AudienceLab  # noqa: PLC0415 - see above

    with AudienceLab(audiencelab_stack.url, audiencelab_stack.service_role_key) as client:
        yield client


@pytest.fixture(scope="session")
def audiencelab_user(audiencelab_stack: LocalStack) -> UUID:
    """The id of a user."""
    return audiencelab_stack.create_user("audiencelab-pytest@example.com")


@pytest.fixture(scope="session")
def audiencelab_account(audiencelab_stack: LocalStack, audiencelab_user: UUID) -> UUID:
    """The id of an account, whose owner is `audiencelab_user`."""
    return audiencelab_stack.create_account("Test", owner=audiencelab_user)


@pytest.fixture(scope="session")
def audiencelab_create_key(
    audiencelab_client: AudienceLab, audiencelab_user: UUID, audiencelab_account: UUID
) -> Callable[..., CreatedApiKey]:
    """A function that creates an API key of the account, with the scopes that it is called with."""

    def create(*scopes: Scope, name: str = "test") -> CreatedApiKey:
        return audiencelab_client.api_keys.issue(
            audiencelab_account, name, created_by=audiencelab_user, scopes=scopes
        )

    return create
