"""Reading of single rows."""

from typing import Any
from uuid import UUID

import pytest
import respx

from audiencelab_sdk import (
    NotFoundError,
    UnexpectedResponseError,
)
from audiencelab_sdk._http._table import creator
from tests.unit._both_clients import maybe_await
from tests.unit._operations import segments
from tests.unit._samples import JOB, KEY_ID


def test_get_names_the_missing_row() -> None:
    operation = segments.get(KEY_ID)
    next(operation)
    with pytest.raises(NotFoundError, match="the segment does not exist"):
        operation.throw(NotFoundError(406, "PGRST116", "Cannot coerce the result"))


def test_get_from_a_missing_table_keeps_the_message() -> None:
    operation = segments.get(KEY_ID)
    next(operation)
    with pytest.raises(NotFoundError, match="no table"):
        operation.throw(NotFoundError(404, "PGRST205", "no table"))


def job_row(number: int, **columns: Any) -> dict[str, Any]:
    return JOB | {"id": str(UUID(int=number)), **columns}


async def test_get_rejects_another_row(client: Any, api: respx.MockRouter) -> None:
    api.get("/enrichment_tracking").respond(json=job_row(1))
    with pytest.raises(UnexpectedResponseError, match="another row than the requested one"):
        await maybe_await(client.enrichment.get(UUID(int=2)))


def test_the_creator_is_who_was_passed_or_else_who_the_client_acts_as() -> None:
    acting = {"created_by": JOB["id"]}
    assert creator(UUID(KEY_ID), acting) == {"created_by": KEY_ID}
    assert creator(None, acting) == acting
