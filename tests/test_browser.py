"""Pages of a published site in a real browser: no failed request, nothing on the console."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from peer_processes import PATIENCE_S, ROOT, SAMPLE, network, preview, publish

CHROMIUM = next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)
EXAMPLE = ROOT.parent / "shared" / "sites" / "static-website-example"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Nothing but this machine is asked: the example site names a font on another host.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    *("--remote-debugging-port=0", "--window-size=1280,900", "about:blank"),
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@dataclass
class Visit:
    """What a page asked for, and what went wrong."""

    origin: str
    requests: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    screenshot: bytes = b""


@asynccontextmanager
async def browser() -> AsyncIterator[str]:
    """A Chromium of its own; the URL of its first page's debugging socket."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while b"DevTools listening on" not in (line := await process.stderr.readline()):
                    assert line, "Chromium has ended"
                port = line.decode().rpartition("ws://")[2].partition("/")[0]
                url = f"http://{port}/json/list"
                async with aiohttp.ClientSession() as session, session.get(url) as response:
                    targets = await response.json()
            yield next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
        finally:
            process.kill()
            await process.communicate()


async def visit(socket_url: str, url: str) -> Visit:
    """Open a page and listen to it until its network is quiet."""
    seen = Visit(url[: url.index("/", len("http://"))])
    async with aiohttp.ClientSession() as session, session.ws_connect(socket_url) as socket:
        answers: dict[int, Any] = {}
        counter = iter(range(1, 1_000))

        async def hear() -> dict[str, Any]:
            message: dict[str, Any] = await socket.receive_json(timeout=PATIENCE_S)
            if "id" in message:
                answers[message["id"]] = message.get("result")
            else:
                note(seen, message["method"], message["params"])
            return message

        async def ask(method: str, **params: object) -> Any:
            number = next(counter)
            await socket.send_json({"id": number, "method": method, "params": params})
            while number not in answers:
                await hear()
            return answers[number]

        for domain in ("Network", "Log", "Runtime", "Page"):
            await ask(f"{domain}.enable")
        await ask("Page.setLifecycleEventsEnabled", enabled=True)
        frame = (await ask("Page.navigate", url=url))["loaderId"]
        while True:
            message = await hear()
            params = message.get("params", {})
            if params.get("name") == "networkIdle" and params.get("loaderId") == frame:
                break
        picture = await ask("Page.captureScreenshot")
        seen.screenshot = base64.b64decode(picture["data"])
    return seen


def note(seen: Visit, method: str, params: dict[str, Any]) -> None:
    """Take down a request, or a fault of what this origin serves.

    Two things are not the peer's: what a page asks of other hosts, and the icon that browsers ask
    for by themselves where the page names none.
    """

    def ours(url: str | None) -> bool:
        return url is None or (
            url.startswith(f"{seen.origin}/") and url != f"{seen.origin}/favicon.ico"
        )

    match method:
        case "Network.requestWillBeSent":
            seen.requests[params["requestId"]] = params["request"]["url"]
        case "Network.responseReceived" if params["response"]["status"] >= 400:
            if ours(params["response"]["url"]):
                seen.faults.append(f"{params['response']['url']}: {params['response']['status']}")
        case "Network.loadingFailed":
            url = seen.requests.get(params["requestId"])
            if ours(url):
                seen.faults.append(f"{url} failed: {params['errorText']}")
        case "Runtime.exceptionThrown":
            seen.faults.append(f"exception: {params['exceptionDetails']['text']}")
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
            seen.faults.append(f"console: {params['args']}")
        case "Log.entryAdded" if params["entry"]["level"] == "error":
            if ours(params["entry"].get("url")):
                seen.faults.append(f"log: {params['entry']['text']}")


@pytest.mark.parametrize(
    ("site", "pages", "requests"),
    [
        pytest.param(SAMPLE, ["/", "/how-it-works", "/gallery/", "/notes"], 4, id="sample"),
        pytest.param(
            EXAMPLE,
            ["/"],
            10,
            id="example",
            marks=pytest.mark.skipif(
                not EXAMPLE.is_dir(), reason="the example site is not beside the project"
            ),
        ),
    ],
)
async def test_pages_open_through_a_third_peer_without_a_fault(
    tmp_path: Path, site: Path, pages: list[str], requests: int
) -> None:
    with network(tmp_path / "peers", 3) as peers:
        await asyncio.to_thread(publish, site, peers[0], tmp_path / "key")
        async with browser() as socket_url:
            for number, page in enumerate(pages):
                seen = await visit(socket_url, f"http://{peers[2].address}{page}")
                keep_screenshot(f"{site.name}-{number}.png", seen.screenshot)
                assert seen.faults == [], f"{page} of {site.name}"
                if number == 0:
                    assert len(seen.requests) >= requests
                assert seen.screenshot.startswith(b"\x89PNG")


async def test_pages_open_through_a_preview_without_a_fault(tmp_path: Path) -> None:
    site = shutil.copytree(EXAMPLE if EXAMPLE.is_dir() else SAMPLE, tmp_path / "site")
    with preview(site) as server:
        async with browser() as socket_url:
            seen = await visit(socket_url, f"http://{server.address}/")
        assert seen.faults == []


async def test_a_missing_page_shows_the_sites_own_404_page(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 1) as peers:
        await asyncio.to_thread(publish, SAMPLE, peers[0], tmp_path / "key")
        async with browser() as socket_url:
            url = f"http://{peers[0].address}/no/such/page"
            seen = await visit(socket_url, url)
        keep_screenshot("404.png", seen.screenshot)
        assert [fault for fault in seen.faults if not fault.startswith("log:")] == [f"{url}: 404"]


async def test_no_page_reads_the_status_of_the_peer_that_serves_it(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(
        """<!doctype html><title>curious</title><script>
        fetch("/.well-known/p2pweb/status", {headers: {Connection: "p2pweb-status"}})
            .then(answer => answer.text().then(() => fetch("/answered-" + answer.status)))
            .then(answer => answer.text());
        </script>"""
    )
    with network(tmp_path / "peers", 1) as peers:
        await asyncio.to_thread(publish, site, peers[0], tmp_path / "key")
        async with browser() as socket_url:
            seen = await visit(socket_url, f"http://{peers[0].address}/")
    assert f"{seen.origin}/answered-403" in seen.requests.values()


def keep_screenshot(name: str, data: bytes) -> None:
    """In the folder that P2PWEB_SCREENSHOTS names, for a person to look at."""
    if folder := os.environ.get("P2PWEB_SCREENSHOTS"):
        Path(folder, name).write_bytes(data)
