"""Audience segments, their filters and custom columns."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NoReturn, TypeAlias
from uuid import UUID

from pydantic import (
    AwareDatetime,
    Field,
    InstanceOf,
    JsonValue,
    StrictBool,
    StringConstraints,
)

from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import Json, StoredObject, TextArray, or_convert, plain

_Text = Annotated[str, StringConstraints(min_length=1)]


class SourceType(StrEnum):
    """Where the records of a segment come from."""

    AUDIENCE = "audience"
    WEBHOOK_UPLOAD = "webhook_upload"
    CSV_UPLOAD = "csv_upload"


class SegmentFilter(StoredObject, frozen=True):
    """A condition on a field of a segment's records.

    ``SegmentFilter.where("country") == "US"`` is the same as
    ``SegmentFilter(field="country", operator="=", value="US")``.

    Attributes:
        field: The field's name.
        operator: The comparison operator, such as ``=``. It is stored unchanged.
        value: The value to compare with: any JSON.
    """

    field: _Text
    operator: _Text
    value: JsonValue = None

    @staticmethod
    def where(field: str) -> "FilterField":
        """Return a field. Comparing it with a value returns a filter.

        The operators are ``==``, ``!=``, ``<``, ``<=``, ``>`` and ``>=``; `op` takes any other::

            SegmentFilter.where("country") == "US"
            SegmentFilter.where("employees") >= 50
            SegmentFilter.where("title").op("contains", "engineer")

        Args:
            field: The field's name.

        Returns:
            The field, to be compared with a value.
        """
        return FilterField(field)

    def __bool__(self) -> NoReturn:
        # `where("age") >= 18 and where("age") < 65` would silently evaluate to its last part.
        raise TypeError(
            "a filter has no truth value: pass a list of filters, "
            "without `and`, `or`, `not` and chained comparisons"
        )


class FilterField:
    """A field, from :meth:`SegmentFilter.where`. Comparing it with a value returns a filter."""

    __slots__ = ("_field",)
    # Not hashable: == returns a filter, so equality is not defined.
    __hash__: ClassVar[None]  # type: ignore[assignment] # object's is a method

    def __init__(self, field: str) -> None:
        self._field = field

    def op(self, operator: str, value: Json) -> SegmentFilter:
        """Return a filter with any operator, which is stored unchanged."""
        return SegmentFilter(field=self._field, operator=operator, value=plain(value))

    def __eq__(self, value: Json) -> SegmentFilter:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # a filter is not a bool
        return self.op("=", value)

    def __ne__(self, value: Json) -> SegmentFilter:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # a filter is not a bool
        return self.op("!=", value)

    def __lt__(self, value: Json) -> SegmentFilter:
        return self.op("<", value)

    def __le__(self, value: Json) -> SegmentFilter:
        return self.op("<=", value)

    def __gt__(self, value: Json) -> SegmentFilter:
        return self.op(">", value)

    def __ge__(self, value: Json) -> SegmentFilter:
        return self.op(">=", value)

    def __repr__(self) -> str:
        return f"SegmentFilter.where({self._field!r})"


class CustomColumn(StoredObject, frozen=True, validate_by_name=True, validate_by_alias=True):
    """A column that a segment's table shows in addition to the default ones.

    Attributes:
        field: The field to show.
        header_name: The title, stored as ``headerName``.
        type: The type of the values, such as ``number``.
    """

    field: _Text
    header_name: Annotated[
        str,
        Field(validation_alias="headerName", serialization_alias="headerName"),
    ]
    type: _Text


class UnknownFilter(SegmentFilter, frozen=True):
    """A filter that another application stored in a format of its own.

    Attributes:
        raw: The filter as stored: any JSON. `update` writes it back unchanged.
        field: Empty.
        operator: Empty.
        value: None.
    """

    raw: JsonValue
    field: str = ""
    operator: str = ""

    def _stored(self) -> Any:
        return self.raw


class UnknownColumn(CustomColumn, frozen=True):
    """A custom column that another application stored in a format of its own.

    Attributes:
        raw: The column as stored: any JSON. `update` writes it back unchanged.
        field: Empty.
        header_name: Empty.
        type: Empty.
    """

    raw: JsonValue
    field: str = ""
    header_name: str = ""
    type: str = ""

    def _stored(self) -> Any:
        return self.raw


_Filter: TypeAlias = Annotated[SegmentFilter, or_convert(lambda raw: UnknownFilter(raw=raw))]
_Column: TypeAlias = Annotated[CustomColumn, or_convert(lambda raw: UnknownColumn(raw=raw))]


# Other applications write these columns too. A value that is not an array is read as its only item.
def _as_filters(column: Any) -> tuple[UnknownFilter, ...]:
    return () if column is None else (UnknownFilter(raw=column),)


def _as_columns(column: Any) -> tuple[UnknownColumn, ...]:
    return () if column is None else (UnknownColumn(raw=column),)


class Segment(Model, frozen=True):
    """A saved audience segment.

    Attributes:
        id: The segment's id.
        account_id: The account that owns the segment.
        name: A label for people.
        description: A longer description, or None.
        source_type: Where its records come from. A type that this version of the SDK does not know
            is a str.
        source_id: The id of that audience or upload.
        filters: The conditions that its records meet. A filter that another application stored in a
            format of its own is an UnknownFilter.
        enrichment_fields: The fields to add to its records.
        custom_columns: The columns to show in addition to the default ones. A column that another
            application stored in a format of its own is an UnknownColumn.
        tags: The segment's tags.
        created_by: The user who created the segment.
        created_at: When the segment was created.
        updated_at: When the segment was last changed.
        deleted: Whether the segment is deleted. The SDK returns no deleted segments.
    """

    id: UUID
    account_id: UUID
    name: str
    description: str | None
    source_type: Annotated[SourceType | str, Field(union_mode="left_to_right")]
    source_id: str
    filters: Annotated[tuple[_Filter, ...], or_convert(_as_filters)]
    enrichment_fields: TextArray
    custom_columns: Annotated[tuple[_Column, ...], or_convert(_as_columns)]
    tags: TextArray
    created_by: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime
    deleted: StrictBool


class NewSegment(Model, frozen=True, extra="forbid"):
    """A new segment, for `create_many`.

    Attributes:
        name: A label for people, 1 to 255 characters, not blank.
        source_type: Where its records come from.
        source_id: The id of that audience or upload.
        description: A longer description.
        filters: The conditions that its records meet.
        enrichment_fields: The fields to add to its records.
        custom_columns: The columns to show in addition to the default ones.
        tags: The segment's tags.
    """

    name: _Text
    source_type: Annotated[SourceType | _Text, Field(union_mode="left_to_right")]
    source_id: _Text
    description: str | None = None
    filters: Sequence[InstanceOf[SegmentFilter] | JsonValue] = ()
    enrichment_fields: Sequence[str] = ()
    custom_columns: Sequence[InstanceOf[CustomColumn] | JsonValue] = ()
    tags: Sequence[str] = ()
