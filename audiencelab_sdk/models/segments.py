"""Audience segments, and the filters and columns that they are made of."""

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
from audiencelab_sdk.models._stored import Json, StoredObject, Texts, otherwise, plain

_Text = Annotated[str, StringConstraints(min_length=1)]


class SourceType(StrEnum):
    """Where the records of a segment come from."""

    AUDIENCE = "audience"
    WEBHOOK_UPLOAD = "webhook_upload"
    CSV_UPLOAD = "csv_upload"


class SegmentFilter(StoredObject, frozen=True):
    """A condition on a field of the records of a segment.

    ``SegmentFilter.where("country") == "US"`` is the same as
    ``SegmentFilter(field="country", operator="=", value="US")``.

    Attributes:
        field: The field's name.
        operator: The comparison, as V3 writes it, such as ``=``.
        value: What it is compared with: anything that JSON has.
    """

    field: _Text
    operator: _Text
    value: JsonValue = None

    @staticmethod
    def where(field: str) -> "FilterField":
        """Begin a filter: compare what this gives by ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``.

        ::

            SegmentFilter.where("country") == "US"
            SegmentFilter.where("employees") >= 50
            SegmentFilter.where("title").op("contains", "engineer")

        Args:
            field: The field's name.

        Returns:
            What makes a SegmentFilter of a comparison.
        """
        return FilterField(field)

    def __bool__(self) -> NoReturn:
        # `where("age") >= 18 and where("age") < 65` would silently be its last part alone.
        raise TypeError(
            "a filter is neither true nor false: to combine filters, pass a list of them, "
            "and no `and`, `or`, `not` or chained comparison"
        )


class FilterField:
    """A field to compare with a value, from :meth:`SegmentFilter.where`: that makes a filter."""

    __slots__ = ("_field",)
    # Its == compares nothing, so no two of them are equal, and no hash can be right.
    __hash__: ClassVar[None]  # type: ignore[assignment] # object's is a method

    def __init__(self, field: str) -> None:
        self._field = field

    def op(self, operator: str, value: Json) -> SegmentFilter:
        """The filter with any operator; it is stored as it is written here."""
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
    """A column that a segment's table shows beside the usual ones.

    Attributes:
        field: The field that it shows.
        header_name: Its title; V3 stores it as ``headerName``.
        type: The type of its values, such as ``number``.
    """

    field: _Text
    header_name: Annotated[
        str,
        Field(validation_alias="headerName", serialization_alias="headerName"),
    ]
    type: _Text


AnyFilter: TypeAlias = Annotated[SegmentFilter | JsonValue, Field(union_mode="left_to_right")]
AnyColumn: TypeAlias = Annotated[CustomColumn | JsonValue, Field(union_mode="left_to_right")]


def _alone(column: Any) -> tuple[Any, ...]:
    # Applications write these columns, too: what is no array is read as the only item of one.
    return () if column is None else (column,)


class Segment(Model, frozen=True):
    """A saved audience segment.

    Attributes:
        id: The segment's id.
        account_id: The account that it belongs to.
        name: Its name.
        description: What it is for; None when nobody said.
        source_type: Where its records come from.
        source_id: The id of that audience or upload.
        filters: The conditions on its records. What an application wrote in another shape than
            SegmentFilter's is here as the JSON that it is, and `update` writes it back unchanged.
        enrichment_fields: The fields that were added to its records.
        custom_columns: The columns that its table shows besides; other shapes as in `filters`.
        tags: Its tags.
        created_by: The user who made it.
        created_at: When it was made.
        updated_at: When it was last changed.
        deleted: True once it is deleted: then only the service role sees it, in the database.
    """

    id: UUID
    account_id: UUID
    name: str
    description: str | None
    source_type: SourceType
    source_id: str
    filters: Annotated[tuple[AnyFilter, ...], otherwise(_alone)]
    enrichment_fields: Texts
    custom_columns: Annotated[tuple[AnyColumn, ...], otherwise(_alone)]
    tags: Texts
    created_by: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime
    deleted: StrictBool


class NewSegment(Model, frozen=True, extra="forbid"):
    """A segment to be made, for `create_many`.

    Attributes:
        name: Its name, not blank.
        source_type: Where its records come from.
        source_id: The id of that audience or upload.
        description: What it is for.
        filters: The conditions on its records.
        enrichment_fields: The fields that are added to its records.
        custom_columns: The columns that its table shows besides the usual ones.
        tags: Its tags.
    """

    name: _Text
    source_type: SourceType
    source_id: _Text
    description: str | None = None
    filters: Sequence[InstanceOf[SegmentFilter] | JsonValue] = ()
    enrichment_fields: Sequence[str] = ()
    custom_columns: Sequence[InstanceOf[CustomColumn] | JsonValue] = ()
    tags: Sequence[str] = ()
