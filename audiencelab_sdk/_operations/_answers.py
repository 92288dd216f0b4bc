"""How answers are read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from audiencelab_sdk.errors import UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

T = TypeVar("T")

_NULL = TypeAdapter(None)
_FIELDS_NAMED = 5


def read(name: str, kind: TypeAdapter[T], response: "httpx.Response") -> T:
    """What the database function or table `name` answered with.

    Straight from the body's bytes: that takes half the time of Python's lists and dicts.

    Raises:
        UnexpectedResponseError: The body is no JSON, or JSON of another shape; the message names
            the fields that differ and quotes no value, which could be a key.
    """
    try:
        return kind.validate_json(response.content, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    # Outside of the handler, so that the validation error and its values are not chained to it.
    if problems[0]["type"] == "json_invalid":
        raise _without_json(response, problems[0]["msg"])
    raise another_shape(name, (".".join(map(str, problem["loc"])) for problem in problems))


def read_nothing(name: str, response: "httpx.Response") -> None:
    """Make sure that the database function `name` answered, which returns nothing.

    Raises:
        UnexpectedResponseError: It was something else that answered.
    """
    if response.status_code != 204:
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

    def read(self, response: "httpx.Response") -> list[T]:
        """All rows; raises what the function `read` does."""
        return read(self.name, self.many, response)


def another_shape(name: str, fields: "Iterable[str]") -> UnexpectedResponseError:
    """The error that says which fields of an answer differ from what they should be."""
    # Without duplicates, as they came: a page may have a thousand rows with the same fault.
    different = list(dict.fromkeys(field or "the whole" for field in fields))
    where = ", ".join(different[:_FIELDS_NAMED])
    if len(different) > _FIELDS_NAMED:
        where += f" and {len(different) - _FIELDS_NAMED} more"
    return UnexpectedResponseError(
        f"{name} answered in another shape than this version of the SDK knows (see: {where}): "
        "does the URL lead to an AudienceLab database, and was its migration applied?"
    )


def _without_json(response: "httpx.Response", reason: str) -> UnexpectedResponseError:
    request = response.request
    kind = response.headers.get("Content-Type", "no content type")
    if "recursion limit" in reason or "out of range" in reason:
        what = "JSON that goes too deep, or has too long a number, to be read"
    elif "json" in kind and response.content:
        what = "broken JSON: a proxy on the way may cut answers off"
    else:
        what = "something other than JSON: does the URL lead to the project's API, and no proxy or "
        what += "login page in its place?"
    return UnexpectedResponseError(
        f"{request.method} {request.url.path} answered {response.status_code} with {what} "
        f"({kind}, {len(response.content)} bytes)"
    )
