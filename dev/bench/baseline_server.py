"""One HTTP call per operation, without cache or spool: one committed UPDATE on a held connection.

Several calls at once share a pool of as many connections as a computing unit's pool has today.
`python -m dev.bench.baseline_server --port N`, with the database's URL in BASELINE_DATABASE_URL.
It checks no token, which is in its favour.
"""

import argparse
import asyncio
import os

import asyncpg
import uvloop
from aiohttp import web

from dev.ports import HOST

UPDATE_NAME = "UPDATE texera_db.workflow_executions SET name = $2 WHERE eid = $1"
CONNECTIONS = 10  # Hikari's maximum in a computing unit (Texera's SqlServer)
DATABASE_URL = "BASELINE_DATABASE_URL"


async def application(database_url: str) -> web.Application:
    connections: asyncio.LifoQueue[asyncpg.Connection[asyncpg.Record]] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        connections.put_nowait(await asyncpg.connect(database_url))

    async def change(request: web.Request) -> web.Response:
        changes = await request.json()
        execution_id = int(request.match_info["execution_id"])
        connection = await connections.get()  # not asyncpg's pool, whose reset is a round trip
        try:
            await connection.execute(UPDATE_NAME, execution_id, changes["name"])
        finally:
            connections.put_nowait(connection)
        return web.json_response({"state": "committed"})

    async def close(app: web.Application) -> None:
        while not connections.empty():
            await connections.get_nowait().close()

    app = web.Application()
    app.router.add_patch("/executions/{execution_id}", change)
    app.on_cleanup.append(close)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.bench.baseline_server")
    parser.add_argument("--port", type=int, required=True, metavar="N")
    port = parser.parse_args().port
    application_ = application(os.environ[DATABASE_URL])
    web.run_app(
        application_,
        host=HOST,
        port=port,
        print=None,
        keepalive_timeout=24 * 3600.0,  # its connection rests while reads are measured
        access_log=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
