"""JSON that the database stores: written exactly as it was read."""

from collections.abc import Callable
from typing import Any

from pydantic import GetPydanticSchema, model_serializer
from pydantic_core import core_schema

from audiencelab_sdk.models._base import Model


class StoredObject(Model, frozen=True):
    """An object in a jsonb column; `model_dump` gives what is stored, other keys included."""

    @model_serializer
    def _stored(self) -> dict[str, Any]:
        fields = type(self).model_fields
        keys = ((name, fields[name].serialization_alias or name) for name in fields)
        known = {key: getattr(self, name) for name, key in keys if name in self.model_fields_set}
        return known | (self.model_extra or {})


def otherwise(convert: Callable[[Any], Any]) -> GetPydanticSchema:
    """For a jsonb column that should hold a certain type, but may hold anything.

    Args:
        convert: Makes the annotated type of what is not of it. It is not called for the others,
            which are most: calling Python for every row takes long.
    """
    return GetPydanticSchema(
        lambda annotated, handler: core_schema.union_schema(
            [
                handler(annotated),
                core_schema.no_info_after_validator_function(convert, core_schema.any_schema()),
            ],
            mode="left_to_right",
        )
    )
