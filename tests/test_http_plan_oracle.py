"""The response plan against an independent second opinion, for random requests.

P2PWEB_ORACLE_CASES says how many (3,000), P2PWEB_ORACLE_SEED which (0). A case is a function of
the seed and its number, so what a failure prints replays it.
"""

from __future__ import annotations

import os
from random import Random

import http_oracle as oracle
import pytest
from http_oracle import File, Page

from p2pweb.http.messages import HTTP_1_1, Request, Span
from p2pweb.http.plan import Plan, Planner, Representation, Resource

CASES = int(os.environ.get("P2PWEB_ORACLE_CASES", "3000"))
SEED = int(os.environ.get("P2PWEB_ORACLE_SEED", "0"))
# Cases are counted off in tests of this many, for a failure to say roughly where.
CASES_IN_A_TEST = 500

HUGE = 5_000_000_007


def files(**sizes: int) -> tuple[File, ...]:
    return tuple(File(name, f'"{name}-{size:x}"', size) for name, size in sizes.items())


PAGES = (
    Page(files(identity=1000)),
    Page(files(identity=0)),
    Page(files(identity=1)),
    Page(files(identity=2, gzip=22)),
    Page(files(identity=1000, gzip=700, br=700, zstd=690)),
    Page(files(identity=1000, br=900, zstd=900, gzip=901), media_type="image/svg+xml"),
    Page(files(identity=HUGE), media_type="video/mp4", own=(("X-Own", "1"),)),
    Page(files(identity=HUGE, gzip=HUGE // 2), modified=86_400),
    Page(files(gzip=300)),
    Page(files(zstd=0, identity=0, br=0)),
    Page(files(identity=1000, gzip=700), status=404, own=(("X-Own", "1"), ("Expires", "0"))),
    Page(
        files(identity=5000),
        own=(("expires", "0"), ("X-Own", "1"), ("Content-Location", "/x"), ("Vary", "Origin")),
    ),
)


def resource(page: Page) -> Resource:
    return Resource(
        media_type=page.media_type,
        last_modified_s=page.modified,
        representations=tuple(
            Representation(encoding=file.encoding, size_bytes=file.size, etag=file.etag)
            for file in page.files
        ),
        cache_control=page.cache_control,
        status=page.status,
        fields=page.own,
    )


# One planner serves all requests for a page, as it does in use.
PLANNERS = {page: Planner(resource(page)) for page in PAGES}


# Values


def entity_tags(random: Random, page: Page) -> str:
    own = [file.etag for file in page.files]
    known = [*own, *own, "W/" + random.choice(own), '"other"', 'W/"other"', '""', '"a,b"', '"\xe9"']
    if random.random() < 0.15:
        return random.choice(
            ["*", "*,", "", ",", "W/", '"', '" "', own[0].strip('"'), f"*, {own[0]}"]
        )
    separator = random.choice([", ", ",", " ,\t", ",,", ", , ", " "])
    tags = [random.choice(known) for _ in range(random.choice([1, 1, 1, 2, 3]))]
    return random.choice(["", "", "", ",", ", "]) + separator.join(tags)


def if_match(random: Random, page: Page) -> str:
    # Held for the most part, so that what comes after it is judged too.
    if random.random() < 0.6:
        return ", ".join(file.etag for file in page.files)
    return entity_tags(random, page)


def date(random: Random, page: Page) -> str:
    if random.random() < 0.1:
        return random.choice(["", "0", "never", "Thu, 30 Feb 2023 00:00:00 GMT", '"x"'])
    day_s = 86_400
    # Fifty years, with twelve leap days or thirteen, are as far ahead as two digits reach.
    near = [0, 0, 0, -1, -1, 1, -day_s, day_s, 18_262 * day_s, 18_263 * day_s, 18_263 * day_s]
    moment = page.modified + random.choice(near) + random.choice([0, 0, 0, random.randrange(-9, 9)])
    text = oracle.write_date(max(moment, 0))
    name, day, month, year, time, _ = text.replace(",", "").split()
    if random.random() < 0.05:
        time = random.choice(
            [time[:6] + "60", time[:6] + "61", "24" + time[2:], time[:3] + "60:00"]
        )
    if random.random() < 0.05:
        name = random.choice([each[:3] for each in oracle.DAYS])
    long_name = next(each for each in oracle.DAYS if each.startswith(name))
    return random.choice(
        [
            f"{name}, {day} {month} {year} {time} GMT",
            f"{name}, {day} {month} {year} {time} GMT",
            f"{long_name}, {day}-{month}-{year[2:]} {time} GMT",
            f"{name} {month} {int(day):2} {time} {year}",
            f"{name} {month} {day} {time} {year}",
        ]
    )


def if_range(random: Random, page: Page) -> str:
    own = random.choice(page.files).etag
    exact = [own, own, own, oracle.write_date(page.modified)]
    return random.choice([*exact, "W/" + own, entity_tags(random, page), date(random, page)])


def accept_encoding(random: Random, page: Page) -> str:
    del page
    codings = ["gzip", "br", "zstd", "identity", "*", "x-gzip", "GZip", "deflate", "q", "a b", ""]
    weights = [
        *["", "", ";q=1", ";q=0", ";q=0.5", ";q=0.501", "; q=0.001", " ;\tQ=0.9", ";q=0.000"],
        *[";q=1.000", ";q=0.", ";q=1.001", ";q=0.0001", ";q=-1", ";q=", ";", ";level=9", ";q= 1"],
    ]
    if random.random() < 0.02:
        return ",".join(["pad"] * random.choice([31, 32]) + ["gzip"])
    return random.choice([",", ", ", " , "]).join(
        random.choice(codings) + random.choice(weights)
        for _ in range(random.choice([0, 1, 2, 3, 5]))
    )


def byte_ranges(random: Random, page: Page) -> str:
    file = random.choice(page.files)
    size = file.size

    def place() -> int:
        edges = [0, 1, size // 2, size - 1, size, size + 1, random.randrange(size + 1), 10**25]
        return max(0, random.choice(edges))

    def spec() -> str:
        kind = random.random()
        if kind < 0.2:
            return f"-{random.choice([0, 1, 5, size, place()])}"
        if kind < 0.35:
            return f"{place()}-"
        if kind < 0.4:
            return f"{place()}-{place()}"
        if kind < 0.42:
            # More digits than are ever converted.
            return f"{10**25}-{10**25 - random.choice([0, 1])}"
        start = place()
        return f"{start}-{start + random.choice([0, 1, 9, 100, 20_000])}"

    def near() -> list[str]:
        # Ranges whose gaps are about as long as a part's head.
        at, specs = random.randrange(50), []
        for _ in range(random.choice([2, 3])):
            stop = at + random.randrange(20)
            specs.append(f"{at}-{stop}")
            at = stop + 1 + oracle.least_head(page, file) + random.choice([-1, 0, 1, 200])
        return specs

    def full() -> list[str]:
        # Two ranges that, as a multipart, are about as long as the whole.
        middle, last = random.randrange(1, 400), max(size - 1, 0)
        heads = [
            oracle.part_head(page, file, 0, middle - 1),
            oracle.part_head(page, file, 600, last),
        ]
        frame = len("".join(heads)) - len("\r\n") + len(oracle.boundary(file)) + len("\r\n----\r\n")
        return [f"0-{middle - 1}", f"{middle + frame + random.choice([-1, 0, 1])}-"]

    if random.random() < 0.12:
        return random.choice(
            [
                "bytes",
                "bytes=",
                "bytes=-",
                "bytes=1",
                "lines=0-1",
                "bytes =0-1",
                "bytes=0-1;2-3",
                "",
            ]
        )
    unit = random.choice(["bytes=", "bytes=", "bytes=", "Bytes="])
    kind = random.random()
    if kind < 0.15:
        specs = near()
    elif kind < 0.35:
        specs = full()
    elif kind < 0.4:
        specs = [f"{number * 7}-{number * 7}" for number in range(random.choice([15, 16, 17]))]
    else:
        specs = [spec() for _ in range(random.choice([1, 1, 2, 2, 3, 5]))]
    if random.random() < 0.3:
        random.shuffle(specs)
    return unit + random.choice([",", ", ", " ,\t", ",,"]).join(specs)


VALUES = {
    "if-match": (if_match, 0.25),
    "if-unmodified-since": (date, 0.25),
    "if-none-match": (entity_tags, 0.2),
    "if-modified-since": (date, 0.2),
    "if-range": (if_range, 0.25),
    "range": (byte_ranges, 0.7),
    "accept-encoding": (accept_encoding, 0.6),
}
# Put in anywhere: what separates, what quotes, what is a digit somewhere else.
STRAY = ' \t,;=-*"/Ww0919q.\xb2\xe9\x80'


def field_lines(random: Random, page: Page) -> list[tuple[str, str]]:
    lines = [("host", "example.com"), ("user-agent", "range")]
    for name, (make, share) in VALUES.items():
        while random.random() < share:
            text = make(random, page)
            if random.random() < 0.05:
                at = random.randrange(len(text) + 1)
                text = text[:at] + random.choice(STRAY) + text[at + random.choice([0, 1]) :]
            # The parser strips what surrounds a value.
            lines.append((name, text.strip(" \t")))
            # Another line of the same name is rare.
            share = 0.05
    random.shuffle(lines)
    return lines


# The comparison


def as_answer(plan: Plan, page: Page) -> oracle.Answer:
    """The plan carried out. Asserts that the promised length is that of the pieces."""
    by_etag = {file.etag: file for file in page.files}
    body, length = b"", 0
    for piece in plan.pieces:
        if isinstance(piece, Span):
            assert plan.representation is not None
            body += by_etag[plan.representation.etag].slice(piece.start, piece.stop)
            length += piece.stop - piece.start
        else:
            body += piece
            length += len(piece)
    assert length == plan.content_length or not plan.pieces
    return oracle.Answer(plan.status, sorted(plan.fields), body, plan.content_length)


def check_parts(answer: oracle.Answer, page: Page) -> None:
    """Each part of a multipart body holds what its Content-Range says."""
    fields = dict(answer.fields)
    kind, _, limit = fields["Content-Type"].partition("; boundary=")
    if kind != "multipart/byteranges":
        return
    file = next(file for file in page.files if file.etag == fields["ETag"])
    parts = oracle.read_multipart(answer.body, limit)
    assert len(parts) > 1
    for part, content in parts:
        assert part["Content-Type"] == page.media_type
        unit, _, bounds = part["Content-Range"].removesuffix(f"/{file.size}").partition(" ")
        first, last = map(int, bounds.split("-"))
        assert (unit, content) == ("bytes", file.slice(first, last + 1))


@pytest.mark.parametrize("begin", range(0, CASES, CASES_IN_A_TEST))
def test_plan_agrees_with_the_oracle(begin: int) -> None:
    for number in range(begin, min(begin + CASES_IN_A_TEST, CASES)):
        random = Random(f"{SEED} {number}")
        page = random.choice(PAGES)
        method = random.choice(["GET", "GET", "GET", "HEAD"])
        lines = field_lines(random, page)
        request = Request(
            method=method,
            target=b"/",
            version=HTTP_1_1,
            fields=tuple((name.encode(), text.encode("latin-1")) for name, text in lines),
            host="example.com",
            host_port=None,
            content_length=0,
            keep_alive=True,
            expects_continue=False,
        )
        case = f"seed {SEED}, case {number}: {method} {page}\n{lines}"
        expected = oracle.answer(method, lines, page)
        planned = as_answer(PLANNERS[page].plan(request), page)
        assert planned == expected, case
        if planned.status == 206:
            check_parts(planned, page)
