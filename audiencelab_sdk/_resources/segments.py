"""Segments: `client.segments`."""

import builtins
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from audiencelab_sdk._arguments import (
    checked_items,
    checked_text,
    checked_texts,
    checked_uuid,
)
from audiencelab_sdk._http._listing import Listing
from audiencelab_sdk._http._operation import Operation, rpc
from audiencelab_sdk._http._reading import Rows, read, read_nothing
from audiencelab_sdk._http._resource import D, Resource, listing, operation
from audiencelab_sdk._http._table import Table, created, creator, equal
from audiencelab_sdk._resources._segment_columns import columns, has_tags
from audiencelab_sdk._resources._segment_columns import name_contains as contains
from audiencelab_sdk.errors import (
    AudienceLabError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
)
from audiencelab_sdk.models import (
    UNSET,
    CustomColumn,
    NewSegment,
    Outcome,
    Segment,
    SegmentFilter,
    SourceType,
    Unset,
)
from audiencelab_sdk.models._base import Model
from audiencelab_sdk.models._stored import Json

_TABLE = Table(
    Rows("segments", TypeAdapter(Segment), TypeAdapter(list[Segment], config=Model.model_config)),
    absent="the segment does not exist, is deleted, or is not visible to this client",
    visible=[("deleted", "is", "false")],
)
_ID = TypeAdapter(UUID)
_SEGMENTS_PER_REQUEST = 100


class Segments(Resource[D]):
    """The saved audience segments of accounts.

    Ids are UUIDs or their text. Deleted segments are never returned. Filters and custom columns may
    also be passed as plain JSON, so that `update` can write back whatever `get` returns.

    Besides the errors that it documents, every method raises:

    - InvalidArgumentError if an argument is invalid. No request is sent then.
    - AuthenticationError if the server rejects the key or the access token, or if the client has
      only the publishable (anon) key and no access token.
    - APIConnectionError if no response arrives.
    - UnexpectedResponseError if the body of the response has an unexpected format.
    - ClientClosedError if the client is closed.
    - The APIStatusError for any other error response.
    """

    _subject = "segments"

    @operation
    def create(
        self,
        account_id: UUID | str,
        name: str,
        *,
        source_type: SourceType | str,
        source_id: str,
        description: str | None = None,
        filters: Sequence[SegmentFilter | Json] = (),
        enrichment_fields: Sequence[str] = (),
        custom_columns: Sequence[CustomColumn | Json] = (),
        tags: Sequence[str] = (),
    ) -> Operation[Segment]:
        """Create a segment, as a member of the account or as an API key with a scope for it.

        Calls the database function ``create_studio_segment``, then reads the segment from the table
        ``segments``. A transient error is retried only if the server did not carry out the request,
        because a retry could create a second segment. `create_many` retries all of them. If reading
        the new segment fails, the error has a note with its id::

            client.segments.create(
                account_id,
                "US engineers",
                source_type="audience",
                source_id=audience_id,
                filters=[
                    SegmentFilter.where("country") == "US",
                    SegmentFilter.where("title").op("contains", "engineer"),
                ],
            )

        Args:
            account_id: The account that owns the segment.
            name: A label for people, 1 to 255 characters, not blank.
            source_type: Where its records come from: audience, webhook_upload or csv_upload.
            source_id: The id of that audience or upload.
            description: A longer description.
            filters: The conditions that its records meet.
            enrichment_fields: The fields to add to its records.
            custom_columns: The columns to show in addition to the default ones.
            tags: The segment's tags.

        Returns:
            The new segment.

        Raises:
            PermissionDeniedError: The caller is not a member of the account, the account does not
                exist, the API key has no scope for all segments, or the client acts as the service
                role.
            InvalidRequestError: A filter or a custom column is not a JSON object.
        """
        arguments = columns(
            {
                "name": name,
                "source_type": source_type,
                "source_id": source_id,
                "description": description,
                "filters": filters,
                "enrichment_fields": enrichment_fields,
                "custom_columns": custom_columns,
                "tags": tags,
            }
        )
        response = yield rpc(
            "create_studio_segment",
            {
                "p_account_id": str(checked_uuid("account_id", account_id)),
                **{f"p_{column}": value for column, value in arguments.items()},
            },
            repeatable=False,
        )
        segment_id = read("create_studio_segment", _ID, response)
        try:
            return (yield from _TABLE.get(segment_id))
        except AudienceLabError as error:
            error.add_note(f"The segment was created. Its id is {segment_id}.")
            raise

    @operation
    def create_many(
        self,
        account_id: UUID | str,
        segments: Iterable[NewSegment],
        *,
        created_by: UUID | str | None = None,
    ) -> Operation[builtins.list[Outcome[Segment]]]:
        """Create many segments, as a member of the account or as the service role.

        Inserts into the table ``segments``, at most 100 rows per request. Errors of the server or
        the connection are returned in the outcomes and not raised, so that you know which segments
        were created. A segment that the database rejects does not affect the others.

        Args:
            account_id: The account that owns the segments.
            segments: The segments, any number.
            created_by: The user who creates them. None means the user that the client acts as, or
                the user who created its API key. Only the service role may name another user.

        Returns:
            An outcome for each segment, in the order of the segments.

        Raises:
            InvalidArgumentError: `created_by` is missing, and the client acts as no user or API
                key.
        """
        common = {
            "account_id": str(checked_uuid("account_id", account_id)),
            **creator(created_by, self._creator()),
        }
        rows = [
            {"id": str(uuid4()), **common, **columns(dict(segment), f"segments[{index}].")}
            for index, segment in enumerate(checked_items("segments", segments, NewSegment))
        ]
        outcomes: builtins.list[Outcome[Segment]] = []
        for first in range(0, len(rows), _SEGMENTS_PER_REQUEST):
            outcomes += yield from _insert(first, rows[first : first + _SEGMENTS_PER_REQUEST])
        return outcomes

    @operation
    def get(self, segment_id: UUID | str) -> Operation[Segment]:
        """Return a segment.

        Reads the table ``segments``.

        Args:
            segment_id: The segment's id.

        Returns:
            The segment.

        Raises:
            NotFoundError: The segment does not exist, is deleted, or is not visible to the caller.
        """
        return (yield from _TABLE.get(checked_uuid("segment_id", segment_id)))

    @listing
    def list(
        self,
        *,
        account_id: UUID | str | None = None,
        source_type: SourceType | str | None = None,
        tags: Sequence[str] = (),
        name_contains: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
        cursor: str | None = None,
    ) -> Listing[Segment]:
        """List the segments that are visible to the caller, newest first.

        Reads the table ``segments``. Without arguments it lists all of them::

            for segment in client.segments.list(account_id=account_id, tags=["vip"]):
                print(segment.name)

            async for segment in async_client.segments.list(account_id=account_id):
                print(segment.name)

        Args:
            account_id: Only segments of this account.
            source_type: Only segments whose records come from this kind of source.
            tags: Only segments that have all of these tags.
            name_contains: Only segments whose name contains this text, ignoring case. It is
                matched literally: ``%``, ``_`` and ``*`` are ordinary characters.
            created_after: Only segments created after this time, an aware datetime.
            created_before: Only segments created before this time, an aware datetime.
            page_size: How many segments to fetch per request, 1 to 1000.
            cursor: The `cursor` of a page of the same list, to continue after that page.

        Returns:
            The first page. Iterating over it fetches the following pages as needed, and yields each
            segment once, even if others are created or deleted in the meantime.
        """
        conditions = created(created_after, created_before)
        if account_id is not None:
            conditions.append(equal("account_id", checked_uuid("account_id", account_id)))
        if source_type is not None:
            conditions.append(equal("source_type", checked_text("source_type", source_type)))
        if wanted := checked_texts("tags", tags):
            conditions.append(has_tags(wanted))
        if name_contains is not None:
            conditions.append(contains(checked_text("name_contains", name_contains)))
        return _TABLE.listing(conditions, page_size, cursor)

    @operation
    def update(
        self,
        segment_id: UUID | str,
        *,
        name: str | Unset = UNSET,
        description: str | Unset | None = UNSET,
        source_type: SourceType | str | Unset = UNSET,
        source_id: str | Unset = UNSET,
        filters: Sequence[SegmentFilter | Json] | Unset = UNSET,
        enrichment_fields: Sequence[str] | Unset = UNSET,
        custom_columns: Sequence[CustomColumn | Json] | Unset = UNSET,
        tags: Sequence[str] | Unset = UNSET,
    ) -> Operation[Segment]:
        """Update a segment. Omitted arguments are left unchanged.

        Updates the table ``segments``, as a member of the account, as the service role or as an API
        key with a scope for it::

            client.segments.update(segment_id, name="EU engineers", description=None)

        Args:
            segment_id: The segment's id.
            name: The new name, not blank.
            description: The new description. None removes it.
            source_type: Where its records come from.
            source_id: The id of that audience or upload.
            filters: The conditions that its records meet. They replace all current ones, and so do
                the following lists.
            enrichment_fields: The fields to add to its records.
            custom_columns: The columns to show in addition to the default ones.
            tags: The segment's tags.

        Returns:
            The updated segment.

        Raises:
            NotFoundError: The segment does not exist, is deleted, or the caller may not change it.
            InvalidArgumentError: No argument but `segment_id` was passed, or one is invalid.
        """
        given = {
            "name": name,
            "description": description,
            "source_type": source_type,
            "source_id": source_id,
            "filters": filters,
            "enrichment_fields": enrichment_fields,
            "custom_columns": custom_columns,
            "tags": tags,
        }
        changes = {column: value for column, value in given.items() if value is not UNSET}
        if not changes:
            raise InvalidArgumentError("there is nothing to update: pass an argument to change")
        return (yield from _TABLE.update(checked_uuid("segment_id", segment_id), columns(changes)))

    @operation
    def delete(self, segment_id: UUID | str) -> Operation[None]:
        """Delete a segment. `restore` can bring it back. Deleting it again changes nothing.

        Calls the database function ``delete_studio_segment``, as a member of the account or as an
        API key with a scope for it.

        Args:
            segment_id: The segment's id.

        Raises:
            NotFoundError: The segment does not exist, or the caller may not change it.
            PermissionDeniedError: The client acts as the service role.
        """
        arguments = {"p_segment_id": str(checked_uuid("segment_id", segment_id))}
        response = yield rpc("delete_studio_segment", arguments, repeatable=True)
        read_nothing("delete_studio_segment", response)

    @operation
    def restore(self, segment_id: UUID | str) -> Operation[Segment]:
        """Restore a deleted segment. A segment that is not deleted is left unchanged.

        Calls the database function ``restore_studio_segment``, as a member of the account or as an
        API key with a scope for it.

        Args:
            segment_id: The segment's id.

        Returns:
            The restored segment.

        Raises:
            NotFoundError: The segment does not exist, or the caller may not change it.
            PermissionDeniedError: The client acts as the service role.
        """
        arguments = {"p_segment_id": str(checked_uuid("segment_id", segment_id))}
        response = yield rpc("restore_studio_segment", arguments, repeatable=True)
        return read("restore_studio_segment", _TABLE.rows.one, response)


def _insert(first: int, rows: Sequence[Mapping[str, Any]]) -> Operation[list[Outcome[Segment]]]:
    try:
        segments = yield from _TABLE.insert(rows)
    except AudienceLabError as error:
        if len(rows) == 1 or not _is_about_a_row(error):
            return [Outcome(first + index, error=error) for index in range(len(rows))]
    else:
        return [Outcome(first + index, segment) for index, segment in enumerate(segments)]
    # One invalid row makes the database reject all rows. Halving finds it.
    middle = len(rows) // 2
    outcomes = yield from _insert(first, rows[:middle])
    outcomes += yield from _insert(first + middle, rows[middle:])
    return outcomes


def _is_about_a_row(error: AudienceLabError) -> bool:
    """Return whether the database rejected the values of a single row, by the SQLSTATE."""
    if not isinstance(error, InvalidRequestError | ConflictError):
        return False
    # The foreign keys, account and creator, are the same in all rows.
    return error.code != "23503" and (error.code or "")[:2] in {"22", "23", "P0"}
