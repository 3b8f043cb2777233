"""Judges what visitors get of a site: knows what was published, and nothing of how peers work.

A body has to be exactly that of one version. On one disk a version follows no higher one. A path
that every version has is never answered 404; 503 is right only while nobody in reach has the bytes
that the version has which the peer is at. Among hostile peers, which make others wait, a 503 is no
violation, but counts as not found like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from p2pweb.sim.ledger import Ledger
from p2pweb.sim.visit import Answer

SITE = "site"
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Asked:
    """One get, as far as it is judged."""

    path: str
    # Which peer, and which disk it has.
    where: str
    disk: Hashable
    began_s: float
    # The newest generation published before.
    expected: int


@dataclass(frozen=True, slots=True)
class _Served:
    """A body that was right, and which generations have it at that path."""

    disk: Hashable
    where: str
    path: str
    began_s: float
    ended_s: float
    generations: tuple[int, ...]


class SiteChecks:
    """One site, published in generations 1, 2, 3 …, each with all of the same paths."""

    def __init__(self, ledger: Ledger, *, among_liars: bool = False) -> None:
        self._ledger = ledger
        self._among_liars = among_liars
        self._by_bytes: dict[tuple[str, bytes], list[int]] = {}
        self._files: list[Mapping[str, bytes]] = []
        # Of the generations that were published at the first try: others may have been live in
        # part, under another seq.
        self._seqs: dict[int, int] = {}
        self._served: list[_Served] = []

    def publishing(self, files: Mapping[str, bytes]) -> int:
        """The next generation is on its way, and may be served from now on; its number."""
        self._files.append(files)
        generation = len(self._files)
        for path, data in files.items():
            key = (path, hashlib.sha256(data).digest())
            self._by_bytes.setdefault(key, []).append(generation)
        self._ledger.sending(SITE, generation)
        return generation

    def published(self, generation: int, seq: int, took_s: float, *, tries: int) -> None:
        """A generation is live, as far as its publisher knows."""
        self._ledger.acknowledged(SITE, generation, took_s)
        if tries == 1:
            self._seqs[generation] = seq

    def answered(
        self,
        asked: Asked,
        answer: Answer,
        now_s: float,
        seqs: Sequence[int],
        is_held: Callable[[bytes], bool],
    ) -> None:
        """Judge an answer. `seqs` are what the peer was at when the get began, and when it ended;
        `is_held` says whether a peer in reach that has lived since has a file's bytes."""
        times_s = (asked.began_s, answer.began_s - asked.began_s, now_s - asked.began_s)
        status, path = answer.status, asked.path
        what = f"{path} through {asked.where} at {now_s:.3f} s"
        if path not in self._files[-1]:
            if status not in (404, 503):
                self._ledger.violated(f"{what}: {status} for what was never published")
            self._ledger.got(ABSENT, [], 0, times_s, is_proved=status == 404)
            return
        generations: list[int] = []
        if status == 200 and answer.is_whole:
            digest = hashlib.sha256(answer.body).digest()
            generations = self._by_bytes.get((path, digest), [])
            if not generations:
                self._ledger.wrong_bodies += 1
                self._ledger.violated(f"{what}: bytes that no version has")
            served = _Served(
                asked.disk, asked.where, path, asked.began_s, now_s, tuple(generations)
            )
            self._served.append(served)
        elif status in (200, 503):
            # Which of the versions meanwhile it was asked for, nobody knows.
            bodies = [self._files[one - 1][path] for one in self._generations(seqs)]
            if not self._among_liars and bodies and all(is_held(data) for data in bodies):
                problem = "503" if status == 503 else "the body broke off"
                self._ledger.violated(f"{what}: {problem}, and a peer in reach has the bytes")
        elif asked.expected or status != 404:
            self._ledger.violated(f"{what}: {status}")
        newest = [generations[-1]] if generations else []
        shows = self._changed(path, asked.expected)
        self._ledger.got(SITE, [*newest], asked.expected, times_s, shows=shows)

    def _changed(self, path: str, generation: int) -> bool:
        """Whether a path has other bytes in a generation than in the one before."""
        if generation < 2:
            return False
        return self._files[generation - 1][path] != self._files[generation - 2][path]

    def unanswered(self, asked: Asked, now_s: float, why: str) -> None:
        """A live peer gave no answer at all."""
        self._ledger.violated(f"{asked.path} through {asked.where} at {now_s:.3f} s: {why}")
        took_s = now_s - asked.began_s
        self._ledger.got(SITE, [], asked.expected, (asked.began_s, took_s, took_s))

    def finish(self) -> None:
        """Judge what can be judged only when all seqs are known: that no peer went back."""
        by_disk: dict[Hashable, list[_Served]] = {}
        for served in self._served:
            if served.generations and all(one in self._seqs for one in served.generations):
                by_disk.setdefault(served.disk, []).append(served)
        for of_disk in by_disk.values():
            self._judge_order(of_disk)

    def _judge_order(self, served: Sequence[_Served]) -> None:
        """Whatever began after another one had ended is of no lower version."""
        ended = sorted(served, key=lambda one: one.ended_s)
        floor, next_ended = 0, 0
        for one in sorted(served, key=lambda one: one.began_s):
            while next_ended < len(ended) and ended[next_ended].ended_s <= one.began_s:
                before = ended[next_ended]
                floor = max(floor, min(self._seqs[each] for each in before.generations))
                next_ended += 1
            seq = max(self._seqs[each] for each in one.generations)
            if seq < floor:
                self._ledger.violated(
                    f"{one.path} through {one.where} at {one.began_s:.3f} s: version {seq} "
                    f"after version {floor}"
                )

    def _generations(self, seqs: Sequence[int]) -> list[int]:
        """Those published from the one seq to the other; none where that is not known."""
        found = [one for one, seq in self._seqs.items() if seqs[0] <= seq <= seqs[-1]]
        known = {self._seqs[one] for one in found}
        return found if seqs[0] in known and seqs[-1] in known else []
