"""Tell the caches of this process which API keys the process changes, through any client."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID
from weakref import WeakValueDictionary

from audiencelab_sdk.models import ApiKeyAuthentication


@dataclass(frozen=True)
class KeyChange:
    """A change of one API key, or of all keys that a user created.

    Attributes:
        api_key_id: The key.
        created_by: The user.
    """

    api_key_id: UUID | None = None
    created_by: UUID | None = None

    def concerns(self, answer: ApiKeyAuthentication) -> bool:
        """Return whether the change may contradict an answer of the database."""
        if self.api_key_id is not None:
            return answer.api_key_id == self.api_key_id
        return answer.created_by == self.created_by


class KeyListener(Protocol):
    """A cache."""

    def forget(self, change: KeyChange) -> None:
        """Forget the answers that a change may contradict."""


# A dictionary, because a copy of its values is atomic: threads may add listeners meanwhile.
_listeners: WeakValueDictionary[int, KeyListener] = WeakValueDictionary()


def add_listener(listener: KeyListener) -> None:
    """Tell a listener of all changes until nothing else refers to it."""
    _listeners[id(listener)] = listener


@contextmanager
def announced(change: KeyChange) -> Generator[None]:
    """Announce a change after the block, also if it fails.

    After an error such as a lost response, the database may have carried out the change.
    """
    try:
        yield
    finally:
        listeners = (reference() for reference in _listeners.valuerefs())
        for listener in filter(None, listeners):
            listener.forget(change)
