"""Programs that people use read a site: every byte right, and not a word of complaint."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from peer_processes import (
    PATIENCE_S,
    ROOT,
    SAMPLE,
    PeerProcess,
    files_of,
    network,
    preview,
    publish,
    run_cli,
)

EXAMPLE = ROOT.parent / "shared" / "sites" / "static-website-example"
# Answers that clients take for the site's own must not come from a proxy in between.
ENVIRONMENT = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}

# The file whose download is cut; 1024 is the largest that a site may have.
RESUME_MIB = int(os.environ.get("P2PWEB_RESUME_MIB", "24"))
CUTS = 3


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, env=ENVIRONMENT, check=False
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SAMPLE, id="sample"),
        pytest.param(
            EXAMPLE,
            id="example",
            marks=pytest.mark.skipif(
                not EXAMPLE.is_dir(), reason="the example site is not beside the project"
            ),
        ),
    ],
)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a site, without what is never published."""
    hidden = shutil.ignore_patterns(".*")
    return shutil.copytree(request.param, tmp_path_factory.mktemp("site") / "site", ignore=hidden)


@pytest.fixture(scope="module", params=["preview", "peer"])
def server(
    request: pytest.FixtureRequest, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PeerProcess]:
    """A preview of the site, or a peer that has not got it and fetches it from the other."""
    if request.param == "preview":
        with preview(site) as process:
            yield process
        return
    folder = tmp_path_factory.mktemp("peers")
    with network(folder, 2) as peers:
        publish(site, peers[0], folder / "key", "--copies", "1")
        yield peers[1]


@needs("curl")
def test_curl_gets_every_file_on_one_connection(
    server: PeerProcess, site: Path, tmp_path: Path
) -> None:
    words = ["curl", "-q", "--silent", "--show-error", "--fail", "--create-dirs"]
    for path in files_of(site):
        words += ["--output", f"{tmp_path}{path}", f"http://{server.address}{path}"]
    done = run(*words, "--write-out", "%{stderr}%{num_connects} ")
    # Each answer tells how many connections had to be opened for it.
    assert done.stderr.split() == ["1"] + ["0"] * (len(files_of(site)) - 1)
    assert done.returncode == 0
    assert files_of(tmp_path) == files_of(site)


@needs("curl")
def test_curl_gets_every_file_compressed(server: PeerProcess, site: Path, tmp_path: Path) -> None:
    words = ["curl", "-q", "--silent", "--show-error", "--fail", "--create-dirs", "--compressed"]
    for path in files_of(site):
        words += ["--output", f"{tmp_path}{path}", f"http://{server.address}{path}"]
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path) == files_of(site)


@needs("wget")
def test_wget_mirrors_the_site_by_its_links(
    server: PeerProcess, site: Path, tmp_path: Path
) -> None:
    flags = ("--no-config", "--no-verbose", "--recursive", "--page-requisites")
    places = ("--no-host-directories", "--directory-prefix", str(tmp_path))
    done = run("wget", *flags, *places, f"http://{server.address}/")
    # It asks for /robots.txt by itself, and any other fault makes another exit code.
    assert done.returncode == 0, done.stderr
    got, files = files_of(tmp_path), files_of(site)
    got.pop("/robots.txt", None)
    # A file keeps the query that it was asked for with, and a page at a clean URL no suffix.
    wrong = [name for name, data in got.items() if data not in saved_as(files, name)]
    assert wrong == []
    assert len(got) >= len([path for path in files if path.endswith(".html")])


def saved_as(files: dict[str, bytes], name: str) -> list[bytes | None]:
    path = name.partition("?")[0]
    return [files.get(path + suffix) for suffix in ("", ".html", "/index.html")]


async def test_aiohttp_gets_every_file(server: PeerProcess, site: Path) -> None:
    async with aiohttp.ClientSession(f"http://{server.address}") as session:

        async def read(path: str) -> bytes:
            async with session.get(path) as response:
                assert response.status == 200
                return await response.read()

        files = files_of(site)
        bodies = await asyncio.gather(*(read(path) for path in files))
        assert dict(zip(files, bodies, strict=True)) == files


NODE_SCRIPT = """
const { createHash } = require("node:crypto");
const [origin, ...paths] = process.argv.slice(1);
const read = async (path) => {
  const response = await fetch(origin + path);
  const body = Buffer.from(await response.arrayBuffer());
  return [path, response.status, createHash("sha256").update(body).digest("hex")];
};
Promise.all(paths.map(read)).then((rows) => console.log(JSON.stringify(rows)));
"""


@needs("node")
def test_node_fetches_every_file(server: PeerProcess, site: Path) -> None:
    if run("node", "--eval", "process.exit(typeof fetch === 'function' ? 0 : 1)").returncode:
        pytest.skip("this Node has no fetch: it is older than 18")
    files = files_of(site)
    done = run("node", "--eval", NODE_SCRIPT, "--", f"http://{server.address}", *files)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [
        [path, 200, hashlib.sha256(data).hexdigest()] for path, data in files.items()
    ]


@needs("curl")
def test_a_download_that_is_cut_goes_on_at_other_peers(tmp_path: Path) -> None:
    film = tmp_path / "site" / "film.mp4"
    film.parent.mkdir()
    wanted = write_noise(film, RESUME_MIB)
    size_bytes = film.stat().st_size
    got = tmp_path / "got"
    with network(tmp_path / "peers", CUTS + 1) as peers:
        patience_s = PATIENCE_S + RESUME_MIB
        words = ("publish", str(film.parent), "--peer", peers[0].address)
        done = run_cli(*words, "--key", str(tmp_path / "key"), "--json", patience_s=patience_s)
        assert done.returncode in (0, 2), done.stderr
        urls = [f"http://{peer.address}/film.mp4" for peer in peers]
        etag = peers[0].get("/film.mp4", "HEAD").fields["ETag"]

        had_bytes = 0
        for number, url in enumerate(urls[:CUTS], 1):
            had_bytes = cut(url, got, size_bytes * number // (CUTS + 1))
            assert had_bytes < size_bytes, "it was not cut"
        # curl sends Range; the field that makes it safe comes from the first peer's answer.
        flags = ("--continue-at", "-", "--header", f"If-Range: {etag}", "--output", str(got))
        last = ("curl", "-q", "--silent", "--show-error", "--fail", *flags)
        status = subprocess.run(
            (*last, "--write-out", "%{http_code} %{size_download}", urls[CUTS]),
            capture_output=True,
            text=True,
            timeout=patience_s,
            env=ENVIRONMENT,
            check=True,
        )
        assert (status.stdout, status.stderr) == (f"206 {size_bytes - had_bytes}", "")
        with got.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == wanted

        # Bytes of another version must not be joined to these.
        other = peers[1].get("/film.mp4", Range=f"bytes={size_bytes - 9}-", If_Range='"other"')
        assert (other.status, len(other.body)) == (200, size_bytes)


def write_noise(path: Path, size_mib: int) -> bytes:
    """Fill a file; its SHA-256."""
    noise, digest = random.Random(1), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size_mib):
            piece = noise.randbytes(1024 * 1024)
            file.write(piece)
            digest.update(piece)
    return digest.digest()


def cut(url: str, got: Path, at_bytes: int) -> int:
    """Go on with a download, and kill the client once so much is here; how much that is."""
    pace = f"{max(1, RESUME_MIB // 3)}M"
    words = ("curl", "-q", "--silent", "--show-error", "--fail", "--limit-rate", pace)
    with subprocess.Popen(
        (*words, "--continue-at", "-", "--output", str(got), url),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not got.exists() or got.stat().st_size < at_bytes:
            assert time.monotonic() < deadline, "the download does not come on"
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read())
        process.kill()
        process.wait(PATIENCE_S)
    return got.stat().st_size
