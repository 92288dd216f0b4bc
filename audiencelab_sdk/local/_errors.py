"""What can go wrong while the embedded stack starts.

::

    LocalStackError
    ├── PostgresNotFoundError
    ├── PostgresStartError
    └── MigrationError
"""


class LocalStackError(RuntimeError):
    """The embedded stack cannot do what it was asked to do."""


class PostgresNotFoundError(LocalStackError):
    """No PostgreSQL programs were found on this machine."""


class PostgresStartError(LocalStackError):
    """PostgreSQL was found, but did not start; the message ends with its own log."""


class MigrationError(LocalStackError):
    """A migration, the seed or the platform's SQL is missing or was refused by PostgreSQL."""
