"""The grammars inside field values: dates, entity-tags, lists, ranges, encodings.

Bytes of one field value in, values out. A value that breaks its grammar is no error here: RFC 9110
has every one of these fields ignored when it is invalid, so the answer is None or "nothing", and
says which. Knows no resource and no clock; `plan` decides what a value means.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from p2pweb.http.messages import Span

# More digits than any length of ours. Longer ones are read as this, so that a client cannot
# have thousands of digits converted.
_DIGITS_MAX = 18
_HUGE = 10**_DIGITS_MAX

# A visitor with an honest need asks for a handful of ranges; many small ones are an attack
# (CVE-2011-3192), which RFC 9110 §14.2 lets a server ignore.
RANGES_MAX = 16

# No client lists more codings than there are registered; the rest is not looked at.
CODINGS_MAX = 32

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DAY = rf"(?P<day>{'|'.join(_DAYS)})"
_LONG_DAY = rf"(?P<day>{'|'.join(_LONG_DAYS)})"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
# RFC 9110 §5.6.7: IMF-fixdate, then the two obsolete forms of RFC 850 and of asctime.
_DATE_FORMS = tuple(
    re.compile(form.encode())
    for form in (
        rf"{_DAY}, (?P<date>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<date>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<date>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


def format_date(unix_s: int) -> str:
    """Seconds since 1970 as an IMF-fixdate, the only form that may be written."""
    then = time.gmtime(unix_s)
    return (
        f"{_DAYS[then.tm_wday]}, {then.tm_mday:02} {_MONTHS[then.tm_mon - 1]} {then.tm_year:04} "
        f"{then.tm_hour:02}:{then.tm_min:02}:{then.tm_sec:02} GMT"
    )


def parse_date(value: bytes, *, near_unix_s: int) -> int | None:
    """Seconds since 1970 of an HTTP-date in any of its three forms; None if it is none.

    `near_unix_s` places the two-digit year of the RFC 850 form: not more than 50 years later.
    A day name that contradicts the date makes it invalid.
    """
    for form in _DATE_FORMS:
        if match := form.fullmatch(value):
            return _date_from(match, near_unix_s)
    return None


def _date_from(match: re.Match[bytes], near_unix_s: int) -> int | None:
    year, date = int(match["year"]), int(match["date"])
    month = _MONTHS.index(match["month"].decode()) + 1
    hour, minute, second = (int(match[name]) for name in ("hour", "minute", "second"))
    if len(match["year"]) == 2:
        # RFC 9110 §5.6.7: a timestamp that appears to be more than 50 years in the future is
        # the most recent year in the past that had the same last two digits.
        near = time.gmtime(near_unix_s)
        latest = near.tm_year + 50
        year = latest - (latest - year) % 100
        if (year, month, date, hour, minute, second) > (latest, *near[1:6]):
            year -= 100
    try:
        # The grammar has 60 for a leap second; POSIX time counts it as the next second.
        then = datetime(year, month, date, hour, minute, min(second, 59))  # noqa: DTZ001
    except ValueError:
        return None
    if second > 60 or _DAYS[then.weekday()] != match["day"][:3].decode():
        return None
    return calendar.timegm((year, month, then.day, hour, minute, second))


# RFC 9110 §8.8.3: etagc is any visible character but the double quote, so a comma is allowed.
_ENTITY_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_LIST_GAP = re.compile(rb"[ \t]*,[ \t,]*")


def parse_entity_tags(value: bytes) -> tuple[str, ...]:
    """The tags of If-Match or If-None-Match, quoted as sent; `("*",)` for the asterisk.

    A value that breaks the grammar gives no tag at all: nothing matches it.
    """
    # RFC 9110 §13.1.1: the asterisk is no element of a list, so nothing else may stand by it.
    if value.strip(b" \t") == b"*":
        return ("*",)
    value = value.strip(b" \t,")
    tags: list[str] = []
    at = 0
    while match := _ENTITY_TAG.match(value, at):
        tags.append(match[0].decode("latin-1"))
        if match.end() == len(value):
            return tuple(tags)
        gap = _LIST_GAP.match(value, match.end())
        if gap is None:
            break
        at = gap.end()
    return ()


def match_strongly(left: str, right: str) -> bool:
    """RFC 9110 §8.8.3.2: both are strong, and they are alike character by character."""
    return left == right and not left.startswith("W/")


def match_weakly(left: str, right: str) -> bool:
    """RFC 9110 §8.8.3.2: they are alike but for the weakness of either."""
    return left.removeprefix("W/") == right.removeprefix("W/")


def split_list(value: bytes) -> list[bytes]:
    """The elements of a comma-separated list of tokens (no quoted strings), blanks stripped."""
    # RFC 9110 §5.6.1.2: a recipient MUST parse and ignore a reasonable number of empty elements.
    return [element for part in value.split(b",") if (element := part.strip(b" \t"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSpec:
    """One asked range: bytes `first` to `last` inclusive, or the final `last` bytes.

    `first` is None for the second; an open end has a `last` beyond any size.
    """

    first: int | None
    last: int

    def resolve(self, size_bytes: int) -> Span | None:
        """The bytes that it means of `size_bytes` bytes; None if it is unsatisfiable."""
        if self.first is None:
            # RFC 9110 §14.1.2: a suffix-range is satisfiable if the suffix-length is non-zero,
            # and is the whole representation where that is shorter.
            return Span(max(0, size_bytes - self.last), size_bytes) if self.last else None
        if self.first >= size_bytes:
            return None
        return Span(self.first, min(self.last + 1, size_bytes))


_RANGE_UNIT = re.compile(rb"bytes=", re.IGNORECASE)
_RANGE_SPEC = re.compile(rb"([0-9]+)-([0-9]*)|-([0-9]+)")


def parse_range(value: bytes) -> tuple[RangeSpec, ...] | None:
    """The ranges of a Range field; None if it is to be ignored.

    Ignored are other units than bytes, broken grammar, a last position before the first, and more
    than `RANGES_MAX` ranges.
    """
    if not _RANGE_UNIT.match(value):
        return None
    elements = split_list(value[len(b"bytes=") :])
    if not 1 <= len(elements) <= RANGES_MAX:
        return None
    specs: list[RangeSpec] = []
    for element in elements:
        match = _RANGE_SPEC.fullmatch(element)
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            specs.append(RangeSpec(first=None, last=_capped_int(suffix)))
            continue
        # RFC 9110 §14.1.1: an int-range is invalid if last-pos is less than first-pos, and so is
        # the whole ranges-specifier; §14.2: a server MAY ignore an invalid one.
        if last and _magnitude(last) < _magnitude(first):
            return None
        specs.append(RangeSpec(first=_capped_int(first), last=_capped_int(last) if last else _HUGE))
    return tuple(specs)


def _magnitude(digits: bytes) -> tuple[int, bytes]:
    # Orders numbers of any length without converting them.
    digits = digits.lstrip(b"0")
    return len(digits), digits


def _capped_int(digits: bytes) -> int:
    digits = digits.lstrip(b"0") or b"0"
    return int(digits) if len(digits) <= _DIGITS_MAX else _HUGE


# RFC 9110 §12.4.2: a weight is 0 to 1 with at most three decimals.
_CODING = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def parse_accept_encoding(value: bytes) -> Mapping[str, int]:
    """Each named coding (lower-case) with its weight in thousandths, 0 to 1,000.

    An element that breaks the grammar is passed over; of a coding named twice the first counts.
    """
    weights: dict[str, int] = {}
    for element in split_list(value)[:CODINGS_MAX]:
        match = _CODING.fullmatch(element)
        if match is None:
            continue
        coding = match[1].decode().lower()
        # RFC 9110 §8.4.1.3: a recipient SHOULD consider "x-gzip" to be equivalent to "gzip".
        coding = "gzip" if coding == "x-gzip" else coding
        weight = 1000 if match[2] is None else round(float(match[2]) * 1000)
        weights.setdefault(coding, weight)
    return weights
