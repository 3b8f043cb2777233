"""What a run has to show, kept apart from the peers: what was published, what each get came to.

Knows no peer and no network: it is told, and judges. A value that nobody published is a violation
and fails any run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

# Enough to see what is wrong; the others are only counted.
VIOLATIONS_SHOWN = 20


class Outcome(Enum):
    FOUND = "found"  # the newest version of all that were acknowledged
    STALE = "stale"  # a version, and not the newest
    NOT_FOUND = "not found"
    PROVED_ABSENT = "absent"  # asked for what nobody ever sent
    NOT_PROVED = "not proved"  # the same, and those who had to know were not heard
    ABANDONED = "abandoned"  # the peer that was asked died


@dataclass(frozen=True, slots=True)
class Get:
    """One get: when it began, how long until the right value turned up, or until the end."""

    began_s: float
    took_s: float
    outcome: Outcome
    # How long until the lookup was over, everybody near having answered.
    ended_s: float
    # Whether an older version than the newest would have been another value.
    shows: bool = True


@dataclass(slots=True)
class Ledger:
    """Everything published and asked for."""

    gets: list[Get] = field(default_factory=list)
    puts_s: list[float] = field(default_factory=list)
    puts_failed: int = 0
    # Those before the measurement.
    puts_failed_before: int = 0
    # In all; the peer through which it was published died meanwhile, as of gets that are ABANDONED.
    puts_abandoned: int = 0
    # After each publish, until the version had reached every peer.
    news_s: list[float] = field(default_factory=list)
    # Bodies that no version has; each is a violation too.
    wrong_bodies: int = 0
    violations: list[str] = field(default_factory=list)
    violations_count: int = 0
    _acknowledged: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """The measurement begins: how long the puts before it took is of no matter."""
        self.puts_s.clear()
        self.news_s.clear()
        self.puts_failed_before += self.puts_failed
        self.puts_failed = 0

    def sending(self, name: str, seq: int) -> None:
        """A version is on its way; it may turn up from now on."""
        self._sent[name] = max(seq, self._sent.get(name, 0))

    def was_sent(self, name: str) -> bool:
        """Whether anybody ever tried to publish it."""
        return name in self._sent

    def acknowledged(self, name: str, seq: int, took_s: float | None) -> None:
        """At least one peer says that it holds this version; None where it was put by magic."""
        if took_s is not None:
            self.puts_s.append(took_s)
        self._acknowledged[name] = max(seq, self._acknowledged.get(name, 0))

    def newest(self, name: str) -> int:
        """The newest version acknowledged so far; 0 if none was."""
        return self._acknowledged.get(name, 0)

    def got(
        self,
        name: str,
        seqs: list[int | None],
        expected_seq: int,
        times_s: tuple[float, float, float],
        *,
        is_proved: bool = True,
        shows: bool = True,
    ) -> None:
        """What a get came to: the seqs of all values that turned up (None: not a value at all), and
        the version that it had to find at least (0: any). `times_s`: begun, best value, end.

        `is_proved` says whether all who had to know were heard, `shows` is as of `Get`.
        """
        began_s, took_s, ended_s = times_s
        sound = [seq for seq in seqs if seq is not None]
        best = max(sound, default=0)
        if best > self._sent.get(name, 0):
            self.violated(f"{name}: version {best} was never published")
        if best and best >= expected_seq:
            outcome = Outcome.FOUND
        elif best:
            outcome = Outcome.STALE
        elif self.was_sent(name):
            outcome = Outcome.NOT_FOUND
        else:
            outcome = Outcome.PROVED_ABSENT if is_proved else Outcome.NOT_PROVED
        self.gets.append(Get(began_s, took_s, outcome, ended_s, shows))

    def abandoned(self, began_s: float, now_s: float) -> None:
        """The peer that was asked died."""
        self.gets.append(Get(began_s, now_s - began_s, Outcome.ABANDONED, now_s - began_s))

    def violated(self, what: str) -> None:
        """Something happened that may never happen."""
        self.violations_count += 1
        if len(self.violations) < VIOLATIONS_SHOWN:
            self.violations.append(what)
