"""What the database stores: JSON, and columns that may hold more than they should."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, cast

from pydantic import AwareDatetime, GetPydanticSchema, model_serializer
from pydantic_core import core_schema

from audiencelab_sdk.models._base import Model

Json: TypeAlias = bool | int | float | str | Sequence[Any] | Mapping[str, Any] | None
"""What callers may pass as JSON: a ``list[str]`` too, which is no `pydantic.JsonValue`."""


def plain(value: Any) -> Any:
    """`value` with lists for its sequences and dicts for its mappings, as pydantic wants JSON."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Any", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [plain(item) for item in cast("Any", value)]
    return value


class StoredObject(Model, frozen=True):
    """An object in a jsonb column; `model_dump` gives what is stored, other keys included."""

    @model_serializer
    def _stored(self) -> dict[str, Any]:
        fields = type(self).model_fields
        keys = ((name, fields[name].serialization_alias or name) for name in fields)
        known = {key: getattr(self, name) for name, key in keys if name in self.model_fields_set}
        return known | (self.model_extra or {})


def otherwise(convert: Callable[[Any], Any]) -> GetPydanticSchema:
    """For a column that should hold a certain type, but may hold more.

    Args:
        convert: Makes the annotated type of what is not of it, or raises ValueError. It is not
            called for the others, which are most: calling Python for every row takes long.
    """

    def validated(annotated: Any, handler: Callable[[Any], core_schema.CoreSchema]) -> Any:
        return core_schema.union_schema(
            [
                handler(annotated),
                core_schema.no_info_after_validator_function(convert, core_schema.any_schema()),
            ],
            mode="left_to_right",
            # One error in place of one for each of the two.
            custom_error_type="stored_shape",
            custom_error_message="Input is neither of the type that it should be nor like it",
        )

    def documented(schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(schema["choices"][0])

    return GetPydanticSchema(validated, documented)


def _as_texts(array: Any) -> tuple[str, ...]:
    # A text[] may have NULLs and further dimensions, which no application means.
    if not isinstance(array, list | tuple):
        raise ValueError("not an array")  # noqa: TRY004 - pydantic wants it so
    items = cast("Sequence[Any]", array)
    nested = (_as_texts(item) if isinstance(item, list) else (item,) for item in items)
    texts = [text for part in nested for text in part if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not an array of texts")
    return tuple(texts)


# PostgreSQL has two times that Python has not.
_INFINITE = {
    "infinity": datetime.max.replace(tzinfo=UTC),
    "-infinity": datetime.min.replace(tzinfo=UTC),
}


def _as_moment(value: Any) -> datetime:
    if isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    raise ValueError("not a time with its zone")


Texts: TypeAlias = Annotated[tuple[str, ...], otherwise(_as_texts)]
Moment: TypeAlias = Annotated[AwareDatetime, otherwise(_as_moment)]
