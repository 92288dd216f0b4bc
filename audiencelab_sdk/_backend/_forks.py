"""Objects that a forked child must not use as its parent left them."""

import os
from typing import Protocol
from weakref import WeakValueDictionary


class Resettable(Protocol):
    """An object with locks and tasks, which a child does not inherit."""

    def reset(self) -> None:
        """Become as new. Called in the child, before anything else runs there."""


_objects: WeakValueDictionary[int, Resettable] = WeakValueDictionary()


def reset_in_children(resettable: Resettable) -> None:
    """Reset an object in each child process, until nothing else refers to it."""
    _objects[id(resettable)] = resettable


def _reset_all() -> None:
    for resettable in list(_objects.values()):
        resettable.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_all)
