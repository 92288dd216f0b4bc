"""The examples run as they are, on the stack under test and on one that they start themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e._project import Project

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")
    }
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(QUICKSTART)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("named", [True, False])
def test_the_quickstart_tells_its_story(project: Project, named: bool) -> None:
    tenant = project.add_tenant()
    environment = {
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.service_role_key,
        "SUPABASE_JWT_SECRET": project.jwt_secret,
        "AUDIENCELAB_USER_ID": str(tenant.user_id),
        "AUDIENCELAB_ACCOUNT_ID": str(tenant.account_id),
    }
    result = run(environment if named else {})
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    account_id = tenant.account_id if named else "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
    for part in (
        "1. Ada creates a key",
        "49 characters",
        f"valid, of account {account_id}",
        "the same with a typing error: Invalid API key",
        "read a segment: yes",
        "write a segment: no",
        "log row",
        "refused: the API key does not exist",
        "verified: Invalid API key",
    ):
        assert part in result.stdout
    assert ("starting PostgreSQL" in result.stdout) is not named
    assert (project.url in result.stdout) is named


def test_the_quickstart_names_what_is_missing(project: Project) -> None:
    result = run({"SUPABASE_URL": project.url, "SUPABASE_KEY": "x"})
    assert result.returncode == 1
    assert result.stderr == "SUPABASE_URL is set; set SUPABASE_JWT_SECRET as well.\n"


def test_the_quickstart_is_short() -> None:
    assert len(QUICKSTART.read_text().splitlines()) < 100
