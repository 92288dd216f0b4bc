"""Helpers that let one test run against both clients."""

import inspect
import re
from typing import Any


async def maybe_await(value: Any) -> Any:
    """Return the result of a call to either client."""
    return await value if inspect.isawaitable(value) else value


async def close(client: Any) -> None:
    """Close either client."""
    await maybe_await(client.aclose() if hasattr(client, "aclose") else client.close())


def in_sync_words(text: str) -> str:
    """Rewrite a signature of the asynchronous client as the synchronous one has it."""
    text = text.replace("AsyncPages", "Page").replace("_async_running", "_running")
    text = re.sub(r"Async(?=AudienceLab|Client|Page|Driver|EnrichmentRun|Progress)", "", text)
    awaitable = re.compile(r"(?:collections\.abc\.)?Awaitable\[")
    while found := awaitable.search(text):
        end, depth = found.end(), 1
        while depth:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        text = text[: found.start()] + text[found.end() : end - 1] + text[end:]
    return text
