"""What RFC 9110 has a server answer to GET and HEAD, worked out the slow way.

The second opinion that `test_http_plan_oracle` holds against `p2pweb.http.plan`. It shares no code
with the package, knows text instead of patterns, tries what is possible instead of calculating,
and writes every answer out in full. Where the RFC leaves a choice, ours is marked CHOICE.

A slice of more than `SLICE_BYTES_MAX` bytes is not written out: a label that names its bounds
stands for it, so that representations may be larger than memory.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from datetime import date

SLICE_BYTES_MAX = 4096

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TOKEN = set(DIGITS + LETTERS + "!#$%&'*+-.^_`|~")

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

# §12.4.2: every way to write a weight, with its thousandths.
WEIGHTS = {"0": 0, "0.": 0, "1": 1000, "1.": 1000, "1.0": 1000, "1.00": 1000, "1.000": 1000}
for places in (1, 2, 3):
    for decimals in itertools.product(DIGITS, repeat=places):
        WEIGHTS["0." + "".join(decimals)] = int("".join(decimals).ljust(3, "0"))


@dataclass(frozen=True)
class File:
    """An encoding of a page."""

    encoding: str
    etag: str
    size: int

    def slice(self, start: int, stop: int) -> bytes:
        """Bytes that tell their place; a label for many of them."""
        if stop - start > SLICE_BYTES_MAX:
            return f"<{self.encoding} {start} {stop}>".encode()
        return bytes((place * 7 + place // 251) % 251 for place in range(start, stop))


@dataclass(frozen=True)
class Page:
    """What is published under a path. `modified` is in seconds since 1970."""

    files: tuple[File, ...]
    status: int = 200
    media_type: str = "text/plain; charset=utf-8"
    modified: int = 1_700_000_000
    cache_control: str = "public, max-age=0"
    own: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A whole answer. The fields are sorted: their order among each other says nothing."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    length: int | None


def answer(method: str, lines: list[tuple[str, str]], page: Page) -> Answer:
    """The answer to a request with these field lines."""
    asked: dict[str, str] = {}
    for name in {name for name, _ in lines}:
        asked[name] = ", ".join(text for other, text in lines if other == name)

    file = negotiate(asked.get("accept-encoding"), page.files)
    vary = [("Vary", "Accept-Encoding")]
    if file is None:
        return Answer(406, vary, b"", 0)
    if len(page.files) == 1:
        vary = []

    about = [("Content-Encoding", file.encoding)] if file.encoding != "identity" else []
    if page.status == 200:
        about.append(("ETag", file.etag))
        about.append(("Last-Modified", write_date(page.modified)))
        about.append(("Accept-Ranges", "bytes"))
    about.append(("Cache-Control", page.cache_control))
    about.append(("X-Content-Type-Options", "nosniff"))
    about.extend(vary)
    about.extend(page.own)
    whole = Answer(
        page.status,
        sorted([*about, ("Content-Type", page.media_type)]),
        file.slice(0, file.size) if method == "GET" else b"",
        file.size,
    )
    if page.status != 200:
        return whole

    # §13.2.2, step by step.
    if "if-match" in asked:
        if not any(tag in ("*", file.etag) for tag in tags_of(asked["if-match"])):
            return Answer(412, vary, b"", 0)
    elif "if-unmodified-since" in asked:
        moment = read_date(asked["if-unmodified-since"], page.modified)
        if moment is not None and moment < page.modified:
            return Answer(412, vary, b"", 0)
    unchanged = False
    if "if-none-match" in asked:
        weak = "W/" + file.etag
        unchanged = any(tag in ("*", file.etag, weak) for tag in tags_of(asked["if-none-match"]))
    elif "if-modified-since" in asked:
        moment = read_date(asked["if-modified-since"], page.modified)
        unchanged = moment is not None and not moment < page.modified
    if unchanged:
        kept = [("ETag", file.etag), ("Cache-Control", page.cache_control), *vary]
        for name, text in page.own:
            if name.title() in ("Content-Location", "Expires", "Cache-Control", "Vary"):
                kept.append((name, text))
        return Answer(304, sorted(kept), b"", None)
    if method == "HEAD" or "range" not in asked:
        return whole
    if "if-range" in asked:
        condition = asked["if-range"]
        if condition != file.etag and read_date(condition, page.modified) != page.modified:
            return whole
    return ranges(asked["range"], page, file, whole, about, vary)


# §12.5.3


def negotiate(text: str | None, files: tuple[File, ...]) -> File | None:
    """The file that is liked best."""
    liked: dict[str, int] = {}
    if text is not None:
        # CHOICE: what breaks the grammar is passed over, of a repeated coding the first counts,
        # and after 32 elements nobody listens.
        elements = [part.strip(" \t") for part in text.split(",")]
        for element in [part for part in elements if part != ""][:32]:
            coding, semicolon, rest = element.partition(";")
            coding = coding.rstrip(" \t")
            rest = rest.lstrip(" \t")
            if coding == "" or not set(coding) <= TOKEN:
                continue
            weight = 1000
            if semicolon:
                if rest[:2] not in ("q=", "Q=") or rest[2:] not in WEIGHTS:
                    continue
                weight = WEIGHTS[rest[2:]]
            coding = coding.lower()
            if coding == "x-gzip":
                coding = "gzip"
            if coding not in liked:
                liked[coding] = weight

    def weight_of(file: File) -> float:
        if text is None:
            # CHOICE: any coding is acceptable; identity is the one that all understand.
            return 2 if file.encoding == "identity" else 1
        for coding in (file.encoding, "*"):
            if coding in liked:
                return liked[coding]
        # CHOICE: an identity that was not asked for comes last.
        return 0.1 if file.encoding == "identity" else 0

    # CHOICE: of those liked alike the smallest, then the server's first.
    most = max(weight_of(file) for file in files)
    smallest = min(file.size for file in files if weight_of(file) == most)
    for file in files:
        if most > 0 and weight_of(file) == most and file.size == smallest:
            return file
    return None


# §8.8.3


def tags_of(text: str) -> list[str]:
    """The tags of a list; the asterisk as "*"; nothing where the grammar is broken."""
    if text.strip(" \t") == "*":
        return ["*"]
    elements = [""]
    quoted = False
    for letter in text:
        if letter == '"':
            quoted = not quoted
        if letter == "," and not quoted:
            elements.append("")
        else:
            elements[-1] += letter
    tags = [element.strip(" \t") for element in elements if element.strip(" \t") != ""]
    for tag in tags:
        opaque = tag[2:] if tag[:2] == "W/" else tag
        if len(opaque) < 2 or opaque[0] != '"' or opaque[-1] != '"':
            return []
        if any(letter in '" \t\x7f' or letter < "!" for letter in opaque[1:-1]):
            return []
    return tags


# §5.6.7


def write_date(moment: int) -> str:
    """IMF-fixdate."""
    then = date.fromordinal(719163 + moment // 86400)
    clock = moment % 86400
    time = f"{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}"
    return _three_forms(then.year, then.month, then.day, time)[0]


def _three_forms(year: int, month: int, day: int, time: str) -> list[str]:
    name = DAYS[date(year, month, day).weekday()]
    return [
        f"{name[:3]}, {day:02} {MONTHS[month]} {year:04} {time} GMT",
        f"{name}, {day:02}-{MONTHS[month]}-{year % 100:02} {time} GMT",
        f"{name[:3]} {MONTHS[month]} {day:02} {time} {year:04}",
        f"{name[:3]} {MONTHS[month]} {day:2} {time} {year:04}",
    ]


def read_date(text: str, near: int) -> int | None:
    """Seconds since 1970. What a date seems to say must, written again, give the same text."""
    try:
        if text[3:4] == ",":
            day, month, year, time = text[5:].split(" ")[:4]
        elif "-" in text:
            dashed, time = text.split(" ")[1:3]
            day, month, year = dashed.split("-")
        else:
            month, day, time, year = text[4:].replace("  ", " ").split(" ")
        hours, minutes, seconds = map(int, time.split(":"))
        if hours > 23 or minutes > 59 or seconds > 60:
            return None
        if any(letter not in DIGITS for letter in time.replace(":", "")) or len(time) != 8:
            return None
        # CHOICE: "now", from which the century is guessed, is the page's own date.
        years = [int(year)]
        if "-" in text:
            years = [century + int(year) for century in range(2900, 0, -100)]
        for guess in years:
            days = date(guess, MONTHS.index(month), 1).toordinal() - 719163 + int(day) - 1
            moment = days * 86400 + hours * 3600 + minutes * 60 + seconds
            if "-" in text and moment > _fifty_years_after(near):
                continue
            forms = _three_forms(guess, MONTHS.index(month), int(day), time)
            return moment if text in forms else None
    except (ValueError, IndexError):
        pass
    return None


def _fifty_years_after(moment: int) -> int:
    then = date.fromordinal(719163 + moment // 86400)
    return (then.replace(year=then.year + 50).toordinal() - 719163) * 86400 + moment % 86400


# §14


def ranges(
    text: str,
    page: Page,
    file: File,
    whole: Answer,
    about: list[tuple[str, str]],
    vary: list[tuple[str, str]],
) -> Answer:
    """The answer to GET with a Range field whose If-Range holds."""
    if text[:6].lower() != "bytes=":
        return whole
    specs = [spec.strip(" \t") for spec in text[6:].split(",")]
    specs = [spec for spec in specs if spec != ""]
    # CHOICE: more than 16 are too many.
    if len(specs) not in range(1, 17):
        return whole
    # Each wanted part: where it was asked, its first byte and its last.
    wanted: list[tuple[int, int, int]] = []
    for place, spec in enumerate(specs):
        first, dash, last = spec.partition("-")
        if not dash or not set(first) <= set(DIGITS) or not set(last) <= set(DIGITS):
            return whole
        if first == last == "":
            return whole
        if first and last and int(last) < int(first):
            return whole
        if first == "":
            if int(last) > 0:
                wanted.append((place, max(file.size - int(last), 0), file.size - 1))
        elif int(first) < file.size:
            end = int(last) if last else file.size - 1
            wanted.append((place, int(first), min(end, file.size - 1)))
    if not wanted:
        return Answer(416, sorted([("Content-Range", f"bytes */{file.size}"), *vary]), b"", 0)
    if file.size == 0:
        return whole

    wanted = unite(wanted, least_head(page, file))
    if len(wanted) == 1:
        _, first_byte, last_byte = wanted[0]
        fields = [
            *about,
            ("Content-Type", page.media_type),
            ("Content-Range", f"bytes {first_byte}-{last_byte}/{file.size}"),
        ]
        body = file.slice(first_byte, last_byte + 1)
        return Answer(206, sorted(fields), body, last_byte + 1 - first_byte)

    body, length = b"", 0
    for _, first_byte, last_byte in wanted:
        head = part_head(page, file, first_byte, last_byte).encode()
        body += head + file.slice(first_byte, last_byte + 1)
        length += len(head) + last_byte + 1 - first_byte
    close = f"\r\n--{boundary(file)}--\r\n".encode()
    # The first line break is none of the first part's: the body begins with two hyphens.
    body, length = (body + close)[2:], length + len(close) - 2
    # CHOICE: never more bytes than all of it.
    if length >= file.size:
        return whole
    content_type = ("Content-Type", f"multipart/byteranges; boundary={boundary(file)}")
    return Answer(206, sorted([*about, content_type]), body, length)


def unite(wanted: list[tuple[int, int, int]], overhead: int) -> list[tuple[int, int, int]]:
    """§15.3.7.2: pairs become one until no two of them overlap or are near each other."""
    for one, other in itertools.combinations(wanted, 2):
        left, right = sorted([one, other], key=lambda part: part[1])
        if right[1] - (left[2] + 1) < overhead:
            both = (min(one[0], other[0]), left[1], max(one[2], other[2]))
            return unite([part for part in wanted if part not in (one, other)] + [both], overhead)
    return sorted(wanted)


def part_head(page: Page, file: File, first: int, last: int) -> str:
    """What stands before the bytes of a part."""
    return "\r\n".join(
        [
            "",
            "--" + boundary(file),
            "Content-Type: " + page.media_type,
            "Content-Range: bytes " + str(first) + "-" + str(last) + "/" + str(file.size),
            "",
            "",
        ]
    )


def least_head(page: Page, file: File) -> int:
    """The bytes that a part costs at the least."""
    return len(part_head(page, file, 0, 0))


def boundary(file: File) -> str:
    """CHOICE: half of the ETag's SHA-256."""
    return hashlib.sha256(file.etag.encode()).hexdigest()[:32]


def read_multipart(body: bytes, limit: str) -> list[tuple[dict[str, str], bytes]]:
    """The fields and bytes of each part (RFC 2046 §5.1.1), strictly as we write them."""
    nothing, *parts, end = (b"\r\n" + body).split(f"\r\n--{limit}".encode())
    assert nothing == b""
    assert end == b"--\r\n"
    read = []
    for part in parts:
        assert part[:2] == b"\r\n"
        head, content = part[2:].split(b"\r\n\r\n", 1)
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        read.append((fields, content))
    return read
