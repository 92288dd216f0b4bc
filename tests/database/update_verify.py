"""Write what supabase/verify.sql expects: `python -m tests.database.update_verify`.

Run it after a change of the migrations, and read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer

VERIFY = Path(__file__).parents[2] / "supabase" / "verify.sql"
BEGIN = "  expected (kind, object, facts) as (\n    values\n"
END = "\n  )\n  select\n    coalesce(expected.kind, actual.kind),"


def expectations(admin_url: str) -> str:
    """The rows of `expected`, as SQL, for the database as it is."""
    text = VERIFY.read_text()
    query = text[text.index("  with our_schemas") : text.index("  -- Written by")].rstrip(" \n,")
    with psycopg.connect(admin_url) as connection:
        connection.execute("set local search_path = ''")
        query += ' select kind, object, facts from actual order by kind, object collate "C"'
        rows = connection.execute(query.encode()).fetchall()
    return ",\n".join(
        f"      ({_quoted(kind)}, {_quoted(name)}, array[\n"
        + ",\n".join(f"        {_quoted(fact)}" for fact in facts)
        + "\n      ])"
        for kind, name, facts in rows
    )


def updated(expected: str) -> str:
    """The text of verify.sql with these expectations."""
    text = VERIFY.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + expected + END + rest.split(END)[1]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def main() -> None:
    """Bring verify.sql up to date."""
    with PostgresServer() as server:
        migrate.apply_platform(server.admin_url)
        migrate.apply_migrations(migrate.as_role(server.admin_url, "postgres"))
        VERIFY.write_text(updated(expectations(server.admin_url)))


if __name__ == "__main__":
    main()
