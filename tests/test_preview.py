"""A preview: the same answers as once published, and every change seen."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from http_request import head_of, request_of
from peer_processes import (
    PATIENCE_S,
    SAMPLE,
    assert_serves,
    files_of,
    free_ports,
    network,
    publish,
    run_cli,
)
from peer_processes import preview as preview_process

from p2pweb import preview as preview_module
from p2pweb.directory import Listing, list_directory
from p2pweb.hosts import Hosts
from p2pweb.http.messages import SHORT_BODY_BYTES_MAX, Body, Refusal, Response
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteKey
from p2pweb.preview import Preview, scan

SITE = SiteKey(bytes(32)).site


async def _no_body() -> bytes:
    return b""


async def ask(
    preview: Preview, target: str = "/", method: str = "GET", host: str = "a", fields: str = ""
) -> Response:
    request = request_of(head_of(target, fields, method, host))
    response = preview.handle(request, RequestBody(0, _no_body))
    return await response if inspect.isawaitable(response) else response


async def previewed(directory: Path) -> Preview:
    async def run(call):  # type: ignore[no-untyped-def]
        return call()

    workdir = directory.with_name("work")
    workdir.mkdir(exist_ok=True)
    preview = Preview(directory, workdir, Hosts(["a"], lambda: None), run, lambda: 4e9)
    await preview.start()
    return preview


def is_fresh(preview: Preview) -> bool:
    return preview._lease.until_s > asyncio.get_running_loop().time()


def bytes_of(body: bytes | Body) -> bytes:
    if isinstance(body, bytes):
        return body
    content = body.open()
    try:
        descriptor = content.fileno()
        assert descriptor is not None
        return os.pread(descriptor, body.size_bytes, 0)
    finally:
        content.close()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<p>one")
    (folder / "sub" / "index.html").write_text("<p>sub")
    (folder / "long.bin").write_bytes(bytes(SHORT_BODY_BYTES_MAX + 1))
    return folder


async def test_pages_redirects_and_nothing(site: Path) -> None:
    preview = await previewed(site)
    assert (await ask(preview)).body == b"<p>one"
    assert (await ask(preview, "/sub?q")).fields[0] == ("Location", "/sub/?q")
    assert (await ask(preview, "/none")).status == 404
    assert bytes_of((await ask(preview, "/long.bin")).body) == bytes(SHORT_BODY_BYTES_MAX + 1)
    assert (await ask(preview, method="POST")).status == 405
    assert (await ask(preview, method="OPTIONS")).status == 204
    assert (await ask(preview, "*", method="OPTIONS")).status == 204
    head = (await ask(preview, "/long.bin", method="HEAD")).body
    assert isinstance(head, Body)
    assert (head.size_bytes, head.pieces) == (SHORT_BODY_BYTES_MAX + 1, ())


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"{SITE}.evil.example", SITE],
    ids=["a name", "a site below a name", "a site"],
)
async def test_name_of_somebody_else_is_refused(site: Path, host: str) -> None:
    preview = await previewed(site)
    with pytest.raises(Refusal) as refused:
        await ask(preview, host=host)
    assert refused.value.status == 421


async def test_changes_are_seen_and_what_is_unchanged_is_not_read_again(site: Path) -> None:
    preview = await previewed(site)
    before = await ask(preview)
    assert is_fresh(preview)
    (site / "index.html").write_text("<p>two")
    (site / "new.html").write_text("<p>new")
    (site / "sub" / "index.html").unlink()
    kept = preview._snapshot.files["/long.bin"]  # type: ignore[union-attr]
    preview._lease.end()
    after = await ask(preview)
    assert after.body == b"<p>two"
    assert dict(after.fields)["ETag"] != dict(before.fields)["ETag"]
    assert before.lease is not after.lease
    assert (await ask(preview, "/new")).body == b"<p>new"
    assert (await ask(preview, "/sub/")).status == 404
    assert preview._snapshot.files["/long.bin"] is kept  # type: ignore[union-attr]


async def test_unchanged_directory_keeps_its_pages(site: Path) -> None:
    preview = await previewed(site)
    pages = preview._snapshot.pages  # type: ignore[union-attr]
    preview._lease.end()
    await ask(preview)
    assert preview._snapshot.pages is pages  # type: ignore[union-attr]


async def test_directory_that_is_gone_is_told_and_comes_back(site: Path) -> None:
    preview = await previewed(site)
    away = site.with_name("away")
    shutil.move(site, away)
    preview._lease.end()
    answer = await ask(preview)
    assert answer.status == 503
    assert isinstance(answer.body, bytes)
    assert b"there is no directory" in answer.body
    shutil.move(away, site)
    assert (await ask(preview)).body == b"<p>one"


@pytest.mark.parametrize("name", ["index.html", "long.bin"])
@pytest.mark.parametrize("change", ["replaced", "removed"])
async def test_file_that_changes_between_scan_and_answer_is_never_served_half(
    site: Path, name: str, change: str
) -> None:
    preview = await previewed(site)
    path = site / name
    path.unlink()
    if change == "replaced":
        path.write_text("other bytes")
    with pytest.raises(Refusal) as refused:
        bytes_of((await ask(preview, f"/{name}")).body)
    assert refused.value.status == 503
    assert not is_fresh(preview)
    expected = 200 if change == "replaced" else 404
    if name == "long.bin" or change == "replaced":
        assert (await ask(preview, f"/{name}")).status == expected


async def test_many_at_once_are_one_scan(site: Path) -> None:
    scans = 0
    preview = await previewed(site)

    async def run(call):  # type: ignore[no-untyped-def]
        nonlocal scans
        scans += 1
        await asyncio.sleep(0)
        return call()

    preview._run = run
    preview._lease.end()
    await asyncio.gather(*(ask(preview) for _ in range(20)))
    assert scans == 1


async def test_answer_of_a_state_that_is_over_is_not_repeated(site: Path) -> None:
    preview = await previewed(site)
    (site / "index.html").write_text("<p>words that are worth to be encoded" * 1000)
    await preview._scan()
    began, go = asyncio.Event(), asyncio.Event()

    async def held(call):  # type: ignore[no-untyped-def]
        began.set()
        await go.wait()
        return call()

    plain, preview._run = preview._run, held
    visit = asyncio.ensure_future(ask(preview, fields="Accept-Encoding: gzip\r\n"))
    await began.wait()
    preview._run = plain
    (site / "new.html").write_text("<p>new")
    await preview._scan()
    go.set()
    answer = await visit
    assert ("Content-Encoding", "gzip") in answer.fields
    assert answer.lease is not None
    assert answer.lease.until_s < 0
    assert is_fresh(preview)


async def test_file_that_goes_while_it_is_listed_is_left_out(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = site / "4913"

    def listed(directory: Path) -> Listing:
        probe.write_text("editors make such a file, and remove it at once")
        listing = list_directory(directory)
        probe.unlink()
        assert "/4913" in [file.path for file in listing.files]
        return listing

    monkeypatch.setattr(preview_module, "list_directory", listed)
    snapshot = scan(site, None)
    assert "/4913" not in snapshot.files
    assert scan(site, snapshot).pages is snapshot.pages


def rescans_to_come(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the timers that are set for another scan."""
    loop = asyncio.get_running_loop()
    plain = loop.call_later
    timers: list[asyncio.TimerHandle] = []

    def call_later(
        delay: float, callback: Callable[..., object], *more: object
    ) -> asyncio.TimerHandle:
        timer = plain(delay, callback, *more)
        if getattr(callback, "__func__", None) is Preview._start_scan:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", call_later)
    return lambda: sum(not timer.cancelled() for timer in timers)


async def test_one_scan_follows_another_however_many_there_were(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = await previewed(site)
    to_come = rescans_to_come(monkeypatch)
    for _ in range(5):
        preview._lease.end()
        await ask(preview)
    assert to_come() == 1
    await preview.close()
    assert to_come() == 0


async def test_no_scan_follows_the_one_that_outlasts_the_preview(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = await previewed(site)
    await ask(preview)
    to_come = rescans_to_come(monkeypatch)
    began, go = asyncio.Event(), asyncio.Event()

    async def held(call):  # type: ignore[no-untyped-def]
        began.set()
        await go.wait()
        return call()

    preview._run = held
    preview._start_scan()
    await began.wait()
    closing = asyncio.ensure_future(preview.close())
    await asyncio.sleep(0)
    go.set()
    await closing
    assert to_come() == 0


def test_preview_answers_as_a_peer_does_once_published(tmp_path: Path) -> None:
    # Where a log may be written beside it.
    site = tmp_path / "site"
    shutil.copytree(SAMPLE, site)
    with preview_process(site) as preview:
        assert_serves(preview, files_of(SAMPLE))
        with network(tmp_path / "peers", 1) as (peer,):
            publish(SAMPLE, peer, tmp_path / "key")
            for path in [*files_of(SAMPLE), "/", "/none", "/guide", "/%2e%2e/x", "/a%2fb"]:
                for method, fields in (
                    ("GET", {}),
                    ("HEAD", {}),
                    ("OPTIONS", {}),
                    ("POST", {}),
                    ("GET", {"Accept_Encoding": "br, gzip;q=0.5"}),
                    ("GET", {"Range": "bytes=1-5"}),
                    ("GET", {"Range": "bytes=0-1,50-51", "Accept_Encoding": "gzip"}),
                    ("GET", {"If_None_Match": "*"}),
                ):
                    here, there = (one.get(path, method, **fields) for one in (preview, peer))
                    for answer in (here, there):
                        for name in ("Date", "Last-Modified"):
                            answer.fields.pop(name, None)
                    assert here == there, (method, path, fields)
        assert preview.process is not None and preview.process.stdout is not None
        preview.process.send_signal(signal.SIGTERM)
        assert preview.process.stdout.read().endswith("stopping\n")
        assert preview.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in preview.log.read_text()


def test_wrong_words_are_one_sentence(tmp_path: Path, site: Path) -> None:
    port = str(free_ports(1)[0])
    for words, says in (
        ([str(tmp_path / "none")], "there is no directory"),
        ([str(site), "--host", "192.0.2.1"], "no such address to listen on"),
        ([str(site), "--access-log", str(tmp_path)], "cannot write the access log"),
        ([str(site), "--access-log-format", "json"], "needs --access-log FILE"),
    ):
        done = run_cli("preview", *words, "--port", port)
        assert done.returncode == 1
        assert done.stderr.startswith("p2pweb: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
