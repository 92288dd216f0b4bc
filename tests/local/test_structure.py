"""Who may import whom: the embedded stack stands alone, and its REST layers stay apart."""

import ast
import sys
from pathlib import Path

import pytest

import audiencelab_sdk.local

LOCAL = Path(audiencelab_sdk.local.__file__).parent
FILES = sorted(LOCAL.rglob("*.py"))


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(LOCAL)))
def test_local_imports_nothing_of_the_client(file: Path) -> None:
    ours = {name for name in imports(file) if name.split(".")[0] == "audiencelab_sdk"}
    assert all(name.startswith("audiencelab_sdk.local") for name in ours)


@pytest.mark.parametrize("name", ["query", "scanner", "parse", "headers", "body"])
def test_reading_a_request_knows_no_sql(name: str) -> None:
    found = imports(LOCAL / "rest" / f"{name}.py")
    assert not {module for module in found if module.split(".")[0] == "psycopg"}
    assert not {module for module in found if module.endswith((".schema", ".render", ".terms"))}


@pytest.mark.parametrize("name", ["query", "schema", "terms", "render", "writes", "introspect"])
def test_sql_knows_no_http(name: str) -> None:
    found = imports(LOCAL / "rest" / f"{name}.py")
    assert not {module for module in found if module.split(".")[0] in {"starlette", "uvicorn"}}
    assert not {module for module in found if module.endswith((".headers", ".app", ".responses"))}


@pytest.mark.parametrize("name", ["_keeper_process", "_postgres_program", "_postgrest_program"])
def test_what_runs_by_path_needs_the_standard_library_only(name: str) -> None:
    modules = {module.split(".")[0] for module in imports(LOCAL / f"{name}.py")}
    assert modules <= sys.stdlib_module_names
