"""What tells a process from the one that it was forked from."""

import os

_forks = 0


def this_process() -> tuple[int, int]:
    """This process: the pid alone may come again, and forks by C code run no hooks."""
    return (os.getpid(), _forks)


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_fork)
