"""The embedded stack: PostgreSQL, migrations and REST API for a machine with nothing but Python."""

try:
    from audiencelab_sdk.local._stack import LocalStack
except ModuleNotFoundError as _error:
    # Only what the extra installs: a module of ours that is missing is another matter.
    _package = (_error.name or "").partition(".")[0]
    if _package not in {"psycopg", "psycopg_pool", "starlette", "uvicorn"}:
        raise
    raise ImportError(
        f"audiencelab_sdk.local needs the package {_package}: pip install 'audiencelab-sdk[local]'",
        name=_error.name,
    ) from _error

from audiencelab_sdk.local._errors import (
    LocalStackError,
    MigrationError,
    PostgresNotFoundError,
    PostgresStartError,
    PostgrestNotFoundError,
    PostgrestStartError,
)

__all__ = [
    "LocalStack",
    "LocalStackError",
    "MigrationError",
    "PostgresNotFoundError",
    "PostgresStartError",
    "PostgrestNotFoundError",
    "PostgrestStartError",
]
