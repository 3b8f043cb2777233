"""Every limit and period of the overlay, each with its reason. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be tuned; the defaults suit two to a few thousand peers."""

    # Kademlia §2.2: k = 20 contacts are unlikely to all fail within an hour.
    k: int = 20
    # Requests in flight in one lookup. Five beat three by a quarter at the 95th percentile with
    # 30% of the peers dead; more only adds load.
    alpha: int = 5

    # --- routing table ---
    # Departure from the paper: up to this many contacts, buckets may exceed k, so that a small
    # network is known whole and a lookup is one hop. A contact costs about 1 KB.
    small_network: int = 1_024
    # Proved contacts waiting for a place in a full bucket; as many as could replace all of it.
    replacements_max: int = 20
    # Consecutive misses that drop a contact: one lost packet must drop nobody, and at 20% loss
    # five in a row are one in three thousand.
    strikes_max: int = 5
    # Pauses after the first, second … miss: a reboot of 15 s costs no contact its place.
    strike_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    # Misses of the old address after which a known id is believed at a new one. Two, so that
    # neither a claim alone nor a claim and one lost packet moves a live contact.
    claim_strikes: int = 2
    # Contacts remembered after they were struck out, for how long, and how seldom each is asked
    # again: so the halves of a parted network meet again, at one small ping per period.
    gone_max: int = 1_024
    gone_for_s: float = 86_400.0
    gone_pause_s: float = 30.0

    # --- keepalive and refresh ---
    # The stalest contact is asked once per period: about 20 bytes a second, whatever the size.
    probe_every_s: float = 5.0
    # A contact that answered this recently needs no probe.
    fresh_for_s: float = 15.0
    # Kademlia §2.3: hourly refresh; the jitter keeps peers started together from refreshing so.
    refresh_every_s: float = 3_600.0
    refresh_jitter: float = 0.1

    # --- queries ---
    # Unanswered queries of our own, late ones included. A query costs about 0.5 KB.
    queries_max: int = 8_192
    # How long after a query was sent its answer still counts: twice the patience of a stock node.
    late_for_s: float = 10.0
    # Tries before a caller hears "no answer"; each waits twice as long as the one before.
    ping_tries: int = 3
    store_tries: int = 2

    # --- lookups ---
    # Lookups at work at once; further ones wait their turn.
    lookups_max: int = 256
    # A contact with a clean record is asked twice, so that one lost packet hides no value; one
    # that missed its last question is asked once.
    ask_tries: int = 2
    # While nobody at all has answered, as when only one contact is known yet, each is asked this
    # often before the lookup gives up: silence on every side proves nothing.
    lone_tries: int = 4
    # Questions of one lookup: a miss in a million-peer network needs fewer than 100; beyond that
    # somebody is inventing ever nearer contacts.
    asks_max: int = 256
    # Contacts waiting in one lookup, the nearest kept: six times the k that decide it.
    shortlist_max: int = 128
    # Addresses believed for one id, and ids for one address, in one lookup: one rumour cannot hide
    # the truth, a thousand cannot flood us.
    rumours_max: int = 2

    # --- proof of address ---
    # Answers to unproved addresses, with the ping that comes along, per byte of question.
    amplification_max: int = 3
    # Addresses held as proved: 16,384 entries are about 4 MB. A day: shorter would cost peers that
    # talk seldom an extra round trip; addresses pass to strangers more slowly than that.
    proved_max: int = 16_384
    proved_for_s: float = 86_400.0
    # Answers waiting for proof: 256 answers of at most 1,200 bytes are 300 KB.
    held_max: int = 256
    held_each_max: int = 8
    # A stock node stops listening after 5 s.
    held_for_s: float = 5.0
    # Pings that prove strangers, unanswered ones included: a flood of spoofed questions occupies
    # these and never the queries of our own.
    proofs_max: int = 1_024
    # Pings that one question of a stranger may bring about, the second when the first stays
    # unanswered: one lost packet is no reason not to know a newcomer. Both are within the limit.
    proof_tries: int = 2
    # A stranger that did not answer is not asked again within this pause (unless it asks for a long
    # answer), and the memory of whom we asked.
    introduction_pause_s: float = 60.0
    introductions_max: int = 4_096

    # --- round trips ---
    # The first timeout to a stranger: above nearly every round trip on Earth.
    rtt_initial_s: float = 0.5
    # Below this a busy event loop alone makes answers late.
    rtt_floor_s: float = 0.02
    # The patience of a stock node: nobody answers later.
    rtt_ceiling_s: float = 5.0
    # Least allowance above the mean: the grain of timers and schedulers.
    rtt_margin_s: float = 0.01


DEFAULTS = Settings()
