"""Rows of a table."""

from typing import Any
from uuid import UUID

import pytest
import respx

from audiencelab_sdk import (
    NotFoundError,
    UnexpectedResponseError,
)
from tests.unit._both_clients import settle
from tests.unit._operations import segments
from tests.unit._samples import JOB, KEY_ID


def test_a_row_that_is_not_there_is_named() -> None:
    steps = segments.get(KEY_ID)
    next(steps)
    with pytest.raises(NotFoundError, match="the segment does not exist"):
        steps.throw(NotFoundError(406, "PGRST116", "Cannot coerce the result"))


def test_a_missing_table_is_something_else() -> None:
    steps = segments.get(KEY_ID)
    next(steps)
    with pytest.raises(NotFoundError, match="no table"):
        steps.throw(NotFoundError(404, "PGRST205", "no table"))


def broken(row: int, **columns: Any) -> dict[str, Any]:
    return JOB | {"id": str(UUID(int=row)), **columns}


async def test_another_row_than_the_one_asked_for_is_refused(
    client: Any, api: respx.MockRouter
) -> None:
    api.get("/enrichment_tracking").respond(json=broken(1))
    with pytest.raises(UnexpectedResponseError, match="another row than the requested one"):
        await settle(client.enrichment.get(UUID(int=2)))
