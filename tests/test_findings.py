"""What the doctor concludes from the facts: a table of faults."""

from __future__ import annotations

import msgspec
import pytest
from test_status import COPIES, KEPT, SHORT, known, status

from p2pweb.cli.findings import CLOCK_S_MAX, FREE_BYTES_MIN, SYNC_S_MAX, findings
from p2pweb.exchange.facts import Disk, Facts, ReachedBy, decode_facts, decode_reached
from p2pweb.exchange.wire import InvalidMessageError, PeerStatus, encode_json

WELL = Facts(
    status=status(known(("10.0.0.1", 8)), knows_others=True, sites=(KEPT,)),
    port=8001,
    reached=(ReachedBy(peer="10.0.0.1:8", udp=True, tcp=True),),
    clock_ahead_s=0.4,
    disk=Disk(data="/srv/p2pweb", free_bytes=10**11, sync_s=0.004, fault=""),
    one_machine=False,
)
SILENT = known(("10.0.0.1", 8), strikes=1)


def reached(*outcomes: tuple[bool, bool]) -> tuple[ReachedBy, ...]:
    return tuple(
        ReachedBy(peer=f"10.0.0.{number}:8", udp=udp, tcp=tcp)
        for number, (udp, tcp) in enumerate(outcomes)
    )


def disk(**changes: object) -> dict[str, object]:
    return {"disk": msgspec.structs.replace(WELL.disk, **changes)}


def of(*contacts: object, **more: object) -> dict[str, PeerStatus]:
    return {"status": status(*contacts, **more)}  # type: ignore[arg-type]


def short() -> dict[str, object]:
    site = msgspec.structs.replace(KEPT, copies=SHORT)
    return {"status": msgspec.structs.replace(WELL.status, sites=(site,))}


FAULTS: list[tuple[dict[str, object], dict[str, list[str]]]] = [
    ({}, {}),
    # Nobody could say.
    ({"reached": (), "clock_ahead_s": None}, {}),
    (disk(free_bytes=FREE_BYTES_MIN), {}),
    (disk(free_bytes=FREE_BYTES_MIN - 1), {"disk": ["/srv/p2pweb has 500.0 MB left", "--data"]}),
    (disk(sync_s=SYNC_S_MAX), {}),
    (disk(sync_s=1.25), {"disk": ["took 1.2 s for a small write"]}),
    (
        disk(fault="No space left on device", free_bytes=0),
        {"disk": ["cannot write to /srv/p2pweb (No space left on device)", "make room"]},
    ),
    (of(), {"alone": ["is alone", "--join THIS-MACHINE:8001"]}),
    (of(knows_others=True), {"alone": ["it is cut off", "port 8001"]}),
    (of(SILENT), {"alone": ["it is cut off"]}),
    (
        {"reached": reached((False, True))},
        {"port": ["10.0.0.0:8 cannot reach this peer's UDP port 8001", "firewall"]},
    ),
    (
        {"reached": reached((True, False), (True, True), (True, False))},
        {"port": ["10.0.0.0:8, 10.0.0.2:8 cannot reach this peer's TCP port 8001"]},
    ),
    (
        {"reached": reached((False, False))},
        {"port": ["TCP port 8001"], "port 2": ["UDP port 8001"]},
    ),
    ({"clock_ahead_s": CLOCK_S_MAX}, {}),
    ({"clock_ahead_s": 3_700.0}, {"clock": ["1 h 1 min ahead of", "NTP"]}),
    ({"clock_ahead_s": -300.0}, {"clock": ["5 min 0 s behind that"]}),
    ({"one_machine": True}, {"one machine": ["all copies are lost with it", "another machine"]}),
    (short(), {"copies": ["2 of 40 files", "/big%20one.bin, has 1 of 3", "publish"]}),
    (
        {**disk(sync_s=9.0), **short(), "one_machine": True},
        {"disk": ["9.0 s"], "one machine": [], "copies": []},
    ),
]


@pytest.mark.parametrize(("changes", "says"), FAULTS)
def test_each_fault_is_found_and_explained(
    changes: dict[str, object], says: dict[str, list[str]]
) -> None:
    found = findings(msgspec.structs.replace(WELL, **changes))
    assert [one.name for one in found] == [name.removesuffix(" 2") for name in says]
    for finding, parts in zip(found, says.values(), strict=True):
        assert all(part in finding.text for part in parts), finding.text
        # One line, and something to do.
        assert "\n" not in finding.text and ": " in finding.text


def test_a_site_that_is_being_counted_is_no_fault() -> None:
    site = msgspec.structs.replace(KEPT, copies=None)
    told = msgspec.structs.replace(WELL.status, sites=(site,))
    assert findings(msgspec.structs.replace(WELL, status=told)) == []
    assert COPIES.short == 0


def test_facts_are_decoded_again() -> None:
    assert decode_facts(encode_json(WELL)) == WELL


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 0},
        {"one_machine": "no"},
        {"disk": {"data": "/", "free_bytes": -1, "sync_s": 0, "fault": ""}},
        {"disk": {"data": "/", "free_bytes": 1, "sync_s": 0, "fault": "\x1b[31m"}},
        {"disk": {"data": "/\x1b[31m", "free_bytes": 1, "sync_s": 0, "fault": ""}},
        {"reached": [{"peer": "a\n", "udp": True, "tcp": True}]},
        {"reached": [{"peer": "a", "udp": True, "tcp": True}] * 9},
        {"status": {}},
    ],
)
def test_other_facts_are_refused(changes: dict[str, object]) -> None:
    sound = msgspec.to_builtins(WELL)
    with pytest.raises(InvalidMessageError):
        decode_facts(msgspec.json.encode({**sound, **changes}))
    other = {**sound["status"], "p2pweb": 2}
    with pytest.raises(InvalidMessageError, match="protocol 2"):
        decode_facts(msgspec.json.encode({**sound, "status": other}))


def test_an_answer_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidMessageError):
        decode_reached(b"{}")
