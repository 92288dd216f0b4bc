"""What can go wrong while the embedded stack starts.

::

    LocalStackError
    ├── PostgresNotFoundError
    ├── PostgresStartError
    ├── PostgrestNotFoundError
    ├── PostgrestStartError
    └── MigrationError
"""


class LocalStackError(RuntimeError):
    """The embedded stack cannot do what it was asked to do."""


class PostgresNotFoundError(LocalStackError):
    """No PostgreSQL programs were found on this machine."""


class PostgresStartError(LocalStackError):
    """PostgreSQL was found, but did not start; the message ends with its own log."""


class PostgrestNotFoundError(LocalStackError):
    """PostgREST was asked for, and its program is not where it should be."""


class PostgrestStartError(LocalStackError):
    """PostgREST was found, but did not start; the message ends with its own output."""


class MigrationError(LocalStackError):
    """A migration, the seed or the platform's SQL is missing or was refused by PostgreSQL."""
