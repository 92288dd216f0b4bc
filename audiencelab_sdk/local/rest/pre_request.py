"""Call the pre-request function (`pgrst.db_pre_request`)."""

import functools
from collections.abc import Callable
from weakref import WeakKeyDictionary

import psycopg
from psycopg.sql import SQL, Identifier

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.terms import trusted


class PreRequest:
    """Calls the function, and requires that its result keeps its type on each connection.

    PostgREST calls the function with a statement that it prepares once per connection, and
    PostgreSQL refuses such a statement after a change of its result's type. psycopg prepares
    statements anew after each error, so that PostgreSQL would not notice.
    """

    def __init__(self) -> None:
        self._types: WeakKeyDictionary[psycopg.AsyncConnection, dict[str, int]] = (
            WeakKeyDictionary()
        )

    async def call(self, connection: psycopg.AsyncConnection, function: str) -> Callable[[], None]:
        """Send a call in a pipeline.

        Args:
            connection: The connection, in pipeline mode.
            function: The value of `pgrst.db_pre_request`.

        Returns:
            A function that checks the result, to call after the pipeline. It raises an ApiError
            (0A000) if the type is another than in the first call on this connection.
        """
        cursor = await connection.execute(_call(function))

        def check() -> None:
            description = cursor.description
            assert description is not None  # noqa: S101 - a select has a result
            code = description[0].type_code
            if self._types.setdefault(connection, {}).setdefault(function, code) != code:
                raise ApiError(400, "0A000", "cached plan must not change result type")

        return check


@functools.cache
def _call(function: str) -> SQL:
    # Like PostgREST, the name is taken as it is, up to the first dot: it has no quotes.
    schema, dot, name = function.partition(".")
    identifier = Identifier(schema, name) if dot else Identifier(function)
    # As text, because psycopg composes anything else for each request.
    return trusted(SQL("select {}()").format(identifier).as_string())
