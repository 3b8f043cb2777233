"""A peer's status: what it says, who may see it, how it is shown, and a death and a return."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from lint_site import peer as served_peer
from peer_processes import PeerProcess, free_ports, network, run_cli
from rich.console import Console

from p2pweb.address import format_address
from p2pweb.cli.status_table import size, span, status_json, status_text
from p2pweb.dht.contact import NodeId
from p2pweb.dht.overlay import ContactState
from p2pweb.exchange import wire
from p2pweb.exchange.status import may_see, status_of
from p2pweb.exchange.wire import (
    ContactStatus,
    CopiesStatus,
    InvalidMessageError,
    PeerInfo,
    PeerStatus,
    SiteStatus,
)
from p2pweb.http.messages import Request
from p2pweb.http.parser import RequestParser
from p2pweb.http.service import RequestBody
from p2pweb.keys import SiteKey

SITE = SiteKey(b"k" * 32).site
INFO = PeerInfo(p2pweb=wire.PROTOCOL, id="ab" * 20, home=SITE, version="1.2.3")
ASKED = ("127.0.0.1", 8001)
STATUS_PATH = f"{wire.PREFIX}status"
# A contact is struck out after five strikes, with pauses of 15 s between them.
DEATH_S = 30.0


def known(
    address: tuple[str, int],
    *,
    strikes: int = 0,
    rtt_s: float | None = 0.01,
    proved: bool = True,
) -> ContactState:
    return ContactState(NodeId(b"n" * 20), address, rtt_s, 90.0, strikes, proved)


COPIES = CopiesStatus(
    ago_s=0.2,
    peers=3,
    holders=("10.0.0.1:8", "10.0.0.2:8"),
    files=40,
    wanted=3,
    copies=3,
    short=0,
    worst=None,
    lacking_bytes=0,
)
SHORT = msgspec.structs.replace(
    COPIES,
    ago_s=65.0,
    holders=("10.0.0.1:8",),
    copies=1,
    short=2,
    worst="/big%20one.bin",
    lacking_bytes=4_200_000,
)
KEPT = SiteStatus(site=SITE, seq=7, files=40, copies_asked=8, copies=COPIES)


def status(
    *contacts: ContactState,
    knows_others: bool = False,
    info: PeerInfo = INFO,
    sites: tuple[SiteStatus, ...] = (),
) -> PeerStatus:
    return status_of(
        info, contacts, begun_s=40.0, now_s=100.0, knows_others=knows_others, sites=sites
    )


def kept(copies: CopiesStatus | None, **changes: object) -> PeerStatus:
    """The status of a peer that keeps a site with these copies."""
    return status(sites=(msgspec.structs.replace(KEPT, copies=copies, **changes),))


def request(*connection: str) -> Request:
    lines = "".join(f"Connection: {value}\r\n" for value in connection)
    parser = RequestParser()
    parser.receive(f"GET {STATUS_PATH} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    found = parser.next_event()
    assert isinstance(found, Request)
    return found


# What it says


def test_status_is_decoded_again() -> None:
    told = status(known(("192.0.2.1", 1), strikes=2), known(("2001:db8::1", 2), rtt_s=None))
    assert wire.decode_status(wire.encode_json(told)) == told
    assert (told.up_s, told.contact_count, told.silent_count) == (60.0, 2, 1)
    assert told.contacts[0] == ContactStatus(
        address="192.0.2.1:1", id="6e" * 20, rtt_s=0.01, answered_ago_s=10.0, strikes=2
    )
    assert told.contacts[1].address == "[2001:db8::1]:2"


def test_contacts_stand_in_the_order_of_their_addresses() -> None:
    addresses = [("10.0.0.9", 2), ("10.0.0.10", 1), ("10.0.0.10", 20), ("::1", 1), ("::2", 1)]
    told = status(*(known(address) for address in reversed(addresses)))
    assert [one.address for one in told.contacts] == [
        *("10.0.0.9:2", "10.0.0.10:1", "10.0.0.10:20", "[::1]:1", "[::2]:1")
    ]


def test_many_contacts_are_cut_at_the_limit_and_the_silent_ones_stay() -> None:
    most = wire.STATUS_CONTACTS_MAX
    contacts = [known((f"10.0.{n >> 8}.{n & 255}", 1)) for n in range(most)]
    silent = [known((f"10.1.0.{n}", 1), strikes=1) for n in range(3)]
    told = status(*contacts, *silent)
    assert (told.contact_count, told.silent_count) == (most + 3, 3)
    assert len(told.contacts) == most
    assert [one.strikes for one in told.contacts] == [*[0] * (most - 3), 1, 1, 1]
    assert wire.decode_status(wire.encode_json(told)) == told


def test_fullest_status_fits_its_limit() -> None:
    longest = ContactState(
        NodeId(b"n" * 20),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
        0.123456,
        100.0 - 12_345_678.123456,
        4,
        proved=True,
    )
    many = [longest] * (wire.STATUS_CONTACTS_MAX + 1)
    huge = msgspec.structs.replace(
        SHORT,
        worst="/" + "%FF" * 511,
        holders=(format_address(longest.address),) * wire.STATUS_HOLDERS_MAX,
    )
    site = msgspec.structs.replace(KEPT, copies=huge)
    told = status(*many, sites=(site,) * wire.STATUS_SITES_MAX)
    data = wire.encode_json(told)
    assert wire.decode_status(data) == told
    assert len(data) <= wire.STATUS_BYTES_MAX


@pytest.mark.parametrize(
    "changes",
    [
        {"p2pweb": 2},
        {"id": "ab" * 19},
        {"id": "ab" * 20 + "\n"},
        {"version": "\x1b[31m"},
        {"version": ""},
        {"up_s": -1},
        {"up_s": 1e10},
        {"contact_count": 0},
        {"silent_count": 2},
        {"contacts": [{}]},
        {"sites": [{}]},
    ],
)
def test_other_statuses_are_refused(changes: dict[str, object]) -> None:
    sound = msgspec.to_builtins(status(known(ASKED)))
    wire.decode_status(msgspec.json.encode(sound))
    with pytest.raises(InvalidMessageError):
        wire.decode_status(msgspec.json.encode({**sound, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "host:1"},
        {"address": "127.0.0.1"},
        {"address": "127.0.0.1:0"},
        {"address": "127.0.0.1:1\n"},
        {"address": "[::0]:1"},
        {"rtt_s": -0.1},
        {"strikes": 1.5},
    ],
)
def test_other_contacts_are_refused(changes: dict[str, object]) -> None:
    sound = msgspec.to_builtins(status(known(ASKED)))
    sound["contacts"][0].update(changes)
    with pytest.raises(InvalidMessageError):
        wire.decode_status(msgspec.json.encode(sound))


@pytest.mark.parametrize(
    "changes",
    [
        {"worst": "/\x1b[31m"},
        {"worst": "no path"},
        {"holders": ["10.0.0.1:8\n"]},
        {"holders": ["10.0.0.1:8"] * (wire.STATUS_HOLDERS_MAX + 1)},
        {"short": -1},
    ],
)
def test_other_copies_are_refused(changes: dict[str, object]) -> None:
    sound = msgspec.to_builtins(kept(SHORT))
    wire.decode_status(msgspec.json.encode(sound))
    sound["sites"][0]["copies"].update(changes)
    with pytest.raises(InvalidMessageError):
        wire.decode_status(msgspec.json.encode(sound))


@pytest.mark.parametrize(("copies", "short"), [(None, False), (COPIES, False), (SHORT, True)])
def test_peer_is_short_when_a_file_has_fewer_copies_than_wanted(
    copies: CopiesStatus | None, short: bool
) -> None:
    told = kept(copies)
    assert told.is_short == short
    assert wire.decode_status(wire.encode_json(told)) == told


def test_status_may_say_more_than_is_known_today() -> None:
    sound = msgspec.to_builtins(status(known(ASKED)))
    data = msgspec.json.encode({**sound, "weather": [{"clouds": 8}]})
    assert wire.decode_status(data) == status(known(ASKED))


@pytest.mark.parametrize(
    ("contacts", "knows_others", "cut_off"),
    [
        ([], False, False),
        ([], True, True),
        ([known(ASKED)], True, False),
        ([known(ASKED, strikes=1)], False, True),
        ([known(ASKED, strikes=1), known(("127.0.0.1", 2))], True, False),
    ],
)
def test_peer_is_cut_off_when_no_contact_answers_and_some_should(
    contacts: list[ContactState], knows_others: bool, cut_off: bool
) -> None:
    assert status(*contacts, knows_others=knows_others).is_cut_off == cut_off


# Who may see it


@pytest.mark.parametrize("sender", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("option", ["p2pweb-status", "keep-alive, P2PWEB-Status"])
def test_programs_on_this_machine_may_see_it(sender: str, option: str) -> None:
    assert may_see(request(option), sender)


@pytest.mark.parametrize("sender", ["192.168.1.10", "::ffff:192.168.1.10", "2001:db8::1", "", "a"])
def test_other_machines_may_not(sender: str) -> None:
    assert not may_see(request("p2pweb-status"), sender)


@pytest.mark.parametrize("connection", [[], ["close"], ["keep-alive"], ["p2pweb-status-not"]])
def test_pages_and_proxies_may_not(connection: list[str]) -> None:
    assert not may_see(request(*connection), "127.0.0.1")


@pytest.mark.parametrize(("sender", "code"), [("127.0.0.1", 200), ("192.0.2.7", 403), ("", 403)])
async def test_service_answers_the_machine_that_it_runs_on(sender: str, code: int) -> None:
    async def no_body() -> bytes:
        return b""

    async with served_peer({"/index.html": b"hello"}) as gateway:
        answer = gateway.handle(request("p2pweb-status"), RequestBody(0, no_body, sender))
        response = await answer  # type: ignore[misc]
        assert response.status == code
        assert ("Cache-Control", "no-store") in response.fields


# How it is shown


def shown(told: PeerStatus, columns: int = 120) -> str:
    console = Console(width=columns)
    now = datetime(2026, 3, 1, 0, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    with console.capture() as capture:
        console.print(status_text(told, ASKED, now))
    return capture.get()


def test_a_contact_of_an_earlier_run_has_not_answered_yet() -> None:
    told = status(known(("192.0.2.1", 1), rtt_s=None, proved=False), knows_others=True)
    assert wire.decode_status(wire.encode_json(told)) == told
    assert told.contacts[0].answered_ago_s is None
    assert told.is_cut_off


def test_table_names_the_peer_and_marks_silent_contacts() -> None:
    text = shown(
        status(
            known(("::1", 7), strikes=3, rtt_s=None),
            known(("10.0.0.1", 8), rtt_s=1.5),
            known(("10.0.0.2", 8), rtt_s=None, proved=False),
        )
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "peer 127.0.0.1:8001, p2pweb 1.2.3",
        f"node id {'ab' * 20}",
        f"home site {SITE}",
        "running for 1 min 0 s, since 2026-02-28 23:59",
        "contacts 3, 2 of them silent",
        "",
        "contact round trip last answer strikes",
        "10.0.0.1:8 1.5 s 10 s ago 0",
        "10.0.0.2:8 not known not yet 0 silent",
        "[::1]:7 not known 10 s ago 3 silent",
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (status(), "none yet"),
        (status(knows_others=True), "none: the peers it knows of do not answer"),
        (status(known(ASKED)), "1, none of them silent"),
        (status(known(ASKED, strikes=1)), "1, all of them silent"),
        (status(info=msgspec.structs.replace(INFO, home=None)), "the first site published here"),
        (status(*[known(ASKED)] * (wire.STATUS_CONTACTS_MAX + 7)), "and 7 more"),
        (status(known(ASKED, rtt_s=0.000_25)), "0.2 ms"),
    ],
)
def test_table_says(told: PeerStatus, says: str) -> None:
    assert says in shown(told)


def site_lines(told: PeerStatus) -> list[str]:
    lines = [" ".join(line.split()) for line in shown(told).splitlines()]
    return lines[lines.index("") + 1 :]


def test_a_site_short_of_copies_says_what_lacks_and_who_answers() -> None:
    assert site_lines(kept(SHORT)) == [
        f"site {SITE}",
        "live version 7, 40 files",
        "copies 1 of 3 wanted: 2 files short of copies, the worst-off /big%20one.bin",
        "counted all files, 1 min 5 s ago",
        "repair this peer still fetches 4.2 MB",
        (
            "kept by 3 peers, fewer than the 8 copies asked for: this one, 10.0.0.1:8; "
            "1 silent, or without this version"
        ),
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (kept(None), ["copies being counted: ask again in a few seconds"]),
        (kept(COPIES), ["copies 3 of 3 wanted", "counted all files, just now"]),
        (kept(COPIES, copies_asked=3), ["kept by 3 peers: this one, 10.0.0.1:8, 10.0.0.2:8"]),
        (
            kept(msgspec.structs.replace(COPIES, files=12)),
            ["counted 12 files due to this peer, just now"],
        ),
        (
            kept(msgspec.structs.replace(COPIES, files=0)),
            ["copies no file is due to this peer: ask another one"],
        ),
        (
            kept(msgspec.structs.replace(COPIES, peers=1, holders=(), wanted=1), copies_asked=1),
            ["kept by 1 peer: this one"],
        ),
        (
            kept(
                msgspec.structs.replace(COPIES, peers=9, holders=tuple(f"h:{n}" for n in range(8))),
            ),
            ["kept by 9 peers: this one, h:0, h:1, h:2, h:3, h:4 and 3 more"],
        ),
    ],
)
def test_a_site_says(told: PeerStatus, says: list[str]) -> None:
    assert set(says) <= set(site_lines(told))


@pytest.mark.parametrize(
    ("size_bytes", "says"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 KB"),
        (2_550_000, "2.5 MB"),
        (10**10, "10.0 GB"),
    ],
)
def test_a_size_has_the_unit_that_suits_it(size_bytes: int, says: str) -> None:
    assert size(size_bytes) == says


def test_narrow_terminal_loses_nothing() -> None:
    address = ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", 65_535)
    folded = "".join(shown(status(known(address)), columns=60).split())
    assert "2001:db8" in folded
    assert "65535" in folded


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3_661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
        (86_400 * 400, "400 d 0 h"),
    ],
)
def test_span_has_two_units(seconds: float, says: str) -> None:
    assert span(seconds) == says


def test_json_has_names_that_stay() -> None:
    now = datetime(2026, 3, 1, 0, 0, 30, tzinfo=UTC)
    told = status_json(status(known(("10.0.0.1", 8), strikes=1), knows_others=True), ASKED, now)
    assert json.loads(json.dumps(told)) == {
        "peer": "127.0.0.1:8001",
        "id": "ab" * 20,
        "version": "1.2.3",
        "home_site": SITE,
        "running_since": "2026-02-28T23:59:30+00:00",
        "up_s": 60.0,
        "knows_others": True,
        "contact_count": 1,
        "silent_count": 1,
        "contacts": [
            {
                "address": "10.0.0.1:8",
                "id": "6e" * 20,
                "rtt_s": 0.01,
                "answered_ago_s": 10.0,
                "strikes": 1,
            }
        ],
        "contacts_left_out": 0,
        "disk": None,
        "sites": [],
    }
    assert json.loads(json.dumps(status_json(kept(SHORT), ASKED, now)))["sites"] == [
        {
            "site": SITE,
            "seq": 7,
            "files": 40,
            "copies_asked": 8,
            "copies": {
                "ago_s": 65.0,
                "peers": 3,
                "holders": ["10.0.0.1:8"],
                "files": 40,
                "wanted": 3,
                "copies": 1,
                "short": 2,
                "worst": "/big%20one.bin",
                "lacking_bytes": 4_200_000,
            },
        }
    ]


# With real peers


def test_status_of_nobody_is_one_sentence() -> None:
    port = free_ports(1)[0]
    done = run_cli("status", "--peer", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"p2pweb: 127.0.0.1:{port} cannot be reached")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it is no p2pweb peer"),
        (b"\x15\x03\x01\x00\x02\x02(", "does not speak HTTP: it is no p2pweb peer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<!do", "sent what it should not"),
    ],
)
def test_status_of_what_is_no_peer_is_one_sentence(answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = format_address(listener.getsockname())
        done = run_cli("status", "--peer", address)
        thread.join()
    assert done.returncode == 1
    assert done.stderr.startswith(f"p2pweb: {address} ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_names_that_no_machine_has_are_one_sentence() -> None:
    done = run_cli("status", "--peer", "a..b:8001")
    assert done.returncode == 1
    assert done.stderr == "p2pweb: a..b:8001 cannot be reached: no machine has such a name\n"


def test_lone_peer_is_well_and_tells_its_status_to_no_page(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 1) as (peer,):
        done = run_cli("status", "--peer", peer.address)
        assert done.returncode == 0, done.stderr
        assert f"peer       {peer.address}, p2pweb " in done.stdout
        assert "contacts   none yet" in done.stdout
        refused = peer.get(STATUS_PATH)
        assert refused.status == 403
        assert b"p2pweb status" in refused.body
        assert peer.get(STATUS_PATH, Connection="p2pweb-status").status == 200
        assert peer.get(STATUS_PATH, "POST", Connection="p2pweb-status").status == 405
        assert peer.get(STATUS_PATH + "/x", Connection="p2pweb-status").status == 404


def test_death_and_return_are_a_line_each_and_seen_in_the_status(tmp_path: Path) -> None:
    with network(tmp_path / "peers", 2) as (watcher, mortal):

        def lines() -> list[str]:
            """What the watcher has logged of the other one, without the date."""
            log = watcher.log.read_text().splitlines()
            return [line.partition(": peer ")[2] for line in log if mortal.address in line]

        def ask() -> tuple[int, int, int]:
            """Exit code, contacts, silent contacts."""
            done = run_cli("status", "--peer", watcher.address, "--json")
            told = json.loads(done.stdout)
            return done.returncode, told["contact_count"], told["silent_count"]

        wait_until(lambda: ask() == (0, 1, 0))
        mortal.kill_9()
        ask_contacts(watcher)
        wait_until(lambda: ask() == (2, 1, 1))
        shown_now = run_cli("status", "--peer", watcher.address)
        assert shown_now.returncode == 2
        assert "contacts   1, all of them silent" in shown_now.stdout
        (row,) = [line for line in shown_now.stdout.splitlines() if line.startswith(mortal.address)]
        assert row.endswith("silent")

        wait_until(lambda: len(lines()) > 1)
        assert ask() == (2, 0, 0)
        mortal.start()
        wait_until(lambda: ask() == (0, 1, 0))

        here, gone, back = lines()
        assert here == f"{mortal.address} is here"
        assert gone == f"{mortal.address} is gone (silent)"
        assert back.startswith(f"{mortal.address} is back after ")


def ask_contacts(peer: PeerProcess) -> None:
    """Have it look for a site that nobody has, so that it soon notices who is silent."""
    unknown = SiteKey(b"u" * 32).site
    assert peer.get("/", Host=f"{unknown}.localhost").status in (404, 503)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEATH_S
    while not holds():
        assert time.monotonic() < deadline, "it has not come about"
        # Two processors have more to do than to be asked.
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("budget_bytes", "line"),
    [
        (None, "disk       12.3 MB used, 70.0 GB free"),
        (50_000_000, "disk       12.3 MB of 50.0 MB used, 70.0 GB free beside them"),
    ],
)
def test_what_the_disk_holds_is_shown(budget_bytes: int | None, line: str) -> None:
    disk = wire.DiskStatus(
        used_bytes=12_300_000, budget_bytes=budget_bytes, free_bytes=70_000_000_000
    )
    assert line in shown(msgspec.structs.replace(status(), disk=disk))
