"""The embedded stack: PostgreSQL, migrations and a REST API, for machines with only Python."""

try:
    from audiencelab_sdk.local._stack import LocalStack
except ModuleNotFoundError as _error:
    # Any other missing module is a bug, not a missing extra.
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
