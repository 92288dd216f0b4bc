"""The models have exactly the columns of the database.

The Supabase CLI generates the types of the migrated database, as for any project.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import psycopg
import pytest

from audiencelab_sdk import CreatedApiKey, EnrichmentJob, InvalidApiKey, Segment, ValidApiKey
from audiencelab_sdk._resources._usage_log import _Entry
from audiencelab_sdk.local import LocalStack
from tests.database._tools import CLI_SETTINGS, find_supabase_cli, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydantic import BaseModel

# Each generated class, and the models that read it.
MODELS: dict[str, Sequence[type[BaseModel]]] = {
    "PublicSegments": [Segment],
    "PublicEnrichmentTracking": [EnrichmentJob],
    "PublicCreateApiKeyResponse": [CreatedApiKey],
    "PublicVerifyApiKeyResponse": [ValidApiKey, InvalidApiKey],
    "PublicApiKeyUsageLogResponse": [_Entry],
}


def columns(generated: str) -> dict[str, set[str]]:
    """Return the fields of each class in the generated module."""
    return {
        node.name: {
            field.target.id
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        for node in ast.parse(generated).body
        if isinstance(node, ast.ClassDef)
    }


def differences(generated: str) -> list[str]:
    """Describe the columns that only one side has."""
    database = columns(generated)
    found: list[str] = []
    for name, models in MODELS.items():
        fields = {field for model in models for field in model.model_fields}
        found += [f"{name}: the models lack {each}" for each in sorted(database[name] - fields)]
        found += [f"{name}: the database lacks {each}" for each in sorted(fields - database[name])]
    return found


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack() as stack:
        yield stack


def generate(stack: LocalStack, folder: Path) -> str:
    program = str(find_supabase_cli())
    done = run(
        [program, "gen", "types", "--lang=python", "--schema=public", f"--remote={stack.db_url}"],
        folder=folder,
        environment={"HOME": str(folder), **CLI_SETTINGS},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_and_database_have_the_same_columns(stack: LocalStack, tmp_path: Path) -> None:
    assert differences(generate(stack, tmp_path)) == []


def test_a_column_on_one_side_only_is_found(stack: LocalStack, tmp_path: Path) -> None:
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute("alter table public.segments add column color text")
        connection.execute("alter table public.enrichment_tracking rename metadata to notes")
    assert differences(generate(stack, tmp_path)) == [
        "PublicSegments: the models lack color",
        "PublicEnrichmentTracking: the models lack notes",
        "PublicEnrichmentTracking: the database lacks metadata",
    ]
