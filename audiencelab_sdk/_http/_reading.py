"""Reading of responses."""

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from audiencelab_sdk._http._json_text import member, parts
from audiencelab_sdk._http._operation import Response
from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import UnexpectedResponseError
from audiencelab_sdk.models import UnreadableRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

logger = logging.getLogger("audiencelab_sdk")

T = TypeVar("T")

_NULL = TypeAdapter(None)
_FIELDS_NAMED = 5


def read(name: str, kind: TypeAdapter[T], response: Response) -> T:
    """Read the response of the database function or table `name`.

    pydantic parses the bytes of the body, which takes half the time of Python's lists and dicts.

    Raises:
        UnexpectedResponseError: The body is no JSON, or JSON of another shape; the message names
            the fields that differ and quotes no value, which could be a key.
    """
    try:
        return kind.validate_json(response.content, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = _problems(error)
    # Outside of the handler, so that the validation error and its values are not chained to it.
    raise _unreadable(name, response, problems)


def read_nothing(name: str, response: Response) -> None:
    """Check the response of the database function `name`, which returns nothing.

    Raises:
        UnexpectedResponseError: The response is not the function's.
    """
    if response.status != 204:
        read(name, _NULL, response)


@dataclass(frozen=True)
class Rows(Generic[T]):
    """How the rows of a table, or those that a function returns, are read.

    Attributes:
        name: The table or function.
        one: Reads a row.
        many: Reads an array of them.
    """

    name: str
    one: TypeAdapter[T]
    many: TypeAdapter[list[T]]

    def read(self, response: Response) -> list[T]:
        """All rows; raises what the function `read` does."""
        return read(self.name, self.many, response)

    def read_each(self, response: Response) -> "Sequence[T | UnreadableRow]":
        """All rows, with an UnreadableRow, which is logged, in place of each that cannot be read.

        Raises:
            UnexpectedResponseError: The body is no array of rows with an id, or has rows of another
                schema.
        """
        try:
            return self.many.validate_json(response.content, by_alias=True, by_name=False)
        except ValidationError as error:
            problems = _problems(error)
        text = response.content.decode(errors="replace")
        rows = parts(text) if text.lstrip().startswith("[") else None
        if rows is None:
            raise _unreadable(self.name, response, problems)
        return [self._read_alone(response, index, raw) for index, raw in enumerate(rows)]

    def _read_alone(self, response: Response, index: int, raw: str) -> T | UnreadableRow:
        try:
            return self.one.validate_json(raw, by_alias=True, by_name=False)
        except ValidationError as error:
            problems = _problems(error)
        row_id = _id(raw)
        # A column that is missing, or JSON that is broken, is no fault of this row.
        if row_id is None or any(
            problem["type"] == "missing"
            or (problem["type"] == "json_invalid" and not _is_out_of_range(problem["msg"]))
            for problem in problems
        ):
            raise _unreadable(self.name, response, problems, f"{index}.")
        row = UnreadableRow(row_id, raw, _reason(problems))
        logger.warning("%s: row %s cannot be read: %s", self.name, row.id, row.reason)
        return row


def unexpected_shape(name: str, fields: "Iterable[str]") -> UnexpectedResponseError:
    """Return the error that names the fields of a response that do not fit."""
    # Without duplicates, as they came: a page may have a thousand rows with the same fault.
    different = list(dict.fromkeys(field or "the whole body" for field in fields))
    where = shown(", ".join(different[:_FIELDS_NAMED]))
    if len(different) > _FIELDS_NAMED:
        where += f" and {len(different) - _FIELDS_NAMED} more"
    return UnexpectedResponseError(
        f"{name} returned a response that does not fit this version of the SDK (see: {where}): "
        "does the URL lead to an AudienceLab database, and were its migrations applied?"
    )


def _problems(error: ValidationError) -> "list[ErrorDetails]":
    return error.errors(include_url=False, include_context=False, include_input=False)


def _id(raw: str) -> UUID | None:
    try:
        return UUID(json.loads(member(raw, "id") or ""))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _reason(problems: "list[ErrorDetails]") -> str:
    reasons = (
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in problems[:_FIELDS_NAMED]
    )
    return shown("; ".join(reasons))


def _unreadable(
    name: str, response: Response, problems: "list[ErrorDetails]", row: str = ""
) -> UnexpectedResponseError:
    if problems[0]["type"] == "json_invalid":
        return _without_json(response, problems[0]["msg"])
    return unexpected_shape(
        name, (row + ".".join(map(str, problem["loc"])) for problem in problems)
    )


def _is_out_of_range(reason: str) -> bool:
    return "recursion limit" in reason or "out of range" in reason


def _without_json(response: Response, reason: str) -> UnexpectedResponseError:
    kind = shown(response.content_type or "no content type")
    if _is_out_of_range(reason):
        what = "JSON that is nested too deep, or has too long a number, to be read"
    elif "json" in kind and response.content:
        what = "broken JSON: does a proxy on the way cut responses off?"
    else:
        what = (
            "something other than JSON: does the URL lead to the project's API, and not to a proxy "
            "or a login page?"
        )
    return UnexpectedResponseError(
        f"{response.method} {response.path} returned {response.status} with {what} "
        f"({kind}, {len(response.content)} bytes)"
    )
