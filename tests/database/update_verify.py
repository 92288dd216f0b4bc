"""Write the generated parts of supabase/verify.sql: `python -m tests.database.update_verify`.

Run it after a change of the migrations, and read the difference before committing it.
"""

from __future__ import annotations

import psycopg

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from tests.database._generated import literal, replaced, values
from tests.database._inventory import PUBLIC_FUNCTIONS, PUBLIC_TABLES, PUBLIC_TYPES
from tests.database._tools import ROOT

VERIFY = ROOT / "supabase" / "verify.sql"
_NAMES = "  with public_names (kind, name) as (\n    values\n", "\n  ),\n  our_schemas as (\n"
_EXPECTED = (
    "  expected (kind, object, facts) as (\n    values\n",
    "\n  )\n  select\n    coalesce(expected.kind, actual.kind),",
)


def verify_sql(admin_url: str) -> str:
    """The text of verify.sql for the inventory and this database, which has the migrations."""
    text = replaced(VERIFY.read_text(), *_NAMES, _public_names())
    return replaced(text, *_EXPECTED, _expected(text, admin_url))


def _public_names() -> str:
    names = [
        *(("table", name) for name in PUBLIC_TABLES),
        *(("type", name) for name in PUBLIC_TYPES),
        *(("function", function.rpc) for function in PUBLIC_FUNCTIONS),
    ]
    return values((f"{literal(kind)}, {literal(name)}" for kind, name in names), indent=6)


def _expected(text: str, admin_url: str) -> str:
    query = text[text.index("  with public_names") : text.index("  -- Written by `make sql` from")]
    query = query.rstrip(" \n,")
    with psycopg.connect(admin_url) as connection:
        connection.execute("set local search_path = ''")
        query += ' select kind, object, facts from actual order by kind, object collate "C"'
        rows = connection.execute(query.encode()).fetchall()
    return values(
        (
            f"{literal(kind)}, {literal(name)}, array[\n"
            + ",\n".join(f"        {literal(fact)}" for fact in facts)
            + "\n      ]"
            for kind, name, facts in rows
        ),
        indent=6,
    )


def main() -> None:
    """Bring verify.sql up to date."""
    with PostgresServer() as server:
        migrate.apply_platform(server.admin_url)
        migrate.apply_migrations(migrate.as_role(server.admin_url, "postgres"))
        VERIFY.write_text(verify_sql(server.admin_url))


if __name__ == "__main__":
    main()
