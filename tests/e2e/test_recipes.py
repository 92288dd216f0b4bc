"""The recipes for Flask and Django, on gunicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from audiencelab_sdk import AudienceLab
from audiencelab_sdk.local._keeper_process import free_port
from tests._waiting import wait_until
from tests.e2e._scenarios import READ_SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e._project import Project

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
TEMPLATES = {
    "flask_app:app": "/v1/segments/<segment_id>",
    "django_app:application": "/v1/segments/<str:segment_id>",
}


@contextmanager
def serving(
    application: str, project: Project, url: str, bind: str, descriptors: tuple[int, ...] = ()
) -> Iterator[None]:
    """Run a recipe with the API at this URL until the end of the block."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "--threads=2"),
            *(f"--bind={bind}", "--log-level=warning", application),
        ],
        cwd=RECIPES,
        pass_fds=descriptors,
        env={**os.environ, "SUPABASE_URL": url, "SUPABASE_KEY": project.service_role_key},
    )
    try:
        yield
    finally:
        # Its workers send what they recorded when they end.
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def running(application: str, project: Project, url: str) -> Iterator[str]:
    """Serve a recipe over TCP until the end of the block. Gives the URL of a segment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        number = listener.fileno()
        with serving(application, project, url, f"fd://{number}", (number,)):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/segments/{uuid4()}"


@pytest.mark.parametrize("application", TEMPLATES)
def test_a_recipe(project: Project, application: str) -> None:
    tenant = project.add_tenant()
    with AudienceLab(project.url, project.service_role_key) as client:
        user = client.as_user(project.access_token(tenant.user_id))
        reader = user.api_keys.create(tenant.account_id, "reader", scopes=[READ_SEGMENTS])
        nobody = user.api_keys.create(tenant.account_id, "nobody")
        texts = (reader.key.get_secret_value(), nobody.key.get_secret_value(), "sk_no", "")
        with running(application, project, project.url) as url:
            responses = [httpx.get(url, headers={"X-API-Key": text}, timeout=30) for text in texts]
        assert [each.status_code for each in responses] == [200, 403, 401, 401]
        assert str(tenant.account_id) in responses[0].text
        wait_until(lambda: len(client.api_keys.log(tenant.account_id).items) >= 2)
        logged = client.api_keys.log(tenant.account_id).items
    assert {(each.endpoint, each.status_code) for each in logged} == {
        (TEMPLATES[application], 200),
        (TEMPLATES[application], 403),
    }


@pytest.mark.parametrize("application", TEMPLATES)
def test_a_recipe_without_the_database(project: Project, application: str) -> None:
    with running(application, project, f"http://127.0.0.1:{free_port()}") as url:
        key = "sk_" + "0" * 43
        response = httpx.get(url, headers={"X-API-Key": key}, timeout=30)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("application", TEMPLATES)
def test_a_recipe_behind_a_unix_socket(project: Project, application: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(application, project, project.url, f"unix:{path}"):
        wait_until(path.exists)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, headers={"X-API-Key": "sk_no"}) as client:
            response = client.get("http://localhost/v1/segments/1", timeout=30)
    assert response.status_code == 401
