"""Every limit and period of the overlay, each with its reason. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be tuned; the defaults suit two to a few thousand peers."""

    # Kademlia §2.2: k = 20 contacts are unlikely to all fail within an hour.
    k: int = 20
    # Requests in flight in one lookup. Just after 30% of a thousand peers died, p99 of hits over
    # three seeds is 2.7 round trips; with six 2.8, with five 3.0. It costs a tenth more datagrams.
    alpha: int = 7
    # Questions at once, whatever is in flight, where an answer names somebody nearer than all that
    # are known: the value is likely there, and one alone may be slow. With two instead of none, p99
    # of calm peers falls from 2.1 round trips to 1.9, and just after the deaths from 2.7 to 2.5, at
    # no more datagrams: they only go out sooner.
    leads: int = 2

    # --- routing table ---
    # Departure from the paper: up to this many contacts, buckets may exceed k, so that a small
    # network is known whole and a lookup is one hop. A contact costs about 1 KB.
    small_network: int = 256
    # Proved contacts waiting for a place in a full bucket. Each cost a PING to prove, and others
    # are found by the next lookup.
    replacements_max: int = 4
    # Contacts of one address range (a /24 or a /48, see `ranges`) in the table, and as many waiting
    # for places in it; 0 is no limit. libtorrent has one in each bucket, go-libp2p-kad-dht two in
    # each and three in all; but a network of ours may be ten machines at one hoster, each of which
    # should know most others. 16 of the hundreds that a small network's table holds are no power,
    # and to outnumber everybody else in a table takes dozens of ranges.
    range_limit: int = 16
    # Consecutive misses that drop a contact: one lost packet must drop nobody, and at 20% loss
    # five in a row are one in three thousand.
    strikes_max: int = 5
    # Pauses after the first, second … miss: a reboot of 15 s costs no contact its place.
    strike_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    # The same of a contact of an earlier run that has not answered in this one, and the pause after
    # its first miss, as long as those above together. Nobody counts on it, and who comes back where
    # peers come and go all the time remembers many that are gone.
    unseen_strikes_max: int = 2
    unseen_pause_s: float = 15.0
    # Misses of the old address after which a known id is believed at a new one. Two, so that
    # neither a claim alone nor a claim and one lost packet moves a live contact.
    claim_strikes: int = 2
    # Contacts remembered after they were struck out, for how long, and how seldom each is asked
    # again: so the halves of a parted network meet again, at one small ping per period.
    gone_max: int = 1_024
    gone_for_s: float = 86_400.0
    gone_pause_s: float = 30.0

    # Pause between the first questions to the `join_need` nearest contacts of an earlier run, which
    # are asked within half a second, and to the others: most of these are heard before their turn,
    # and a peer that is restarted every two minutes would spend most of what it sends on them.
    restore_pause_s: float = 0.05
    restore_others_pause_s: float = 10.0

    # --- keepalive and refresh ---
    # The stalest contact is asked once per period, and one rumour proved: in a table of up to k
    # contacts, where each matters, a death is noticed within two minutes, at 20 bytes a second.
    probe_every_s: float = 5.0
    # The period of larger tables: tools/simulate sessions has the curve (ARCHITECTURE.md).
    probe_large_every_s: float = 30.0
    # A contact that answered this recently needs no probe.
    fresh_for_s: float = 15.0
    # Kademlia §2.3: hourly refresh; the jitter keeps peers started together from refreshing so.
    refresh_every_s: float = 3_600.0
    refresh_jitter: float = 0.1

    # --- queries ---
    # Unanswered queries of our own, late ones included, which give way. A query costs about 0.5 KB.
    queries_max: int = 8_192
    # How long after a query was sent its answer still counts: twice the patience of a stock node.
    late_for_s: float = 10.0
    # Tries before a caller hears "no answer"; each waits twice as long as the one before.
    ping_tries: int = 3
    store_tries: int = 2

    # --- lookups ---
    # Lookups at work at once; further ones wait their turn. Where everybody is silent a lookup has
    # up to 75 questions on time, and what finds no place among the queries would count as silence.
    lookups_max: int = 96
    # A contact with a clean record is asked twice, so that one lost packet hides no value; one
    # that missed its last question is asked once.
    ask_tries: int = 2
    # While nobody at all has answered, as when only one contact is known yet, each is asked this
    # often before the lookup gives up: silence on every side proves nothing.
    lone_tries: int = 4
    # Questions of one lookup: a miss in a million-peer network needs fewer than 100; beyond that
    # somebody is inventing ever nearer contacts.
    asks_max: int = 256
    # Questions of a lookup for each one to a contact of its own; and where somebody is seen to lie,
    # paths of those that others named before, on each of which the k / 4 nearest are heard out.
    paths: int = 4
    # Where somebody is seen to lie, generations of what each of those says that are followed, and
    # of each generation so many of the nearest. With half of a thousand peers hostile all of 737
    # values were found so, and of 25 lookups of newcomers 22 without.
    generations: int = 3
    heed: int = 3
    # Own contacts that are asked whatever others say: with half of all peers hostile, ten nearest
    # are all of them in one lookup of a thousand.
    first_hand: int = 10
    # Of the nearest to its own id, as many have to answer a newcomer; they name the others, which
    # it then only has to greet.
    join_need: int = 8
    # And one that comes back, who knows most of them: they only name who has come since.
    return_need: int = 3
    # Questions in flight in a lookup of upkeep.
    upkeep_alpha: int = 2
    # Contacts asked for others, anywhere, when joining and at each refresh.
    glances: int = 8
    # Later one contact is asked so often for others where the fewest are known, until this many of
    # each 32nd part of the id space are: of a thousand peers a quarter, so that one of the k
    # holders of a key is nearly always known.
    gap_every_s: float = 120.0
    known_in_stratum: int = 8
    # Contacts that others named, kept as places to start from; each costs 0.4 KB. Sessions last an
    # hour on average: after half of one, two in five are gone.
    hearsay_max: int = 1_024
    hearsay_each_max: int = 64
    hearsay_for_s: float = 1_800.0
    # Addresses of which is remembered which id they said they have, whatever others say; 0.3 KB
    # each. One whose PING was not answered is forgotten sooner.
    identified_max: int = 4_096
    identified_for_s: float = 1_800.0
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
    # Ids that one address may be asked about at once, and in the long run every so many seconds: a
    # peer that was restarted under a new id is known at once, and one that has another id in every
    # datagram does not turn over its contact, the log and the saved state each time.
    ids_each_burst: int = 4
    ids_each_pause_s: float = 15.0

    # --- rate limits: questions a second, and at once after a pause ---
    # Of all known peers of one host (an IPv4 address, an IPv6 /64). A peer that looks up 10,000
    # names as fast as it can asks each other peer 500 to 1,000 times a second; 50 peers of one
    # household that start together ask 1,000 times at once. 2,000 cost us a tenth of a core.
    known_rate: float = 2_000.0
    known_burst: int = 4_000
    # Of all strangers of one host. A stranger is one for a single round trip, in which it asks at
    # most once for each of its lookups at work; and 50 may start together.
    stranger_rate: float = 100.0
    stranger_burst: int = 1_000
    # Of all strangers of the world: a twentieth of a core, or a tenth with a signature in each. A
    # peer that restarts is asked by all that know it, each a stranger until its first answer.
    strangers_rate: float = 1_000.0
    strangers_burst: int = 4_000
    # Hosts with a bucket, for the known and for strangers. 4,096 buckets are about 1 MB.
    buckets_max: int = 4_096

    # --- round trips ---
    # The first timeout to a stranger: above nearly every round trip on Earth.
    rtt_initial_s: float = 0.5
    # Below this a busy event loop alone makes answers late.
    rtt_floor_s: float = 0.02
    # The patience of a stock node: nobody answers later.
    rtt_ceiling_s: float = 5.0
    # Least allowance above the mean: the grain of timers and schedulers.
    rtt_margin_s: float = 0.01

    @property
    def slots_max(self) -> int:
        """Questions of one lookup in flight, so that there is a place for those of all."""
        return max(1, self.queries_max // (self.lookups_max + 1))

    @property
    def range_bucket_limit(self) -> int:
        """Contacts of one address range in one bucket.

        Half of all honest ids fall into the farthest bucket, so half of the limit there hinders
        nobody before the whole limit does; and 8 are a minority among k = 20.
        """
        return (self.range_limit + 1) // 2


DEFAULTS = Settings()
