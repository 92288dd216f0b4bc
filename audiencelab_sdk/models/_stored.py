"""Types for columns that may contain more than the model expects: JSON, arrays and times."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias, cast

from pydantic import AwareDatetime, GetPydanticSchema, model_serializer
from pydantic_core import core_schema

from audiencelab_sdk.models._base import Model

Json: TypeAlias = bool | int | float | str | Sequence[Any] | Mapping[str, Any] | None
"""The type of JSON arguments. Unlike `pydantic.JsonValue`, it accepts a ``list[str]``."""


def plain(value: Any) -> Any:
    """Return JSON with lists for sequences and dicts for mappings, as pydantic requires."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Any", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [plain(item) for item in cast("Any", value)]
    return value


class StoredObject(Model, frozen=True):
    """An object in a jsonb column. `model_dump` returns it as stored, unknown keys included."""

    @model_serializer
    def _serialized(self) -> Any:
        # pydantic calls this serializer for subclasses too, so it must not be overridden.
        return self._stored()

    def _stored(self) -> Any:
        fields = type(self).model_fields
        keys = ((name, fields[name].serialization_alias or name) for name in fields)
        known = {key: getattr(self, name) for name, key in keys if name in self.model_fields_set}
        return known | (self.model_extra or {})


def or_convert(convert: Callable[[Any], Any]) -> GetPydanticSchema:
    """Accept values of the annotated type, and convert all others.

    Args:
        convert: Converts a value of another type, or raises ValueError. It is called only for these
            few values, because calling Python for every row is slow.
    """

    def validated(annotated: Any, handler: Callable[[Any], core_schema.CoreSchema]) -> Any:
        return core_schema.union_schema(
            [
                handler(annotated),
                core_schema.no_info_after_validator_function(convert, core_schema.any_schema()),
            ],
            mode="left_to_right",
            # One error instead of one for each choice.
            custom_error_type="stored_shape",
            custom_error_message="Input is not valid for this field",
        )

    def documented(schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(schema["choices"][0])

    return GetPydanticSchema(validated, documented)


def _flattened(array: Any) -> tuple[str, ...]:
    # PostgreSQL allows nulls and further dimensions in a text[].
    if not isinstance(array, list | tuple):
        raise ValueError("not an array")  # noqa: TRY004 - pydantic catches only ValueError
    items = cast("Sequence[Any]", array)
    nested = (_flattened(item) if isinstance(item, list) else (item,) for item in items)
    texts = [text for part in nested for text in part if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("not an array of texts")
    return tuple(texts)


# Python has no infinite times.
_INFINITE = {
    "infinity": datetime.max.replace(tzinfo=UTC),
    "-infinity": datetime.min.replace(tzinfo=UTC),
}


def _infinite(value: Any) -> datetime:
    if isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    raise ValueError("not a timestamp")


TextArray: TypeAlias = Annotated[tuple[str, ...], or_convert(_flattened)]
Timestamp: TypeAlias = Annotated[AwareDatetime, or_convert(_infinite)]
