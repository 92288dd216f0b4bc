"""Functions that enrich records, at the top level of a module: processes find them here."""

import os
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import anyio.lowlevel


class UnpicklableError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses the assignment of attributes."""

    code: int


class MovedError(Exception):
    """A test removes it from this module."""


def double(record: int) -> int:
    return record * 2


async def double_later(record: int) -> int:
    await anyio.lowlevel.checkpoint()
    return record * 2


def odd_fails(record: int) -> int:
    if record % 2:
        raise ValueError(f"{record} is odd")
    return record


async def odd_fails_later(record: int) -> int:
    await anyio.lowlevel.checkpoint()
    return odd_fails(record)


def unpicklable_error(record: int) -> NoReturn:
    raise UnpicklableError(record, "rate limit")


def unpicklable_value(_: object) -> Any:
    return lambda: None


def leave_process(_: object) -> NoReturn:
    os._exit(3)


def leave_process_once(path: str) -> str:
    """End the worker process unless this file exists."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return path
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def send_half_a_result(path: str) -> None:
    """Write the start of a result to the process pool, create this file, and sleep."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back
        frame = frame.f_back
    frame.f_locals["result_queue"]._writer._send(struct.pack("!i", 1000))
    Path(path).touch()
    time.sleep(600)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def exit_python(_: object) -> NoReturn:
    sys.exit("no more")
