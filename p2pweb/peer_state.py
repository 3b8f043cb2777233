"""What a peer remembers of itself between runs: its id, its home site, whom it knew.

One small file of plain JSON in the peer's directory, validated when it is read, replaced whole and
synced when it is written.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from p2pweb.address import Address
from p2pweb.dht.contact import ID_BYTES
from p2pweb.errors import UsageError
from p2pweb.keys import SiteId, is_site_id

# Those asked at the next start. One that answers knows the rest.
CONTACTS_MAX = 200


Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class PeerState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`node_id` is 20 bytes in hexadecimal digits."""

    node_id: str
    home: str | None = None
    contacts: list[tuple[str, Port]] = []

    @property
    def home_site(self) -> SiteId | None:
        return SiteId(self.home) if self.home else None

    def with_contacts(self, contacts: list[Address]) -> "PeerState":
        """The same peer, knowing these."""
        return msgspec.structs.replace(self, contacts=contacts[:CONTACTS_MAX])


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
        sound = len(bytes.fromhex(state.node_id)) == ID_BYTES
    except (msgspec.DecodeError, ValueError, RecursionError):
        sound = False
    if not sound or (state.home is not None and not is_site_id(state.home)):
        raise UsageError(
            f"{path} is damaged: delete it, and the peer starts with a new id; name the site again "
            "with --home or --join"
        )
    return state


def write_peer_state(path: Path, state: PeerState) -> None:
    """Replace the file; on disk when this returns. OSError where that fails."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state)))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
