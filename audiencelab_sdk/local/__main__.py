"""The command `python -m audiencelab_sdk.local`, which runs the embedded stack."""

import argparse
import json
import signal
import sys
from typing import NoReturn

import psycopg

from audiencelab_sdk.local._errors import LocalStackError
from audiencelab_sdk.local._stack import LocalStack

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Start the stack, print its URLs and keys, wait for a signal, and return the exit status."""
    for number in _STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup
            signal.signal(number, _exit)
    arguments = _parser().parse_args()
    stack = LocalStack(port=arguments.port, data_dir=arguments.data_dir, rest=arguments.rest)
    try:
        with stack:
            _print(json.dumps(_values(stack)) if arguments.json else _env(_values(stack)))
            while True:
                signal.pause()
    except (LocalStackError, psycopg.Error, OSError) as error:
        print(str(error).strip(), file=sys.stderr)  # noqa: T201 - a command
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m audiencelab_sdk.local",
        description="PostgreSQL with the project's schema and seed, and a REST API like "
        "Supabase's, on 127.0.0.1. Prints URLs and keys in the format of `supabase status -o env`, "
        "and runs until Ctrl-C.",
    )
    parser.add_argument("--port", type=_port, default=0, help="API port; by default any free one")
    parser.add_argument("--data-dir", metavar="DIR", help="keep the data in this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--rest",
        choices=["embedded", "postgrest"],
        help="serve the API with this package's own REST application, or with the PostgREST of "
        "AUDIENCELAB_POSTGREST_BIN or the PATH; by default with PostgREST if it is installed",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 65535")
    return port


def _values(stack: LocalStack) -> dict[str, str]:
    return {
        "ANON_KEY": stack.anon_key,
        "API_URL": stack.url,
        "DB_URL": stack.db_url,
        "JWT_SECRET": stack.jwt_secret,
        "PUBLISHABLE_KEY": stack.publishable_key,
        "SECRET_KEY": stack.secret_key,
        "SERVICE_ROLE_KEY": stack.service_role_key,
    }


def _env(values: dict[str, str]) -> str:
    return "\n".join(f'{name}="{value}"' for name, value in values.items())


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command


def _exit(_number: int, _frame: object) -> NoReturn:
    # A second Ctrl-C must not interrupt the shutdown.
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
