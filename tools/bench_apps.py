"""Static files by aiohttp or by uvicorn with Starlette, each as one process: what we compare with.

Started by tools/bench_http.py as `bench_apps.py aiohttp|uvicorn DIR PORT`. Both run on uvloop,
write no access log, and have a backlog that takes every connection of the largest case.
"""

import sys
from pathlib import Path

BACKLOG = 4096


def main() -> None:
    name, directory, port = sys.argv[1:]
    {"aiohttp": serve_by_aiohttp, "uvicorn": serve_by_uvicorn}[name](Path(directory), int(port))


def serve_by_aiohttp(directory: Path, port: int) -> None:
    import uvloop
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", directory)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        access_log=None,
        backlog=BACKLOG,
        print=None,
        loop=uvloop.new_event_loop(),
    )


def serve_by_uvicorn(directory: Path, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    uvicorn.run(
        Starlette(routes=[Mount("/", StaticFiles(directory=directory))]),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
    )


if __name__ == "__main__":
    main()
