"""The command `python -m audiencelab_sdk.local.rest`, which serves any database."""

import argparse
import contextlib
import sys

import psycopg
import uvicorn

from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import HOST, server_config


def main() -> int:
    """Parse the arguments, serve until a signal, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m audiencelab_sdk.local.rest")
    parser.add_argument(
        "--db-url",
        required=True,
        help="connection string of a role that may switch to the roles of all tokens; "
        "its settings pgrst.db_pre_request and pgrst.db_max_rows apply, as with PostgREST",
    )
    parser.add_argument(
        "--jwt-secret", required=True, help="HS256 secret of at least 32 bytes, or a JWK or JWKS"
    )
    parser.add_argument("--schemas", default="public", help="exposed schemas, comma-separated")
    parser.add_argument("--anon-role", default="anon", help="role of requests without a token")
    parser.add_argument("--max-rows", type=int, default=1000, help="most rows per response")
    parser.add_argument("--port", type=int, default=3000, help="port on 127.0.0.1")
    arguments = parser.parse_args()
    try:
        app = create_app(
            Settings(
                db_url=arguments.db_url,
                jwt_secret=arguments.jwt_secret,
                schemas=tuple(arguments.schemas.split(",")),
                anonymous_role=arguments.anon_role,
                max_rows=arguments.max_rows,
            )
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        psycopg.connect(arguments.db_url).close()
    except psycopg.Error as error:
        print(f"The database cannot be reached: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    server = uvicorn.Server(server_config(app, host=HOST, port=arguments.port))
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
