"""The recipes for Flask and Django, on gunicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from audiencelab_sdk import AudienceLab
from tests.e2e._scenarios import READ_SEGMENTS

if TYPE_CHECKING:
    from tests.e2e._project import Project

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
TEMPLATES = {
    "flask_app:app": "/v1/segments/<segment_id>",
    "django_app:application": "/v1/segments/<str:segment_id>",
}


@pytest.mark.parametrize("application", TEMPLATES)
def test_a_recipe(project: Project, application: str) -> None:
    tenant = project.add_tenant()
    with AudienceLab(project.url, project.service_role_key) as client:
        user = client.as_user(project.access_token(tenant.user_id))
        reader = user.api_keys.create(tenant.account_id, "reader", scopes=[READ_SEGMENTS])
        nobody = user.api_keys.create(tenant.account_id, "nobody")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            server = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "--threads=2"),
                    *(f"--bind=fd://{listener.fileno()}", "--log-level=warning", application),
                ],
                cwd=RECIPES,
                pass_fds=[listener.fileno()],
                env={
                    **os.environ,
                    "SUPABASE_URL": project.url,
                    "SUPABASE_KEY": project.service_role_key,
                },
            )
            try:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/segments/{uuid4()}"
                responses = [
                    httpx.get(url, headers={"X-API-Key": text}, timeout=30)
                    for text in (
                        reader.key.get_secret_value(),
                        nobody.key.get_secret_value(),
                        "sk_no",
                        "",
                    )
                ]
            finally:
                # Its workers send what they recorded when they end.
                server.terminate()
                server.wait(timeout=30)
        assert [each.status_code for each in responses] == [200, 403, 401, 401]
        assert str(tenant.account_id) in responses[0].text
        deadline = time.monotonic() + 10
        while len(logged := client.api_keys.log(tenant.account_id).items) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert {(each.endpoint, each.status_code) for each in logged} == {
        (TEMPLATES[application], 200),
        (TEMPLATES[application], 403),
    }
