"""Segments: `client.segments`."""

import builtins
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from audiencelab_sdk._operations import segments as operations
from audiencelab_sdk._outcome import Outcome
from audiencelab_sdk._resources._base import AsyncUserResource, UserResource
from audiencelab_sdk.models import (
    UNSET,
    AsyncPage,
    CustomColumn,
    NewSegment,
    Page,
    Segment,
    SegmentFilter,
    SourceType,
    Unset,
)
from audiencelab_sdk.models._stored import Json


class Segments(UserResource):
    """The saved audience segments of accounts.

    Every call raises InvalidArgumentError for an argument that cannot be right, before anything
    is sent; APIConnectionError when no answer comes; and the APIStatusError of the answer when it
    is no success. Ids are UUIDs or their text. Deleted segments are never shown.

    Filters and custom columns may also be given as the JSON that V3 stores, so that what `get`
    gave can be written back, whatever its shape.
    """

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
    ) -> Segment:
        """Save a segment, as a user who is a member of the account.

        Calls the database function ``create_studio_segment``, and reads the segment from the
        table ``segments``. The function is not called again when nobody knows whether it was
        done; `create_many` is::

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
            account_id: The account that it is for.
            name: What to call it, not blank.
            source_type: Where its records come from: audience, webhook_upload or csv_upload.
            source_id: The id of that audience or upload.
            description: What it is for.
            filters: The conditions on its records.
            enrichment_fields: The fields that are added to its records.
            custom_columns: The columns that its table shows besides the usual ones.
            tags: Its tags.

        Returns:
            The segment.

        Raises:
            PermissionDeniedError: The user is no member, or there is no such account.
        """
        given = {
            "name": name,
            "source_type": source_type,
            "source_id": source_id,
            "description": description,
            "filters": filters,
            "enrichment_fields": enrichment_fields,
            "custom_columns": custom_columns,
            "tags": tags,
        }
        return self._run(operations.create(account_id, given))

    def create_many(
        self,
        account_id: UUID | str,
        segments: Iterable[NewSegment],
        *,
        created_by: UUID | str | None = None,
    ) -> builtins.list[Outcome[Segment]]:
        """Save many segments, as a member of the account or as the service role.

        Inserts into the table ``segments``, at most 100 at a time. What the server or the
        connection says is part of the outcomes and not raised, so that nobody has to guess which
        were saved. A segment that the database refuses costs the others nothing.

        Args:
            account_id: The account that they are for.
            segments: The segments, as many as you like.
            created_by: The user who makes them; when left out, the one that the client acts as.

        Returns:
            An outcome for each segment, in their order.

        Raises:
            InvalidArgumentError: The client acts as no user, and `created_by` was left out.
        """
        return self._run(operations.create_many(account_id, segments, created_by, self._user_id()))

    def get(self, segment_id: UUID | str) -> Segment:
        """Read a segment from the table ``segments``.

        Args:
            segment_id: The segment's id.

        Returns:
            The segment.

        Raises:
            NotFoundError: There is none, it is deleted, or the caller may not see it.
        """
        return self._run(operations.get(segment_id))

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
    ) -> Page[Segment]:
        """List the segments that the caller may see, the newest first.

        Reads the table ``segments``. What is left out does not narrow the list::

            for segment in client.segments.list(account_id=account_id, tags=["vip"]):
                print(segment.name)

        Args:
            account_id: Only those of this account.
            source_type: Only those whose records come from there.
            tags: Only those that have all of these tags.
            name_contains: Only those with this text in their name, in upper or lower case. It is
                taken literally: ``%``, ``_``, ``*`` and the like stand for themselves.
            created_after: Only those made after this moment, which needs a time zone.
            created_before: Only those made before this moment, which needs a time zone.
            page_size: How many to fetch at a time, 1 to 1000.

        Returns:
            The first page. Iterating it walks all of them: those that are there all the while
            come once, whatever is added or deleted in between.
        """
        return self._page(
            operations.listing(
                account_id=account_id,
                source_type=source_type,
                tags=tags,
                name_contains=name_contains,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
            )
        )

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
    ) -> Segment:
        """Change a segment, as a member of its account; what is not passed stays as it is.

        Updates the table ``segments``::

            client.segments.update(segment_id, name="EU engineers", description=None)

        Args:
            segment_id: The segment's id.
            name: Another name, not blank.
            description: Another description; None for none.
            source_type: Where its records come from.
            source_id: The id of that audience or upload.
            filters: The conditions on its records, all of them.
            enrichment_fields: The fields that are added to its records, all of them.
            custom_columns: The columns that its table shows besides, all of them.
            tags: Its tags, all of them.

        Returns:
            The segment as it is now.

        Raises:
            NotFoundError: There is none, it is deleted, or the caller may not see it.
            InvalidArgumentError: Nothing was passed, or what was passed cannot be.
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
        return self._run(operations.update(segment_id, given))

    def delete(self, segment_id: UUID | str) -> None:
        """Delete a segment, so that `restore` can bring it back; again does nothing.

        Calls the database function ``delete_studio_segment``, as a user who is a member of the
        account.

        Args:
            segment_id: The segment's id.

        Raises:
            NotFoundError: There is none, or the user is no member of its account.
        """
        return self._run(operations.delete(segment_id))

    def restore(self, segment_id: UUID | str) -> Segment:
        """Bring a deleted segment back; one that is not deleted stays as it is.

        Calls the database function ``restore_studio_segment``, as a user who is a member of the
        account.

        Args:
            segment_id: The segment's id.

        Returns:
            The segment.

        Raises:
            NotFoundError: There is none, or the user is no member of its account.
        """
        return self._run(operations.restore(segment_id))


class AsyncSegments(AsyncUserResource):
    """Like :class:`Segments`, awaited."""

    async def create(
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
    ) -> Segment:
        """Like :meth:`Segments.create`, awaited."""
        given = {
            "name": name,
            "source_type": source_type,
            "source_id": source_id,
            "description": description,
            "filters": filters,
            "enrichment_fields": enrichment_fields,
            "custom_columns": custom_columns,
            "tags": tags,
        }
        return await self._run(operations.create(account_id, given))

    async def create_many(
        self,
        account_id: UUID | str,
        segments: Iterable[NewSegment],
        *,
        created_by: UUID | str | None = None,
    ) -> builtins.list[Outcome[Segment]]:
        """Like :meth:`Segments.create_many`, awaited."""
        return await self._run(
            operations.create_many(account_id, segments, created_by, self._user_id())
        )

    async def get(self, segment_id: UUID | str) -> Segment:
        """Like :meth:`Segments.get`, awaited."""
        return await self._run(operations.get(segment_id))

    async def list(
        self,
        *,
        account_id: UUID | str | None = None,
        source_type: SourceType | str | None = None,
        tags: Sequence[str] = (),
        name_contains: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncPage[Segment]:
        """Like :meth:`Segments.list`, awaited.

        The page is walked with ``async for``::

            async for segment in await client.segments.list(account_id=account_id):
                print(segment.id)
        """
        return await self._page(
            operations.listing(
                account_id=account_id,
                source_type=source_type,
                tags=tags,
                name_contains=name_contains,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
            )
        )

    async def update(
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
    ) -> Segment:
        """Like :meth:`Segments.update`, awaited."""
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
        return await self._run(operations.update(segment_id, given))

    async def delete(self, segment_id: UUID | str) -> None:
        """Like :meth:`Segments.delete`, awaited."""
        return await self._run(operations.delete(segment_id))

    async def restore(self, segment_id: UUID | str) -> Segment:
        """Like :meth:`Segments.restore`, awaited."""
        return await self._run(operations.restore(segment_id))
