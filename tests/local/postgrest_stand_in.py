"""A program that takes PostgREST's settings and serves this package's own REST application."""

import os
import sys

import uvicorn

from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings

settings = {name: value for name, value in os.environ.items() if name.startswith("PGRST_")}
if "PGRST_ODD" in settings:
    sys.exit("a setting of another PostgREST")
if "STAND_IN_FAILS" in os.environ:
    sys.exit("FatalError: no luck today")

app = create_app(
    Settings(
        db_url=settings["PGRST_DB_URI"],
        jwt_secret=settings["PGRST_JWT_SECRET"],
        schemas=tuple(settings["PGRST_DB_SCHEMAS"].split(",")),
        anonymous_role=settings["PGRST_DB_ANON_ROLE"],
        extra_search_path=tuple(settings["PGRST_DB_EXTRA_SEARCH_PATH"].split(",")),
        max_rows=int(settings["PGRST_DB_MAX_ROWS"]),
        pool_size=int(settings["PGRST_DB_POOL"]),
    )
)
uvicorn.run(
    app,
    host=settings["PGRST_SERVER_HOST"],
    port=int(settings["PGRST_SERVER_PORT"]),
    log_level="warning",
    headers=[("Stand-In", str(os.getpid()))],
)
