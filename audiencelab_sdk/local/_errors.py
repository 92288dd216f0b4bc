"""Errors of the embedded stack.

::

    LocalStackError
    ├── PostgresNotFoundError
    ├── PostgresStartError
    ├── PostgrestNotFoundError
    ├── PostgrestStartError
    └── MigrationError
"""


class LocalStackError(RuntimeError):
    """The base class of all errors of the embedded stack."""


class PostgresNotFoundError(LocalStackError):
    """PostgreSQL is not installed."""


class PostgresStartError(LocalStackError):
    """PostgreSQL did not start; the message gives the reason or ends with its log."""


class PostgrestNotFoundError(LocalStackError):
    """PostgREST was chosen but is not installed."""


class PostgrestStartError(LocalStackError):
    """PostgREST did not start; the message ends with its output."""


class MigrationError(LocalStackError):
    """A migration or the seed is missing, or PostgreSQL rejected a statement."""
