"""Find, start and stop PostgREST on a machine that has one."""

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from audiencelab_sdk.local._errors import (
    LocalStackError,
    PostgrestNotFoundError,
    PostgrestStartError,
)
from audiencelab_sdk.local._keeper import Keeper, KeeperError
from audiencelab_sdk.local.rest.database import Settings

RestChoice = Literal["embedded", "postgrest"]

_PROGRAM = Path(__file__).with_name("_postgrest_program.py")


def find_postgrest(choice: RestChoice | None) -> Path | None:
    """Return the path of PostgREST, or None for this package's own REST application.

    Args:
        choice: Which of the two to use. None means PostgREST if it is installed.

    Raises:
        LocalStackError: `choice` is not one of these values.
        PostgrestNotFoundError: PostgREST was chosen but is not installed, or
            `AUDIENCELAB_POSTGREST_BIN` is not the path of an executable.
    """
    if choice not in {None, *get_args(RestChoice)}:
        raise LocalStackError(f"rest must be 'embedded' or 'postgrest', not {choice!r}.")
    if choice == "embedded":
        return None
    named = os.environ.get("AUDIENCELAB_POSTGREST_BIN")
    found = shutil.which(named or "postgrest")
    if found:
        return Path(found).absolute()
    if named:
        raise PostgrestNotFoundError(
            f"AUDIENCELAB_POSTGREST_BIN is {named}, which is not an executable."
        )
    if choice == "postgrest":
        raise PostgrestNotFoundError(
            "There is no program postgrest on the PATH. Install PostgREST, or set "
            "AUDIENCELAB_POSTGREST_BIN to its path."
        )
    return None


class PostgrestServer:
    """PostgREST on a free port of 127.0.0.1.

    It stops at the end of the `with` block or of the Python process.

    Args:
        program: The path of PostgREST.
        settings: The database and what to expose of it.

    Raises:
        PostgrestStartError: PostgREST did not start; the message ends with its output (from
            `start`).
    """

    def __init__(self, program: Path, settings: Settings) -> None:
        options = {"executable": str(program), "environment": _environment(settings)}
        self._keeper = Keeper("PostgREST", _PROGRAM, options)
        self._port = 0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start PostgREST and return when it accepts requests."""
        try:
            self._port = self._keeper.start()
        except KeeperError as error:
            raise PostgrestStartError(str(error)) from error

    def stop(self) -> None:
        """Stop PostgREST. Does nothing if it is not running."""
        self._keeper.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _environment(settings: Settings) -> dict[str, str]:
    # The caller's own PostgREST settings must not change this server.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PGRST_")}
    limit = {} if settings.max_rows is None else {"PGRST_DB_MAX_ROWS": str(settings.max_rows)}
    return inherited | {
        **limit,
        "PGRST_DB_URI": settings.db_url,
        "PGRST_DB_SCHEMAS": ",".join(settings.schemas),
        "PGRST_DB_ANON_ROLE": settings.anonymous_role,
        "PGRST_DB_EXTRA_SEARCH_PATH": ",".join(settings.extra_search_path),
        "PGRST_DB_POOL": str(settings.pool_size),
        "PGRST_JWT_SECRET": settings.jwt_secret,
        "PGRST_LOG_LEVEL": "crit",
    }
