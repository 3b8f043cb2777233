"""Which sites this peer keeps, and what the overlay sees of what it holds.

A peer keeps its home site. One without a home takes the first site of which a publisher or another
peer hands it a signed record by HTTP. What arrives by STORE is judged here: a record of another
site, at a wrong key, not signed, or older is refused, and only a record's own key can change that.
"""

import logging
from collections.abc import Callable, Mapping

from p2pweb.address import Address
from p2pweb.dht.serving import Held as HeldValue
from p2pweb.errors import CorruptError
from p2pweb.keys import SiteId
from p2pweb.records import (
    InvalidRecordError,
    Record,
    Signed,
    SiteRecord,
    open_record,
    record_key,
)
from p2pweb.store.items import Full, Held, Item, Stale
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.holdings")


class Holdings:
    """The overlay's `Records`, and the one word on what is kept.

    `adopted` is called when a home site was chosen, `news` when somebody, at that address,
    tells of a newer version of the home site, whose manifest is not here; without a home, of any.
    """

    def __init__(
        self,
        store: Store,
        home: SiteId | None,
        adopted: Callable[[SiteId], None],
        news: Callable[[Signed, Address], None],
    ) -> None:
        self._store = store
        self._adopted = adopted
        self._news = news
        self.home = home

    def keeps(self, site: SiteId) -> bool:
        """Whether this peer stores what belongs to a site."""
        return site == self.home

    def takes(self, site: SiteId) -> bool:
        """Whether it stores this one from now on: without a home, it does."""
        if self.home is None:
            self.adopt(site)
        return self.keeps(site)

    def adopt(self, site: SiteId) -> None:
        """Make a site the home site."""
        log.info("the home site is %s from now on", site)
        self.home = site
        self._adopted(site)

    def find(self, key: bytes) -> HeldValue | None:
        try:
            kept = self._store.find(key)
        except CorruptError as error:
            log.warning("%s", error)
            return None
        if kept is None:
            return None
        extra = {"has": kept.has_bytes}
        if isinstance(kept.signed.record, SiteRecord):
            # Whoever asks need not ask by HTTP too.
            extra["keeps"] = self.keeps(kept.signed.record.site)
        return HeldValue(kept.signed.value, extra)

    def store(self, key: bytes, value: bytes, sender: Address) -> bool | Mapping[str, str | int]:
        """Keep a record that came by UDP. Its bytes come by HTTP, if this peer is to have them."""
        try:
            return self._judge(key, open_record(value), sender)
        except InvalidRecordError as error:
            return {"refused": str(error)}
        except (CorruptError, OSError) as error:
            log.error("this peer's disk refused a record: %s", error)
            return {"refused": "disk"}

    def _judge(self, key: bytes, signed: Signed, sender: Address) -> bool | Mapping[str, str | int]:
        segment = _segment_of(signed.record, key)
        if segment is None:
            return {"refused": "the record does not belong at this key"}
        site = signed.record.site
        if not self.keeps(site):
            if self.home is None and isinstance(signed.record, SiteRecord):
                self._news(signed, sender)
            return {"refused": "this peer does not store the site"}
        kept = self._store.find(key)
        if kept is not None and kept.signed == signed:
            return True
        if isinstance(signed.record, SiteRecord):
            if kept is not None and kept.signed.record.seq >= signed.record.seq:
                return {"stale": kept.signed.record.seq}
            # It is kept with its manifest or not at all.
            self._news(signed, sender)
            return {"want": signed.record.manifest_root.hex()}
        if self._store.is_writing:
            return {"refused": "busy"}
        outcome = self._store.commit([Item(signed, segment, with_bytes=False)])[0]
        match outcome:
            case Held():
                return True
            case Full():
                return {"refused": "full"}
            case Stale(newer):
                return {"stale": open_record(newer).record.seq}
            case refused:
                return {"refused": refused.why}


def _segment_of(record: Record, key: bytes) -> int | None:
    """Which of a record's segments has this key."""
    segments = range(record.segment_count)
    return next((n for n in segments if record_key(record, n) == key), None)
