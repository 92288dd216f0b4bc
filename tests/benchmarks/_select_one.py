"""The minimal Python REST server: one route that runs `select 1` on a pooled connection."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

pool: AsyncConnectionPool[psycopg.AsyncConnection] = AsyncConnectionPool(
    os.environ["DB_URL"], min_size=1, max_size=10, open=False
)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
    async with pool:
        yield


async def select_one(_request: Request) -> JSONResponse:
    async with pool.connection() as connection:
        cursor = await connection.execute("select 1")
        return JSONResponse(await cursor.fetchone())


app = Starlette(routes=[Route("/", select_one)], lifespan=lifespan)
