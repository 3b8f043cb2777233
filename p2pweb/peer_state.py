"""What a peer remembers of itself between runs: its id, its home site and up to which version it
served that, whom it knew.

One small file of plain JSON in the peer's directory, validated when it is read, replaced whole and
synced when it is written.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec

from p2pweb.dht.contact import ID_BYTES, Contact, NodeId, canonical
from p2pweb.errors import UsageError
from p2pweb.folders import sync_folder
from p2pweb.keys import SiteId, is_site_id

# Enough to reach every part of a large network at the next start; 200 are 20 KB.
CONTACTS_MAX = 200

NodeIdHex = Annotated[str, msgspec.Meta(pattern=f"^[0-9a-f]{{{2 * ID_BYTES}}}$")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Row = tuple[NodeIdHex, str, Port]


class PeerState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`node_id` is 20 bytes in hexadecimal digits, and so is the id that begins each contact.

    `served` is the highest seq of the home site that was served: a peer whose database is lost
    goes back to no version before that. `keepers` are the ids of those contacts that keep it too.
    """

    node_id: NodeIdHex
    home: str | None = None
    served: Annotated[int, msgspec.Meta(ge=0)] = 0
    contacts: Annotated[list[_Row], msgspec.Meta(max_length=CONTACTS_MAX)] = []
    keepers: Annotated[list[NodeIdHex], msgspec.Meta(max_length=CONTACTS_MAX)] = []

    @property
    def home_site(self) -> SiteId | None:
        return SiteId(self.home) if self.home else None

    def known(self) -> list[Contact]:
        """The contacts, the most useful first."""
        return [
            Contact(NodeId(bytes.fromhex(known)), (host, port))
            for known, host, port in self.contacts
        ]

    def known_keepers(self) -> list[Contact]:
        """Those of the contacts that keep the home site."""
        keepers = set(self.keepers)
        return [one for one in self.known() if one.id.hex() in keepers]

    def with_contacts(self, contacts: list[Contact], keepers: Collection[Contact]) -> "PeerState":
        """The same peer, knowing these, the most useful first, and of whom that they keep the home
        site."""
        saved = contacts[:CONTACTS_MAX]
        return msgspec.structs.replace(
            self,
            contacts=[(one.id.hex(), *one.address) for one in saved],
            keepers=[one.id.hex() for one in saved if one in keepers],
        )


def read_peer_state(path: Path) -> PeerState | None:
    """None on a peer's first start. UsageError where the file is not what was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        state = msgspec.json.decode(data, type=PeerState)
    except (msgspec.DecodeError, ValueError, RecursionError):
        state = None
    if state is None or not _makes_sense(state):
        raise UsageError(
            f"{path} is damaged, or was written by another version of p2pweb: delete it, and the "
            "peer starts with a new id; name the site again with --home or --join"
        )
    return state


def _makes_sense(state: PeerState) -> bool:
    known = state.known()
    return (
        (state.home is None or is_site_id(state.home))
        and all(canonical(*one.address) == one.address for one in known)
        and len({one.address for one in known}) == len(known)
        and len({state.node_id, *(one.id.hex() for one in known)}) == 1 + len(known)
    )


def write_peer_state(path: Path, state: PeerState) -> None:
    """Replace the file; on disk when this returns. OSError where that fails."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)
