"""A peer's status, as a person reads it or a program: lines and a table, or JSON.

In: the status, where it was asked, and the date; out: what is to be printed. Whatever a peer says
is put into plain text, so nothing of it is taken for markup.
"""

from datetime import UTC, datetime, timedelta

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2pweb.address import Address, format_address
from p2pweb.exchange.wire import (
    ContactStatus,
    CopiesStatus,
    DiskStatus,
    PeerStatus,
    SiteStatus,
)

_SILENT_STYLE = _SHORT_STYLE = "bold yellow"
# Holders named of each site; `--json` has them all.
_HOLDERS_SHOWN = 5
# Two units say enough: 3 d 4 h, 2 h 5 min.
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_UNITS_SHOWN = 2


def status_json(status: PeerStatus, asked: Address, now: datetime) -> dict[str, object]:
    """Names that stay. Times are seconds, `running_since` is RFC 3339 in UTC."""
    return {
        "peer": format_address(asked),
        "id": status.id,
        "version": status.version,
        "home_site": status.home_site,
        "running_since": _since(status, now).astimezone(UTC).isoformat(timespec="seconds"),
        "up_s": status.up_s,
        "knows_others": status.knows_others,
        "contact_count": status.contact_count,
        "silent_count": status.silent_count,
        "contacts": msgspec.to_builtins(status.contacts),
        "contacts_left_out": _left_out(status),
        "disk": msgspec.to_builtins(status.disk),
        "sites": msgspec.to_builtins(status.sites),
    }


def status_text(status: PeerStatus, asked: Address, now: datetime) -> RenderableType:
    """Some lines on the peer, on its sites, then its contacts. The date is shown in the time zone
    of `now`."""
    facts = Table.grid(padding=(0, 2))
    rows = [
        ("peer", f"{format_address(asked)}, p2pweb {status.version}"),
        ("node id", status.id),
        ("home site", status.home_site or "none yet: the first site published here"),
        ("running", f"for {span(status.up_s)}, since {_since(status, now):%Y-%m-%d %H:%M}"),
        ("contacts", _counted(status)),
    ]
    if status.disk is not None:
        rows.append(("disk", _disk(status.disk)))
    for name, value in rows:
        facts.add_row(Text(name), Text(value, overflow="fold"))
    for site in status.sites:
        facts.add_row()
        for name, value in _site_rows(site):
            style = _SHORT_STYLE if name == "copies" and site.is_short else ""
            facts.add_row(Text(name), Text(value, style, overflow="fold"))
    if not status.contacts:
        return facts
    parts: list[RenderableType] = [facts, Text(), _table(status)]
    if left_out := _left_out(status):
        parts.append(Text(f"and {left_out} more"))
    return Group(*parts)


def _site_rows(site: SiteStatus) -> list[tuple[str, str]]:
    """What there is to say of a site, line by line, each with its name."""
    rows = [("site", site.site), ("live", f"version {site.seq}, {_files(site.files)}")]
    found = site.copies
    if found is None:
        return [*rows, ("copies", "being counted: ask again in a few seconds")]
    copies = f"{found.copies} of {found.wanted} wanted"
    if found.short:
        copies += f": {_files(found.short)} short of copies, the worst-off {found.worst}"
    if site.files and not found.files:
        copies = "no file is due to this peer: ask another one"
    rows += [("copies", copies), ("counted", _counted_files(site, found))]
    if found.lacking_bytes:
        rows.append(("repair", f"this peer still fetches {size(found.lacking_bytes)}"))
    return [*rows, ("kept by", _kept_by(site, found))]


def _counted_files(site: SiteStatus, found: CopiesStatus) -> str:
    which = "all files" if found.files == site.files else f"{_files(found.files)} due to this peer"
    return f"{which}, {'just now' if found.ago_s < 1 else f'{span(found.ago_s)} ago'}"


def _kept_by(site: SiteStatus, found: CopiesStatus) -> str:
    count = f"{found.peers} {'peer' if found.peers == 1 else 'peers'}"
    if found.peers < site.copies_asked:
        count += f", fewer than the {site.copies_asked} copies asked for"
    shown = ", ".join(["this one", *found.holders[:_HOLDERS_SHOWN]])
    more = len(found.holders) - _HOLDERS_SHOWN
    shown += f" and {more} more" if more > 0 else ""
    lacking = found.peers - 1 - len(found.holders)
    shown += f"; {lacking} silent, or without this version" if lacking > 0 else ""
    return f"{count}: {shown}"


def _disk(disk: DiskStatus) -> str:
    used, free = size(disk.used_bytes), size(disk.free_bytes)
    if disk.budget_bytes is None:
        return f"{used} used, {free} free"
    return f"{used} of {size(disk.budget_bytes)} used, {free} free beside them"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def size(size_bytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, each in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size_bytes >= each:
            return f"{size_bytes / each:.1f} {unit}"
    return f"{size_bytes} bytes"


def span(seconds: float) -> str:
    """A length of time in its two largest units; below a minute in whole seconds."""
    rest = int(seconds)
    words: list[str] = []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or words:
            words.append(f"{count} {unit}")
    return " ".join(words[:_UNITS_SHOWN]) or "0 s"


def _table(status: PeerStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("contact", overflow="fold")
    for name in ("round trip", "last answer", "strikes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for contact in status.contacts:
        ago_s = contact.answered_ago_s
        is_silent = ago_s is None or contact.strikes > 0
        cells = (
            contact.address,
            _round_trip(contact),
            "not yet" if ago_s is None else f"{span(ago_s)} ago",
            str(contact.strikes),
            "silent" if is_silent else "",
        )
        style = _SILENT_STYLE if is_silent else ""
        table.add_row(*(Text(cell, style) for cell in cells))
    return table


def _round_trip(contact: ContactStatus) -> str:
    if contact.rtt_s is None:
        return "not known"
    return f"{contact.rtt_s * 1_000:.1f} ms" if contact.rtt_s < 1 else f"{contact.rtt_s:.1f} s"


def _counted(status: PeerStatus) -> str:
    if not status.contact_count:
        return "none: the peers it knows of do not answer" if status.knows_others else "none yet"
    silent = status.silent_count
    if silent == status.contact_count:
        return f"{silent}, all of them silent"
    return f"{status.contact_count}, {silent or 'none'} of them silent"


def _left_out(status: PeerStatus) -> int:
    return status.contact_count - len(status.contacts)


def _since(status: PeerStatus, now: datetime) -> datetime:
    return now - timedelta(seconds=status.up_s)
