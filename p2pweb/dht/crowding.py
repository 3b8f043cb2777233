"""Whether far more peers stand next to a key than chance puts there, and where to look then. Pure.

Ids cost nothing, so somebody may have all k that are nearest to a key, take what is stored there
and hand out nothing, or what is old. But then these stand closer together than peers do elsewhere,
and around them are the honest ones, as many as anywhere: a lookup that hears out everybody within
the distance in which k are to be expected finds those too ("region-based queries", Sridhar et al.,
"Content Censorship in the InterPlanetary File System", NDSS 2024).
"""

from __future__ import annotations

from p2pweb.dht.contact import ID_BYTES

# A Poisson variable is so many standard deviations above its mean in fewer than one of ten thousand
# cases; what the table says of how far apart peers stand is off by a fifth. Whoever has all of the
# k nearest, and is not seen by this, has them where the nearest honest peer happens to be three
# times as far as it usually is from the last of k: for one key in a thousand.
DEVIATIONS = 4.5
# Of the space around a crowd so many halves, each half as large as the one before: what is nearer
# has less than one honest peer in it.
HALVES = 5


def around(key: bytes, radius: int, usual: int, k: int) -> list[bytes]:
    """Keys (20 bytes) next to which those stand who are around a crowd; none where there is none.

    `radius` is how far the last of the k nearest to `key` is, `usual` how far that is elsewhere.
    """
    expected = k * radius / usual
    if k <= expected + DEVIATIONS * expected**0.5:
        return []
    top = usual.bit_length()
    target = int.from_bytes(key, "big")
    bits = range(max(radius.bit_length(), top - HALVES), top)
    return [(target ^ 1 << bit).to_bytes(ID_BYTES, "big") for bit in bits]
