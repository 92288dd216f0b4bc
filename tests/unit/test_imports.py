"""What may import what, and what an import costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import audiencelab_sdk

PACKAGE = Path(audiencelab_sdk.__file__).parent

# From the top down; a module may import what stands below it, and of its own layer.
LAYERS = [
    {"__init__"},
    {"_client"},
    {"_resources"},
    {"_supabase"},
    {"_http", "_tokens"},
    {"_arguments", "_key_format"},
    {"_secrets"},
    {"models"},
    {"errors"},
    {"_limits", "_text", "_version"},
]
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> Iterator[tuple[str, Path]]:
    """The first component of each module below the package, and its file; not of `local`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name != "local":
            yield name, path


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports at run time, anywhere in the file."""
    tree = ast.parse(path.read_text())
    for_types_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in set(ast.walk(tree)) - for_types_only:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def components(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported(path) if name.startswith("audiencelab_sdk."))
    return {each[1] for each in parts if each[1] in RANKS or each[1] == "local"}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=str)
def test_imports_point_down(name: str, path: Path) -> None:
    for other in components(path) - {name}:
        assert other != "local"
        assert RANKS[name] < RANKS[other], f"{name} imports {other}"


def test_local_meets_the_client_over_http_only() -> None:
    for path in sorted((PACKAGE / "local").rglob("*.py")):
        assert components(path) <= {"local", "_version"}, path


def test_what_takes_long_is_imported_when_it_is_used() -> None:
    local = {"starlette", "psycopg", "uvicorn", "audiencelab_sdk.local"}
    heavy = {"supabase", "postgrest", "httpx", "jwt", *local}
    code = f"import sys, audiencelab_sdk; sys.exit(str(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_public_names_are_sorted_and_all_there() -> None:
    names = audiencelab_sdk.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert hasattr(audiencelab_sdk, name)
    documented = {
        name for name in vars(audiencelab_sdk) if name[0].isupper() and not name.startswith("_")
    }
    assert documented == {name for name in names if name != "__version__"}


def test_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
