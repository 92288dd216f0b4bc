"""JSON that the database stores: written exactly as it was read."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from pydantic import JsonValue, ValidationError, model_serializer

from audiencelab_sdk.models._base import Model

M = TypeVar("M", bound="StoredObject")


class StoredObject(Model, frozen=True):
    """An object in a jsonb column; `model_dump` gives what is stored, other keys included."""

    @model_serializer
    def _stored(self) -> dict[str, Any]:
        fields = type(self).model_fields
        keys = ((name, fields[name].serialization_alias or name) for name in fields)
        known = {key: getattr(self, name) for name, key in keys if name in self.model_fields_set}
        return known | (self.model_extra or {})


def kept(kind: type[M]) -> Callable[[Any], M | JsonValue]:
    """A validator for an item of a column whose items should be of `kind`.

    Anything may have been written there: what `kind` would not write back as it was stays as it
    is.
    """
    # Pages have thousands of these: asking the fields is several times as fast as a dump.
    names = {field.serialization_alias or name: name for name, field in kind.model_fields.items()}

    def read(item: Any) -> M | JsonValue:
        # A model already, or JSON of another shape. To ask for the model's class takes long.
        if not isinstance(item, dict):
            return cast("M | JsonValue", item)
        item = cast("dict[str, JsonValue]", item)
        try:
            known = kind.model_validate(item)
        except ValidationError:
            return cast("JsonValue", item)
        same = len(names) + len(known.model_extra or ()) == len(item) and all(
            key in item and getattr(known, name) == item[key] for key, name in names.items()
        )
        return known if same else cast("JsonValue", item)

    return read


def as_array(column: Any) -> Any:
    """What a column holds, taken for the only item of an array when it is none."""
    if column is None:
        return ()
    return cast("Any", column) if isinstance(column, (list, tuple)) else [column]
