"""Visitors of the peers that tools/survive kills, and the judge of every answer that they get.

A body must be exactly one version's; what a peer has shown to be live it may never go back behind,
also not in its next life. Whether bytes are due is simple here: `publish` counted more copies than
there are ever peers down, so each file has a living holder at any time, and no 503 is right.
"""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import brotli
import zstandard
from survive_peers import Files, Peer

ANSWER_S = 30.0
# News of a version that is live reaches a peer that is there within so long.
NEWS_S = 30.0
MISSING = ".none"
ENCODINGS = ["gzip", "br", "zstd", "gzip, br", "gzip, br, zstd", "identity", "*;q=0.1, gzip;q=0"]


@dataclass(frozen=True, slots=True)
class Ask:
    path: str
    accepts: str | None = None
    span: tuple[int, int] | None = None  # First byte, and the one after the last.

    @property
    def kind(self) -> str:
        if self.path.endswith(MISSING):
            return "missing"
        return "range" if self.span else "encoded" if self.accepts else "plain"

    @property
    def fields(self) -> dict[str, str]:
        fields = {"Accept-Encoding": self.accepts} if self.accepts else {}
        if self.span:
            fields["Range"] = f"bytes={self.span[0]}-{self.span[1] - 1}"
        return fields


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    peer: int
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s, peer {self.peer}, {self.path}: {self.what}"


class Judge:
    """Knows every version, and which each peer has shown."""

    def __init__(self, versions: Mapping[int, Files]) -> None:
        self._versions = versions
        self._shown: Counter[int] = Counter()  # Peer -> the highest seq that it served for certain.

    def shown(self, peer: int) -> int:
        """To be asked before a request is sent: what comes later may be as old."""
        return self._shown[peer]

    def fault(self, peer: int, shown: int, ask: Ask, answer: Answer) -> str | None:
        """What is wrong with an answer to a question sent when the peer had shown `shown`."""
        known = [files[ask.path] for files in self._versions.values() if ask.path in files]
        if answer.status == 503 and known:
            return f"503 while holders live: {_text(answer.body)}"
        possible = [seq for seq, files in self._versions.items() if _is_right(files, ask, answer)]
        if not possible:
            if answer.status == 404:
                return "404 for what every version has"
            right = f"{len(known)} versions have it" if known else "no version has it"
            return f"{answer.status} with {len(answer.body)} bytes that are not right; {right}"
        if max(possible) < shown:
            return f"version {max(possible)} after version {shown}"
        # Where several would do, only the lowest of them is certain.
        least = min(seq for seq in possible if seq >= shown)
        self._shown[peer] = max(self._shown[peer], least)
        return None

    def is_old(self, ask: Ask, answer: Answer) -> bool:
        """Whether it is certainly not the newest version's."""
        return not _is_right(self._versions[max(self._versions)], ask, answer)


def _is_right(files: Files, ask: Ask, answer: Answer) -> bool:
    whole = files.get(ask.path)
    if whole is None:
        return answer.status == 404
    if ask.span is None:
        return answer.status == 200 and _decoded(answer) == whole
    start, stop = ask.span[0], min(ask.span[1], len(whole))
    if start >= len(whole):
        return (
            answer.status == 416 and answer.fields.get("Content-Range") == f"bytes */{len(whole)}"
        )
    where = f"bytes {start}-{stop - 1}/{len(whole)}"
    return (
        answer.status == 206
        and answer.fields.get("Content-Range") == where
        and answer.body == whole[start:stop]
    )


def _decoded(answer: Answer) -> bytes | None:
    try:
        match answer.fields.get("Content-Encoding", "identity"):
            case "identity":
                return answer.body
            case "gzip":
                return zlib.decompress(answer.body, wbits=31)
            case "br":
                return bytes(brotli.decompress(answer.body))
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(answer.body)
    except (zlib.error, brotli.error, zstandard.ZstdError):
        pass
    return None


def _text(page: bytes) -> str:
    return " ".join(page.decode(errors="replace").split())[-200:]


@dataclass
class Visits:
    """What all visitors together have seen."""

    peers: list[Peer]
    judge: Judge
    began_s: float = field(default_factory=time.monotonic)
    asked: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    latencies_s: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    news_s: float = 0.0
    """The latest that a peer served what was old: since the new version was live, and it ready."""
    live_s: float | None = None
    ready_s: dict[int, float] = field(default_factory=dict)
    _sessions: dict[tuple[int, int], aiohttp.ClientSession] = field(default_factory=dict)

    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    def blame(self, peer: Peer, path: str, what: str) -> None:
        self.faults.append(Fault(self.now_s(), peer.number, path, what))

    def _session(self, peer: Peer) -> aiohttp.ClientSession:
        """Connections are kept alive for one life of a peer."""
        key = (peer.number, peer.lives)
        if key not in self._sessions:
            self._sessions[key] = aiohttp.ClientSession(
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
            )
        return self._sessions[key]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def ask(self, peer: Peer, ask: Ask) -> Answer | None:
        """Ask a peer that is ready, and judge; None where its death cut the answer off."""
        life, shown, sent_s = peer.lives, self.judge.shown(peer.number), self.now_s()
        self.asked[ask.kind] += 1
        try:
            async with self._session(peer).get(
                peer.url + ask.path, headers=ask.fields, allow_redirects=False
            ) as response:
                answer = Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if peer.is_ready and peer.lives == life:
                self.blame(peer, ask.path, f"no answer: {type(error).__name__} {error}")
            else:
                self.cut_off += 1
            return None
        self.latencies_s.append(self.now_s() - sent_s)
        if (what := self.judge.fault(peer.number, shown, ask, answer)) is not None:
            self.blame(peer, ask.path, f"{what} ({ask.kind})")
        elif self.live_s is not None and self.judge.is_old(ask, answer):
            late_s = sent_s - max(self.live_s, self.ready_s.get(peer.number, 0.0))
            self.news_s = max(self.news_s, late_s)
            if late_s > NEWS_S:
                self.blame(peer, ask.path, f"still old {late_s:.1f} s after the news")
        return answer

    async def browse(self, rng: random.Random, paths: list[str], pause_s: float) -> None:
        """One visitor, who goes from one living peer to another until cancelled."""
        while True:
            await asyncio.sleep(rng.expovariate(1 / pause_s))
            ready = [peer for peer in self.peers if peer.is_ready]
            if ready:
                await self.ask(rng.choice(ready), next_ask(rng, paths))

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return 1e3 * ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def next_ask(rng: random.Random, paths: list[str]) -> Ask:
    path = rng.choice(paths)
    kind = rng.random()
    if kind < 0.1:
        return Ask(f"{path}.{rng.randrange(100)}{MISSING}")
    if kind < 0.5:
        return Ask(path, accepts=rng.choice(ENCODINGS))
    if kind < 0.7:
        start = int(rng.expovariate(1 / 100_000))
        return Ask(path, span=(start, start + 1 + int(rng.expovariate(1 / 50_000))))
    return Ask(path)
