"""The pytest plugin: its fixtures, and that it imports the SDK only where one is used."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import sys

def test_nothing_is_imported():
    assert "audiencelab_pytest" in sys.modules
    assert "audiencelab_sdk" not in sys.modules

def test_fixtures(audiencelab_create_key, audiencelab_client, audiencelab_account):
    from audiencelab_sdk import Scope

    read = Scope(entity_type="segment", entity_id="*", action="read")
    caller = audiencelab_client.api_keys.authenticate(audiencelab_create_key(read).key)
    assert caller.account_id == audiencelab_account
    assert caller.allows("segment", "1", "read")
"""


def test_the_plugin_of_the_distribution(tmp_path: Path) -> None:
    (tmp_path / "test_backend.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
