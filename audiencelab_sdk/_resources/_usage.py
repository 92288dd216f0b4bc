"""The use of API keys: the part of `client.api_keys` that logs and counts requests."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import StrictInt, TypeAdapter

from audiencelab_sdk._arguments import (
    checked_int,
    checked_moment,
    checked_text,
    checked_uuid,
    each_item,
    made_storable,
)
from audiencelab_sdk._http._listing import Listing, by_parameters, checked_page_size
from audiencelab_sdk._http._operation import (
    Operation,
    PostgrestClient,
    Request,
    RequestBuilder,
    rpc,
)
from audiencelab_sdk._http._reading import Rows, read
from audiencelab_sdk._http._resource import D, Resource, listing, operation
from audiencelab_sdk._ids import time_ordered_id
from audiencelab_sdk._limits import (
    HIGHEST_STATUS,
    LONGEST_ENDPOINT,
    LONGEST_LOG_TEXT,
    LONGEST_USER_AGENT,
    LOWEST_STATUS,
)
from audiencelab_sdk._resources._usage_log import read_batch, read_log
from audiencelab_sdk.errors import AudienceLabError
from audiencelab_sdk.models import LoggedRequest, Outcome, UsageCount, UsageEvent, UsageLog
from audiencelab_sdk.models._base import Model

_LOGGED = Rows(
    "api_key_log",
    TypeAdapter(LoggedRequest),
    TypeAdapter(list[LoggedRequest], config=Model.model_config),
)
_COUNT: TypeAdapter[int] = TypeAdapter(StrictInt)
_COUNTS = TypeAdapter(list[UsageCount], config=Model.model_config)
# The database function accepts no more, and PostgREST returns no more rows.
_EVENTS_PER_REQUEST = 1000
_COUNTS_PER_REQUEST = 1000


class KeyUsage(Resource[D]):
    """The use of API keys: write and read the log of requests, and count them."""

    @operation
    def log_usage(
        self,
        api_key_id: UUID | str,
        *,
        endpoint: str,
        method: str,
        status_code: int | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
    ) -> Operation[UsageLog]:
        """Log a request that was made with an API key.

        Calls the database function ``log_api_key_usage``, as the service role. The function also
        updates the key's `last_used_at`. A transient error is retried only if the server did not
        carry out the request, because a retry could write a second entry.

        Args:
            api_key_id: The id that `verify` returned.
            endpoint: The requested path, such as ``/v1/segments``, not empty. It is truncated to
                2,000 characters. In all texts, characters that PostgreSQL cannot store (NUL and
                lone surrogates) are replaced by U+FFFD.
            method: The HTTP method, not empty, truncated to 255 characters.
            status_code: The HTTP status of the response, 100 to 999.
            ip_address: The client's address, truncated to 255 characters. An empty text is stored
                as null.
            user_agent: The client's User-Agent header, truncated to 1,000 characters. An empty text
                is stored as null.

        Returns:
            The entry's id and time.

        Raises:
            UsageLogError: The database could not write the entry, for example because the key does
                not exist.
            PermissionDeniedError: The client does not act as the service role.
        """
        response = yield rpc(
            "log_api_key_usage",
            {
                "p_api_key_id": str(checked_uuid("api_key_id", api_key_id)),
                "p_endpoint": made_storable("endpoint", endpoint, longest=LONGEST_ENDPOINT),
                "p_method": made_storable("method", method, longest=LONGEST_LOG_TEXT),
                "p_status_code": None
                if status_code is None
                else checked_int("status_code", status_code, LOWEST_STATUS, HIGHEST_STATUS),
                "p_ip_address": made_storable("ip_address", ip_address, longest=LONGEST_LOG_TEXT)
                if ip_address
                else None,
                "p_user_agent": made_storable("user_agent", user_agent, longest=LONGEST_USER_AGENT)
                if user_agent
                else None,
            },
            repeatable=False,
        )
        return read_log(response)

    @operation
    def log_usage_batch(self, events: Iterable[UsageEvent]) -> Operation[list[Outcome[UsageLog]]]:
        """Log many requests that were made with API keys.

        Calls the database function ``log_api_key_usage_batch``, as the service role, with at most
        1,000 events per request. Errors of the server or the connection are returned in the
        outcomes and not raised, so that no event is lost silently::

            for outcome in client.api_keys.log_usage_batch(events):
                if not outcome:
                    logger.error("not logged: %s: %s", events[outcome.index], outcome.error)

        A retry after a lost response writes no event twice. An event with a UsageLogError was not
        written. After any other error, such as a timeout, it may have been written. Events with a
        `log_id` may be passed again: they are written only once.

        Args:
            events: The requests, any number.

        Returns:
            An outcome for each event, in the order of the events.
        """
        # Converted one by one, because many models at once are work for the garbage collector.
        every_row = [_row(event) for event in each_item("events", events, UsageEvent)]
        outcomes: list[Outcome[UsageLog]] = []
        for first in range(0, len(every_row), _EVENTS_PER_REQUEST):
            rows = every_row[first : first + _EVENTS_PER_REQUEST]
            try:
                response = yield rpc("log_api_key_usage_batch", {"p_events": rows}, repeatable=True)
                outcomes += read_batch(response, first, len(rows))
            except AudienceLabError as error:
                outcomes += [Outcome(first + index, error=error) for index in range(len(rows))]
        return outcomes

    @listing
    def log(
        self,
        account_id: UUID | str,
        *,
        api_key_id: UUID | str | None = None,
        page_size: int = 100,
        cursor: str | None = None,
    ) -> Listing[LoggedRequest]:
        """List the requests that were made with the account's keys, newest first.

        Calls the database function ``api_key_log``, as the service role or as a user who is a
        member of the account.

        Args:
            account_id: The account.
            api_key_id: Only requests with this key.
            page_size: How many requests to fetch per request, 1 to 1000.
            cursor: The `cursor` of a page of the same list, to continue after that page.

        Returns:
            The first page. Iterating over it fetches the following pages as needed.

        Raises:
            PermissionDeniedError: The caller is a user who is not a member of the account, the
                account does not exist, or the client acts as an API key.
            NotFoundError: The key does not belong to the account.
        """
        arguments = of_account(account_id, api_key_id)
        listing = Listing(
            _LOGGED,
            by_parameters("api_key_log", arguments),
            checked_page_size(page_size),
            repr(arguments),
            time="timestamp",
        )
        return listing.starting_at(cursor)

    @operation
    def purge_logs(
        self, before: datetime, *, on_progress: Callable[[int], object] | None = None
    ) -> Operation[int]:
        """Delete the log of requests from before a time. `usage` still counts them.

        Calls the database function ``purge_api_key_logs``, as the service role, repeatedly, with at
        most 10,000 entries per request.

        Args:
            before: An aware datetime.
            on_progress: A plain function, called after each request with the number of entries
                deleted so far. If it raises an exception, the purge stops.

        Returns:
            The number of entries deleted.

        Raises:
            PermissionDeniedError: The client does not act as the service role.
        """
        arguments = {"p_before": checked_moment("before", before).isoformat()}
        total = 0
        while True:
            response = yield rpc("purge_api_key_logs", arguments, repeatable=True)
            deleted = read("purge_api_key_logs", _COUNT, response)
            if not deleted:
                return total
            total += deleted
            if on_progress:
                on_progress(total)

    @operation
    def usage(
        self,
        account_id: UUID | str,
        *,
        start: datetime,
        end: datetime,
        bucket: Literal["hour", "day", "month"] = "day",
        api_key_id: UUID | str | None = None,
    ) -> Operation[list[UsageCount]]:
        """Count the requests that were made with the account's keys, by key and hour, day or month.

        Calls the database function ``api_key_usage``, as the service role or as a user who is a
        member of the account. It counts all logged requests, also those that were purged.

        Args:
            account_id: The account.
            start: The beginning of the time to count, an aware datetime, rounded down to the hour.
            end: Its end, an aware datetime, rounded up to the hour.
            bucket: ``hour``, ``day`` or ``month``, in UTC.
            api_key_id: Only requests with this key.

        Returns:
            A count for each key and bucket with requests, ordered by bucket and key.

        Raises:
            PermissionDeniedError: The caller is a user who is not a member of the account, the
                account does not exist, or the client acts as an API key.
            NotFoundError: The key does not belong to the account.
            InvalidRequestError: `end` is before `start`, or the bucket is unknown.
        """
        arguments = {
            **of_account(account_id, api_key_id),
            "p_from": checked_moment("start", start).isoformat(),
            "p_to": checked_moment("end", end).isoformat(),
            "p_bucket": checked_text("bucket", bucket),
        }
        counts: list[UsageCount] = []
        # PostgREST truncates a response at a limit that it does not state.
        while rows := (yield from _usage_page(arguments, counts[-1] if counts else None)):
            counts += rows
        return counts


def of_account(account_id: Any, api_key_id: Any) -> dict[str, Any]:
    """Return the parameters of functions about an account, or one of its keys."""
    arguments = {"p_account_id": str(checked_uuid("account_id", account_id))}
    if api_key_id is not None:
        arguments["p_api_key_id"] = str(checked_uuid("api_key_id", api_key_id))
    return arguments


def _row(event: UsageEvent) -> dict[str, Any]:
    # With ids, the driver may retry after a lost response.
    new_id = {} if event.log_id else {"log_id": str(time_ordered_id())}
    return event.model_dump(mode="json", exclude_none=True) | new_id


def _usage_page(
    arguments: Mapping[str, Any], after: UsageCount | None
) -> Operation[list[UsageCount]]:
    def build(api: PostgrestClient) -> RequestBuilder:
        request = api.rpc("api_key_usage", dict(arguments))
        request = request.order("bucket").order("api_key_id").limit(_COUNTS_PER_REQUEST)
        if after is None:
            return request
        bucket = after.bucket.isoformat()
        return request.gte("bucket", bucket).or_(
            f"bucket.gt.{bucket},api_key_id.gt.{after.api_key_id}"
        )

    response = yield Request(build, repeatable=True)
    return read("api_key_usage", _COUNTS, response)
