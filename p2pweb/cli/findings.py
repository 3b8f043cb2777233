"""What is wrong with a peer, by what it found out about itself. Pure: facts in, findings out.

A finding is one line: what is wrong, what comes of it, what to do. Where nobody could say, nothing
is found.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p2pweb.cli.status_table import size, span
from p2pweb.exchange.facts import Facts, ReachedBy

# Dates of answers are whole seconds and machines drift by some more; visitors' caches and the dates
# of versions suffer from minutes.
CLOCK_S_MAX = 120.0
# Below this the next version of a site with pictures may find no room beside the one before.
FREE_BYTES_MIN = 500 * 10**6
# A disk that turns takes a hundredth of a second; each commit waits for some such writes.
SYNC_S_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: `name` is a word for it, `text` a sentence and what to do."""

    name: str
    text: str


def findings(facts: Facts) -> list[Finding]:
    """Everything that is wrong, the most urgent first."""
    return [Finding(name, text) for name, find in _FINDERS for text in find(facts)]


def _disk(facts: Facts) -> Iterator[str]:
    disk = facts.disk
    if disk.fault:
        yield (
            f"this peer cannot write to {disk.data} ({disk.fault}), so it keeps nothing new: make "
            "room there, and let the user that it runs as write there"
        )
    elif disk.free_bytes < FREE_BYTES_MIN:
        yield (
            f"the disk of {disk.data} has {size(disk.free_bytes)} left, and soon this peer keeps "
            "nothing new: make room, or start it with --data on a larger disk"
        )
    if disk.sync_s > SYNC_S_MAX:
        yield (
            f"the disk of {disk.data} took {disk.sync_s:.1f} s for a small write, and publishing "
            "waits for many: see what else keeps it busy, or start the peer with --data on "
            "another disk"
        )


def _alone(facts: Facts) -> Iterator[str]:
    status = facts.status
    if status.is_cut_off:
        yield (
            "none of the peers that this one knows answers, so it is cut off: see that they run, "
            f"and that no firewall stops UDP and TCP port {facts.port} here and theirs there"
        )
    elif not status.contact_count:
        yield (
            "this peer is alone, and what it keeps is kept nowhere else: start others with "
            f"--join THIS-MACHINE:{facts.port}"
        )


def _unreachable(facts: Facts) -> Iterator[str]:
    protocols: tuple[tuple[str, str, Callable[[ReachedBy], bool]], ...] = (
        ("TCP", "can fetch nothing from it", lambda one: one.tcp),
        ("UDP", "may take it for gone", lambda one: one.udp),
    )
    for protocol, so, is_reached in protocols:
        failed = [one.peer for one in facts.reached if not is_reached(one)]
        if failed:
            yield (
                f"{', '.join(failed)} cannot reach this peer's {protocol} port {facts.port} and "
                f"{so}: open it in the firewall of this machine, and forward it in any router "
                "in between"
            )


def _clock(facts: Facts) -> Iterator[str]:
    ahead_s = facts.clock_ahead_s
    if ahead_s is not None and abs(ahead_s) > CLOCK_S_MAX:
        which = "ahead of" if ahead_s > 0 else "behind"
        yield (
            f"this machine's clock is {span(abs(ahead_s))} {which} that of the other peers, so "
            "dates and visitors' caches are wrong: set it, best by NTP"
        )


def _one_machine(facts: Facts) -> Iterator[str]:
    if facts.one_machine:
        yield (
            "all peers that this one knows are on this machine, and all copies are lost with it: "
            f"start one on another machine with --join THIS-MACHINE:{facts.port}"
        )


def _copies(facts: Facts) -> Iterator[str]:
    for site in facts.status.sites:
        found = site.copies
        if site.is_short and found is not None:
            yield (
                f"{found.short} of {found.files} files of the site {site.site} are short of "
                f"copies; the worst-off, {found.worst}, has {found.copies} of {found.wanted}: the "
                "peers make up for that by themselves; if it stays so, see that they run and have "
                "room, and publish the directory again"
            )


_FINDERS: tuple[tuple[str, Callable[[Facts], Iterator[str]]], ...] = (
    ("disk", _disk),
    ("alone", _alone),
    ("port", _unreachable),
    ("clock", _clock),
    ("one machine", _one_machine),
    ("copies", _copies),
)
