"""How answers are read."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from audiencelab_sdk.errors import UnexpectedResponseError

T = TypeVar("T")


def read(function: str, validate: Callable[[Any], T], data: Any) -> T:
    """What `validate` makes of the answer of a database function.

    Raises:
        UnexpectedResponseError: The answer has another shape; the message names the fields that
            differ and quotes no value, which could be a key.
    """
    try:
        return validate(data)
    except ValidationError as error:
        fields = {".".join(map(str, item["loc"])) for item in error.errors(include_input=False)}
    # Outside of the handler, so that the validation error and its values are not chained to it.
    where = ", ".join(sorted(field or "the whole" for field in fields))
    raise UnexpectedResponseError(
        f"{function} answered in another shape than this version of the SDK knows (see: {where}): "
        "does the URL lead to an AudienceLab database, and was its migration applied?"
    )
