"""The examples run unchanged, on the stack under test and on one that they start themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from audiencelab_sdk import AudienceLab, Scope
from tests.e2e._dask import dask_cluster

if TYPE_CHECKING:
    from tests.e2e._project import Project

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart.py"
CUSTOMER = "customer.py"
CLUSTER = "enrichment_cluster.py"
STORIES = {
    "segments.py": [
        "created 'US engineers' with 2 filters",
        "created 120 more at once",
        "listed 120 of them",
        "updated: US engineers, People who build things",
        "deleted; restored: US engineers",
    ],
    "enrichment_worker.py": [
        "is pending",
        "is completed: 400 records are processed",
        "8 of them failed",
    ],
    CLUSTER: [
        "is completed: 2000 records are processed",
        "1960 addresses were found, 40 were not",
    ],
    "rotation.py": [
        "the old key is valid",
        "the new key is valid",
        "switched off, the new key is disabled",
        "switched on, it may read segment 42 again",
    ],
    "admin.py": [
        "Back office: sk_",
        "3 requests, 1 errors",
        "rotate by service",
        "update by service",
        "create by service",
    ],
    "async_backend.py": ["90 of 100 requests had a valid key", "90 were logged at once"],
}


def environment_of(project: Project) -> dict[str, str]:
    tenant = project.add_tenant()
    return {
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.service_role_key,
        "SUPABASE_JWT_SECRET": project.jwt_secret,
        "AUDIENCELAB_USER_ID": str(tenant.user_id),
        "AUDIENCELAB_ACCOUNT_ID": str(tenant.account_id),
    }


def run(
    environment: dict[str, str], example: Path = QUICKSTART
) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SUPABASE_") and name != "AUDIENCELAB_API_KEY"
    }
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(example)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("named", [True, False])
def test_the_quickstart_prints_each_step(project: Project, named: bool) -> None:
    environment = environment_of(project)
    result = run(environment if named else {})
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    account_id = (
        environment["AUDIENCELAB_ACCOUNT_ID"] if named else "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
    )
    for part in (
        "1. Ada creates a key",
        "49 characters",
        f"valid, account {account_id}",
        "with a typing error: Invalid API key",
        "read a segment: yes",
        "write a segment: no",
        "log entry",
        "rejected: the API key does not exist",
        "verify: Invalid API key",
    ):
        assert part in result.stdout
    assert ("starting PostgreSQL" in result.stdout) is not named
    assert (project.url in result.stdout) is named


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("example", STORIES)
def test_the_examples_print_each_step(project: Project, example: str, named: bool) -> None:
    result = run(environment_of(project) if named else {}, EXAMPLES / example)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    for part in STORIES[example]:
        assert part in result.stdout


def test_the_enrichment_runs_on_a_cluster_if_the_environment_names_one(project: Project) -> None:
    name = "enrichment_cluster.py"
    with dask_cluster(workers=2) as (cluster, dask):
        environment = environment_of(project) | {"DASK_SCHEDULER": cluster.scheduler_address}
        result = run(environment, EXAMPLES / name)
        tasks = dask.run_on_scheduler(names_of_tasks)
    assert result.returncode == 0, result.stderr
    for part in STORIES[name]:
        assert part in result.stdout
    assert len({task for task in tasks if "run_chunk" in task}) == 40


def names_of_tasks(dask_scheduler: Any) -> list[str]:
    return [str(transition[0]) for transition in dask_scheduler.transition_log]


@pytest.mark.parametrize("named", [True, False])
def test_the_customers_script_needs_only_an_api_key(project: Project, named: bool) -> None:
    environment = {}
    if named:
        tenant = project.add_tenant()
        scope = Scope(entity_type="segment", entity_id="*", action="*")
        with AudienceLab(project.url, project.anon_key) as client:
            owner = client.as_user(project.access_token(tenant.user_id))
            key = owner.api_keys.create(tenant.account_id, "customer", scopes=[scope]).key
        environment = {
            "SUPABASE_URL": project.url,
            "SUPABASE_KEY": project.anon_key,
            "AUDIENCELAB_API_KEY": key.get_secret_value(),
        }
    result = run(environment, EXAMPLES / CUSTOMER)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for part in (
        "may read all segments: yes",
        "may write all segments: yes",
        "created 'US engineers', which is listed: True",
        "may not list keys: permission denied for function list_api_keys",
    ):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("example", "missing"),
    [
        (CUSTOMER, "AUDIENCELAB_API_KEY"),
        (CLUSTER, "SUPABASE_KEY"),
        *(
            (example, "SUPABASE_JWT_SECRET")
            for example in ("quickstart.py", *STORIES)
            if example != CLUSTER
        ),
    ],
)
def test_the_examples_name_missing_settings(project: Project, example: str, missing: str) -> None:
    settings = {"SUPABASE_URL": project.url, "SUPABASE_KEY": "x"}
    settings.pop(missing, None)
    result = run(settings, EXAMPLES / example)
    assert result.returncode == 1
    assert result.stderr == f"SUPABASE_URL is set; set {missing} as well.\n"


def test_the_examples_are_short() -> None:
    assert len(QUICKSTART.read_text().splitlines()) < 100
    for example in (*STORIES, CUSTOMER):
        assert len((EXAMPLES / example).read_text().splitlines()) < 80
    assert {"quickstart.py", CUSTOMER, *STORIES} == {path.name for path in EXAMPLES.glob("*.py")}
