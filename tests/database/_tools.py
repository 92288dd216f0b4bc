"""Programs that some tests run and pip does not install: the Supabase CLI, pg_prove, psql."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
# Disables telemetry and the check for updates. The embedded server has no certificate.
CLI_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "SUPABASE_NO_UPDATE_NOTIFIER": "1",
    "SUPABASE_TELEMETRY_DISABLED": "1",
    "PGSSLMODE": "disable",
}


def unavailable(reason: str) -> NoReturn:
    """Skip the test on a developer's machine; in CI, where every program is installed, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_supabase_cli() -> Path:
    """The Supabase CLI that SUPABASE_CLI names, else that of the PATH, else of node_modules."""
    found = (
        os.environ.get("SUPABASE_CLI")
        or shutil.which("supabase")
        or shutil.which("supabase", path=str(ROOT / "node_modules" / ".bin"))
    )
    if not found:
        unavailable("the Supabase CLI is not installed: npm install --no-save supabase@3.1.0")
    return Path(found)


class SupabaseProject:
    """A copy of the folder `supabase`, in which the CLI may change files."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.migrations = folder / "supabase" / "migrations"
        self._program = program
        self._folder = folder
        shutil.copytree(ROOT / "supabase", folder / "supabase")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the CLI and answer each question with yes."""
        return run(
            [str(self._program), *arguments, "--yes"],
            folder=self._folder,
            environment={"HOME": str(self._folder), **CLI_SETTINGS},
        )


def run(
    command: list[str], *, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, at most two minutes, whatever its exit status is."""
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
