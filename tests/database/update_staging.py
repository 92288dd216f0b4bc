"""Build supabase/staging_migration_20250115.sql: `python -m tests.database.update_staging`.

The file contains all migrations except the stand-in, in one transaction, for the SQL editor.
"""

from __future__ import annotations

from audiencelab_sdk.local import _migrate as migrate
from tests.database._tools import ROOT

STAGING = ROOT / "supabase" / "staging_migration_20250115.sql"
_BEGIN = "begin;\n"
_SETTINGS_END = "set local client_min_messages = warning;\n"
_COMMIT = "commit;\n"
_TITLE = """\
-- All AudienceLab migrations, for the dashboard's SQL editor: paste the whole file and click Run.
--
-- One transaction, safe to run again, before or after `supabase db push`. Built by `make sql` from
-- the files in supabase/migrations: change those.

"""


def staging_migration() -> str:
    """The migrations as one transaction."""
    _stand_in, *files = migrate.migration_files()
    texts = [file.read_text() for file in files]
    settings = texts[0][texts[0].index(_BEGIN) : _end_of_settings(texts[0])]
    bodies = "".join(
        f"\n-- {file.name}\n{text[_end_of_settings(text) : text.rindex(_COMMIT)]}"
        for file, text in zip(files, texts, strict=True)
    )
    return _TITLE + settings + bodies + _COMMIT


def _end_of_settings(text: str) -> int:
    return text.index(_SETTINGS_END) + len(_SETTINGS_END)


if __name__ == "__main__":
    STAGING.write_text(staging_migration())
