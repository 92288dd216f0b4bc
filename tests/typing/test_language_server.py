"""What an editor shows about the methods, by pyright's language server."""

import html
import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import audiencelab_sdk
from audiencelab_sdk import AsyncAudienceLab, AudienceLab
from tests.typing._language_server import LanguageServer

RESULTS = {
    "sync.api_keys.create": "CreatedApiKey",
    "sync.api_keys.verify": "ValidApiKey | InvalidApiKey",
    "sync.api_keys.list": "Page[ApiKey]",
    "sync.segments.update": "Segment",
    "sync.enrichment.list": "Page[EnrichmentJob]",
    "sync.enrichment.track": "Progress",
    "asynchronous.api_keys.create": "Coroutine[Any, Any, CreatedApiKey]",
    "asynchronous.api_keys.verify": "Coroutine[Any, Any, ValidApiKey | InvalidApiKey]",
    "asynchronous.api_keys.list": "AsyncPages[ApiKey]",
    "asynchronous.segments.update": "Coroutine[Any, Any, Segment]",
    "asynchronous.enrichment.list": "AsyncPages[EnrichmentJob]",
    "asynchronous.enrichment.track": "AsyncProgress",
}
DOCUMENT = [
    "from audiencelab_sdk import AsyncAudienceLab, AudienceLab",
    "def use(sync: AudienceLab, asynchronous: AsyncAudienceLab) -> None:",
    *(f"    {method}()" for method in RESULTS),
]
CLIENTS = SimpleNamespace(
    sync=AudienceLab("https://a.supabase.co", "key"),
    asynchronous=AsyncAudienceLab("https://a.supabase.co", "key"),
)


class Shown(NamedTuple):
    signature: str
    documentation: str


Editor = Callable[[str], Shown]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    document = tmp_path_factory.mktemp("workspace") / "document.py"
    document.write_text("\n".join(DOCUMENT))
    command = [sys.executable, "-m", "pyright.langserver", "--stdio"]
    with LanguageServer(command, document, {"python": {"pythonPath": sys.executable}}) as server:
        yield server


@pytest.fixture(params=["hover", "signature help"])
def editor(request: pytest.FixtureRequest, server: LanguageServer) -> Editor:
    """Return what an editor shows at a method's name, or inside the parentheses of its call."""

    def ask(feature: str, method: str, offset: int) -> Any:
        call = f"    {method}()"
        line = DOCUMENT.index(call)
        return server.ask(f"textDocument/{feature}", line, call.index("(") + offset)

    def hover(method: str) -> Shown:
        markdown = ask("hover", method, -1)["contents"]["value"]
        code, _, documentation = markdown.removeprefix("```python\n").partition("\n```\n---\n")
        name = method.rpartition(".")[2]
        return Shown(code.partition(f" {name}")[2].removeprefix(": "), documentation)

    def signature_help(method: str) -> Shown:
        (signature,) = ask("signatureHelp", method, 1)["signatures"]
        return Shown(signature["label"], signature["documentation"]["value"])

    return hover if request.param == "hover" else signature_help


def words(text: str) -> list[str]:
    """Return the words of a docstring, or of the Markdown rendered from it."""
    text = html.unescape(text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r":\w+:(?=`)|[`\\]", "", text)
    return [word for word in text.split() if word != ":"]


@pytest.mark.parametrize("method", RESULTS)
def test_the_editor_shows_every_parameter(editor: Editor, method: str) -> None:
    parameters = editor(method).signature.rpartition(" -> ")[0]

    function = attrgetter(method)(CLIENTS)
    # The names in the annotations are those of the module that defines the method.
    namespace = dict(inspect.unwrap(function).__globals__)
    exec(f"def shown{parameters}: ...", namespace)
    assert parameters_of(namespace["shown"]) == parameters_of(function)


@pytest.mark.parametrize("method", RESULTS)
def test_the_editor_shows_the_result(editor: Editor, method: str) -> None:
    result = editor(method).signature.rpartition(" -> ")[2]

    public = {name: getattr(audiencelab_sdk, name) for name in audiencelab_sdk.__all__}
    names = public | {"Any": Any, "Coroutine": Coroutine, "CoroutineType": Coroutine}
    assert eval(result, names) == eval(RESULTS[method], names)


@pytest.mark.parametrize("method", RESULTS)
def test_the_editor_shows_the_whole_docstring(editor: Editor, method: str) -> None:
    documentation = editor(method).documentation

    docstring = inspect.getdoc(attrgetter(method.replace("asynchronous", "sync"))(CLIENTS))
    assert docstring
    assert words(documentation) == words(docstring)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())
