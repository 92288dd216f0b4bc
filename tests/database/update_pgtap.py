"""Write the inventory into supabase/tests/privileges.test.sql."""

from __future__ import annotations

from tests.database._generated import literal, replaced, values
from tests.database._inventory import PUBLIC_FUNCTIONS, Function
from tests.database._tools import ROOT

PRIVILEGES = ROOT / "supabase" / "tests" / "privileges.test.sql"
_API = "insert into api (function, callers)\nvalues\n", ";\n\nselect set_eq(\n"


def privileges_test() -> str:
    """The text of privileges.test.sql for the inventory."""
    return replaced(PRIVILEGES.read_text(), *_API, values(map(_row, PUBLIC_FUNCTIONS), indent=2))


def _row(function: Function) -> str:
    callers = "{" + ",".join(sorted(function.executors)) + "}"
    return f"{literal(function.signature)}, {literal(callers)}"


if __name__ == "__main__":
    PRIVILEGES.write_text(privileges_test())
