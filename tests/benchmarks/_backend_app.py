"""An application with one endpoint, in the variant that `VARIANT` names.

It logs usage if `USAGE` is set.
"""

import os
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from starlette.requests import HTTPConnection

from audiencelab_sdk import AsyncAudienceLab
from audiencelab_sdk.fastapi import ApiKeyAuth, Caller

auth = ApiKeyAuth(AsyncAudienceLab.from_env(), usage="USAGE" in os.environ)
app = FastAPI(lifespan=auth.lifespan)
keys = {os.environ["EXAMPLE_KEY"]: "example"}


async def name_of(connection: HTTPConnection) -> str:
    """Look the key up in a dictionary."""
    name = keys.get(connection.headers.get("x-api-key", ""))
    if name is None:
        raise HTTPException(401)
    return name


async def read_without_a_key(segment_id: str) -> dict[str, str]:
    """Answer everybody."""
    return {"id": segment_id}


async def read_with_a_dictionary(
    segment_id: str, _: Annotated[str, Depends(name_of)]
) -> dict[str, str]:
    """Answer those whose key is in a dictionary."""
    return {"id": segment_id}


async def read_with_a_key(
    segment_id: str, _: Annotated[Caller, auth.require("segment", "read", id="segment_id")]
) -> dict[str, str]:
    """Answer those whose key may read the segment."""
    return {"id": segment_id}


variants: dict[str, Callable[..., object]] = {
    "open": read_without_a_key,
    "dictionary": read_with_a_dictionary,
    "required": read_with_a_key,
}
app.add_api_route("/segments/{segment_id}", variants[os.environ["VARIANT"]])
