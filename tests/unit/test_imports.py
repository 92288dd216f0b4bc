"""What each module of the package imports, and what an import of the package costs."""

import ast
import gc
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import audiencelab_sdk
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments

PACKAGE = Path(audiencelab_sdk.__file__).parent

# From the top down. A module imports from its own layer and from those below it. `local` is in
# none of them: it meets the client over HTTP only.
LAYERS = (
    ("starlette", "fastapi", "testing"),
    ("_asgi",),
    ("__init__",),
    ("_backend",),
    ("_client",),
    ("_resources",),
    ("_supabase",),
    ("_http",),
    ("_tokens",),
    ("_signing_keys",),
    ("_arguments", "_key_format"),
    ("_secrets",),
    ("models",),
    ("errors",),
    ("_ids", "_limits", "_loops", "_process", "_text", "_version"),
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def dotted(path: Path) -> str:
    """The name of a module below the package; a package itself is its `__init__`."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def first_part(name: str) -> str:
    return name.partition(".")[0]


LOCAL = [name for name in MODULES if first_part(name) == "local"]
CLIENT = [name for name in MODULES if name not in LOCAL]


def syntax(path: Path) -> ast.Module:
    # On Python 3.11, `ast.parse` fails if the garbage collector runs a finalizer that also parses,
    # for example to format the traceback of a warning.
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def imported(name: str, *, for_types: bool = True) -> set[str]:
    """The modules that a module imports anywhere; those below the package by their short names."""
    tree = syntax(MODULES[name])
    only_for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in only_for_types and not for_types:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(each if short(each) in MODULES else str(node.module) for each in names)
    return {short(each) for each in found}


def short(name: str) -> str:
    """The name of a module below the package, and a colon before the names of all others."""
    if name == "audiencelab_sdk":
        return "__init__"
    ours = name.removeprefix("audiencelab_sdk.")
    return ours if ours != name else f":{name}"


def third_parties(name: str) -> set[str]:
    others = {each[1:] for each in imported(name) if each.startswith(":")}
    return {first_part(each) for each in others} - sys.stdlib_module_names


def test_each_module_of_the_client_is_in_a_layer() -> None:
    assert {first_part(name) for name in CLIENT} == set(RANKS)


@pytest.mark.parametrize("name", CLIENT)
def test_imports_point_down(name: str) -> None:
    layer = first_part(name)
    below = {other for other in RANKS if RANKS[layer] < RANKS[other]}
    ours = imported(name, for_types=False) & {*MODULES}
    assert {first_part(other) for other in ours} <= {layer, *below}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: imported(name) & {*MODULES} for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # a circle raises CycleError
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("name", LOCAL)
def test_local_imports_nothing_of_the_client(name: str) -> None:
    assert imported(name) & {*MODULES} <= {*LOCAL}


@pytest.mark.parametrize("name", ["query", "scanner", "parse", "headers", "body"])
def test_what_reads_a_request_imports_nothing_of_sql(name: str) -> None:
    sql = {"local.rest.schema", "local.rest.render", "local.rest.terms"}
    assert not imported(f"local.rest.{name}") & sql
    assert "psycopg" not in third_parties(f"local.rest.{name}")


@pytest.mark.parametrize("name", ["query", "schema", "terms", "render", "writes", "introspect"])
def test_what_writes_sql_imports_nothing_of_http(name: str) -> None:
    http = {"local.rest.headers", "local.rest.app", "local.rest.responses"}
    assert not imported(f"local.rest.{name}") & http
    assert not third_parties(f"local.rest.{name}") & {"starlette", "uvicorn"}


@pytest.mark.parametrize("name", ["_keeper_process", "_postgres_program", "_postgrest_program"])
def test_a_program_that_runs_by_its_path_needs_the_standard_library_only(name: str) -> None:
    assert third_parties(f"local.{name}") == set()


def test_only_the_http_layer_imports_httpx() -> None:
    importing = {first_part(name) for name in CLIENT if "httpx" in third_parties(name)}
    assert importing == {"_http"}


def test_no_public_signature_has_a_type_of_httpx() -> None:
    public = [getattr(audiencelab_sdk, name) for name in audiencelab_sdk.__all__]
    resources = [ApiKeys, Segments, Enrichment]
    signatures = [
        str(inspect.signature(member))
        for owner in filter(inspect.isclass, [*public, *resources])
        for name, member in inspect.getmembers(owner, inspect.isroutine)
        if not name.startswith("_") or name == "__init__"
        if hasattr(member, "__code__")
    ]
    assert len(signatures) > 60
    assert not [signature for signature in signatures if "httpx" in signature]


def test_slow_packages_are_imported_when_they_are_used() -> None:
    local = {"starlette", "fastapi", "limits", "psycopg", "uvicorn", "audiencelab_sdk.local"}
    slow = {"supabase", "postgrest", "httpx", "jwt", "cryptography", "cachetools", *local}
    code = f"import sys, audiencelab_sdk; sys.exit(str(sorted({slow} & set(sys.modules))))"
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


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
