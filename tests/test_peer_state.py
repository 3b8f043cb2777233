"""What a peer remembers between runs: written whole, and read only if it makes sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pweb.dht.contact import Contact, NodeId
from p2pweb.errors import UsageError
from p2pweb.keys import SiteKey
from p2pweb.peer_state import CONTACTS_MAX, PeerState, read_peer_state, write_peer_state

OWN = "ab" * 20
SITE = SiteKey(b"k" * 32).site
FOUR = ["01" * 20, "192.0.2.1", 8001]
SIX = ["02" * 20, "2001:db8::1", 8001]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peer.json"


def contact(number: int) -> Contact:
    return Contact(NodeId(number.to_bytes(20, "big")), ("192.0.2.1", number))


def test_what_was_written_is_read(path: Path) -> None:
    assert read_peer_state(path) is None
    known = [contact(2), contact(1)]
    state = PeerState(node_id=OWN, home=SITE).with_contacts(known, {known[1]})
    write_peer_state(path, state)
    again = read_peer_state(path)
    assert again == state
    assert again.known() == known
    assert again.known_keepers() == [known[1]]
    assert again.home_site == SITE
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_file_that_was_not_finished_changes_nothing(path: Path) -> None:
    write_peer_state(path, PeerState(node_id=OWN))
    path.with_suffix(".new").write_text('{"node_id": "')
    assert read_peer_state(path) == PeerState(node_id=OWN)


def test_so_many_contacts_are_kept_and_the_first_ones(path: Path) -> None:
    known = [contact(number) for number in range(1, CONTACTS_MAX + 9)]
    write_peer_state(path, PeerState(node_id=OWN).with_contacts(known, known))
    again = read_peer_state(path)
    assert again is not None
    assert again.known() == again.known_keepers() == known[:CONTACTS_MAX]


@pytest.mark.parametrize(
    "contacts",
    [
        7,
        [["192.0.2.1", 8001]],  # without its id
        [["01" * 19, "192.0.2.1", 8001]],
        [["0G" * 20, "192.0.2.1", 8001]],
        [["01" * 20, "localhost", 8001]],
        [["01" * 20, "2001:DB8::1", 8001]],
        [["01" * 20, "0.0.0.0", 8001]],
        [["01" * 20, "192.0.2.1", 0]],
        [["01" * 20, "192.0.2.1", 65536]],
        [["01" * 20, "192.0.2.1", "8001"]],
        [[OWN, "192.0.2.1", 8001]],
        [FOUR, [FOUR[0], "192.0.2.2", 8001]],
        [FOUR, ["03" * 20, *FOUR[1:]]],
        [[f"{number:040x}", "192.0.2.1", number] for number in range(1, CONTACTS_MAX + 2)],
    ],
)
def test_contacts_that_cannot_be_are_refused_with_what_to_do(path: Path, contacts: object) -> None:
    path.write_text(json.dumps({"node_id": OWN, "contacts": contacts}))
    with pytest.raises(UsageError, match=r"peer\.json is damaged, or .* delete it"):
        read_peer_state(path)
    path.write_text(json.dumps({"node_id": OWN, "contacts": [FOUR, SIX]}))
    assert read_peer_state(path) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "{}",
        '{"node_id": "ab"}',
        f'{{"node_id": "{OWN}", "home": "x"}}',
        f'{{"node_id": "{OWN}", "colour": 1}}',
    ],
)
def test_anything_else_is_refused_as_well(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="is damaged"):
        read_peer_state(path)


def test_a_file_that_cannot_be_read_says_why(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        read_peer_state(path)
