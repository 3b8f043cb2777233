"""The servers that can be measured: how each is started, and what version of it is here.

All serve one directory on one loopback port with one core's worth of processes, and write nothing
outside the directory that they are given.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

APPS = Path(__file__).resolve().parent / "bench_apps.py"
HOST = "127.0.0.1"
# What every ratio is to.
REFERENCE = "nginx"


class BenchError(Exception):
    """One sentence for the person who started the tool: the run itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server finds its files, keeps its own, and listens."""

    site: Path
    folder: Path
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of the servers that can be measured."""

    name: str
    what: str
    command: Callable[[Place], list[str]]
    version: Callable[[], str]
    # It is judged by the targets.
    ours: bool = False
    # Said on standard output once it listens; without one, a connection that is taken says so.
    ready: str | None = None
    # What is still to do once it listens.
    prepare: Callable[[Place], list[str]] | None = None


# --- how each is started ---


def _p2pweb(*words: str) -> list[str]:
    return [sys.executable, "-m", "p2pweb", *words]


def _preview(place: Place) -> list[str]:
    return _p2pweb("preview", str(place.site), "--port", str(place.port), "--host", HOST)


def _peer(place: Place) -> list[str]:
    return _p2pweb(
        *("up", "--port", str(place.port), "--host", HOST, "--data", str(place.folder / "data"))
    )


def _publish(place: Place) -> list[str]:
    peer, key = f"{HOST}:{place.port}", str(place.folder / "key")
    return _p2pweb("publish", str(place.site), "--peer", peer, "--key", key)


def _app(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, str(APPS), name, str(place.site), str(place.port)]


_NGINX_MAIN = """\
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ {events} }}
http {{
    types {{ text/html html; }}
    default_type application/octet-stream;
{temporary}
    sendfile on;
    tcp_nopush on;
{settings}
}}
"""

_NGINX_TUNED = """\
    tcp_nodelay on;
    access_log off;
    open_file_cache max=1000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    server {{
        listen {host}:{port} backlog=4096;
        root {site};
    }}
"""

# The values of Debian's nginx.conf and of its default site.
_NGINX_AS_INSTALLED = """\
    types_hash_max_size 2048;
    access_log {folder}/access.log;
    gzip on;
    server {{
        listen {host}:{port};
        root {site};
        location / {{ try_files $uri $uri/ =404; }}
    }}
"""


def _nginx(settings: str, events: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        # Started by root, the worker would be another user, who cannot read the directory.
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        built = _nginx_says("-V")
        temporary = "\n".join(
            f"    {name}_temp_path {place.folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            if f"--without-http_{name}_module" not in built
        )
        config = place.folder / "nginx.conf"
        config.write_text(
            _NGINX_MAIN.format(
                user=user,
                folder=place.folder,
                events=events,
                temporary=temporary,
                settings=settings.format(
                    host=HOST, port=place.port, site=place.site, folder=place.folder
                ),
            )
        )
        return ["nginx", "-c", str(config), "-p", str(place.folder)]

    return command


# --- versions ---


def _nginx_says(flag: str) -> str:
    done = subprocess.run(["nginx", flag], capture_output=True, text=True, check=False)
    return done.stderr + done.stdout


def _nginx_version() -> str:
    return _nginx_says("-v").strip().rpartition("/")[2]


def _versions(*packages: str) -> Callable[[], str]:
    def versions() -> str:
        return ", ".join(f"{package} {version(package)}" for package in packages)

    return versions


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="p2pweb",
            what="p2pweb preview DIR",
            command=_preview,
            version=_versions("p2pweb", "uvloop"),
            ours=True,
            ready="p2pweb ready",
        ),
        Kind(
            name="p2pweb-peer",
            what="p2pweb up, with the directory published into it",
            command=_peer,
            version=_versions("p2pweb", "uvloop"),
            ours=True,
            ready="p2pweb ready",
            prepare=_publish,
        ),
        Kind(
            name="nginx",
            what="tuned: one worker, open_file_cache, no access log, endless keep-alive",
            command=_nginx(_NGINX_TUNED, "worker_connections 4096; multi_accept on;"),
            version=_nginx_version,
        ),
        Kind(
            name="nginx-default",
            what="Debian's default values (gzip, access log), but one worker, so one core",
            command=_nginx(_NGINX_AS_INSTALLED, "worker_connections 768;"),
            version=_nginx_version,
        ),
        Kind(
            name="aiohttp",
            what="web.static, one process, uvloop, no access log",
            command=_app("aiohttp"),
            version=_versions("aiohttp", "uvloop"),
        ),
        Kind(
            name="uvicorn",
            what="Starlette's StaticFiles, one process, uvloop, httptools, no access log",
            command=_app("uvicorn"),
            version=_versions("uvicorn", "starlette", "httptools", "uvloop"),
        ),
    )
}
