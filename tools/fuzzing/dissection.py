"""A message taken apart without judging it, and the grammars that rules ask about.

Shares nothing with the parser that is tried: what that one reads by regular expressions is read
here by counting and walking.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import takewhile

_TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_HOST_BYTES = frozenset(b"-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Dissection:
    """A message taken apart without judging it: any line end counts, any number of empty lines."""

    def __init__(self, message: bytes) -> None:
        empty = re.match(rb"(?:\r*\n)*", message)
        assert empty is not None
        self.before = empty[0]
        self.empty_lines = self.before.count(b"\n")
        message = message[empty.end() :]
        end = re.search(rb"\n\r*\n|\Z", message)
        assert end is not None
        self.head = message[: end.end()]
        self.after = message[end.end() :]
        self.lines = [line.removesuffix(b"\r") for line in self.head.split(b"\n")]
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        first = self.lines[0] if self.lines else b""
        self.method, _, rest = first.partition(b" ")
        self.target, _, self.version = rest.rpartition(b" ")

    @cached_property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, values; blanks taken off. A folded line stands for itself."""
        pairs = (line.partition(b":") for line in self.lines[1:])
        return [(name.strip().lower(), value.strip(b" \t")) for name, _, value in pairs]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def elements(self, name: bytes) -> list[bytes]:
        """The elements of a list field, in lower case."""
        joined = b",".join(self.values(name)).lower()
        return [element.strip(b" \t") for element in joined.split(b",")]

    @cached_property
    def chunk_lines(self) -> list[bytes]:
        """The chunk lines that can be walked to, each with its CRLF if it has one."""
        lines: list[bytes] = []
        at = 0
        while True:
            end = self.after.find(b"\n", at)
            line = self.after[at : end + 1] if end >= 0 else self.after[at:]
            lines.append(line)
            size = re.match(rb"[0-9A-Fa-f]+", line)
            if size is None or end < 0 or int(size[0], 16) == 0:
                self.after_chunks = self.after[at + len(line) :]
                return lines
            at = end + 1 + int(size[0], 16) + 2
            if at > len(self.after):
                self.after_chunks = b""
                return lines

    @cached_property
    def trailers(self) -> bytes:
        """What stands behind the last chunk, up to and with an empty line."""
        assert self.chunk_lines
        section = re.match(rb"(?s).*?(?:(?:\A|\n)\r*\n|\Z)", self.after_chunks)
        assert section is not None
        return section[0]

    @property
    def trailer_lines(self) -> list[bytes]:
        return self.trailers.split(b"\n")

    @property
    def is_chunked(self) -> bool:
        return any(b"chunked" in value.lower() for value in self.values(b"transfer-encoding"))


def is_token(value: bytes) -> bool:
    return bool(value) and all(byte in _TCHAR for byte in value)


def is_host(value: bytes) -> bool:
    """Whether a Host field's value is one that we serve: a name or a bracketed IPv6 address."""
    if value.startswith(b"["):
        name, bracket, port = value[1:].partition(b"]")
        if not bracket or not _is_ipv6(name.decode("latin-1")):
            return False
    else:
        name, colon, port = value.partition(b":")
        port = colon + port
        labels = name.removesuffix(b".").split(b".")
        if len(name) > 255 or not all(label and _HOST_BYTES.issuperset(label) for label in labels):
            return False
    if not port:
        return True
    digits = port[1:]
    if port[:1] != b":" or len(digits) > 5 or not all(0x30 <= byte <= 0x39 for byte in digits):
        return False
    return not digits or int(digits) <= 65535


def _is_ipv6(text: str) -> bool:
    """RFC 3986 §3.2.2, by counting groups."""
    if not text or set(text) - set("0123456789abcdefABCDEF:."):
        return False
    if "." in text:
        front, colon, ipv4 = text.rpartition(":")
        octets = ipv4.split(".")
        valid = [octet.isdigit() and (octet == "0" or octet[0] != "0") for octet in octets]
        if not colon or len(octets) != 4 or not all(valid) or max(map(int, octets)) > 255:
            return False
        text = front + ":0:0"
    left, double, right = text.partition("::")
    groups = [group for side in (left, right) if side for group in side.split(":")]
    if not all(1 <= len(group) <= 4 for group in groups):
        return False
    return len(groups) < 8 if double else len(groups) == 8


def is_target(method: bytes, target: bytes) -> bool:
    """Whether the target has a form that the method may have."""
    if not target or any(not 0x21 <= byte <= 0x7E for byte in target):
        return False
    if target == b"*":
        return method == b"OPTIONS"
    if target.startswith(b"/"):
        return True
    scheme, mark, rest = target.partition(b"://")
    authority = re.split(rb"[/?]", rest)[0]
    return bool(mark) and scheme.lower() in (b"http", b"https") and is_host(authority)


def is_bad_chunk_line(line: bytes) -> bool:
    """Whether a chunk line is not one of RFC 9112 §7.1, read character by character."""
    if not line.endswith(b"\r\n"):
        return True
    rest = line[:-2]
    digits = len(rest) - len(rest.lstrip(b"0123456789abcdefABCDEF"))
    rest = rest[digits:]
    if not digits:
        return True
    while rest:
        rest = rest.lstrip(b" \t")
        if not rest.startswith(b";"):
            return True
        name = _take_token(rest[1:].lstrip(b" \t"))
        rest = rest[1:].lstrip(b" \t")[len(name) :]
        if not name:
            return True
        after = rest.lstrip(b" \t")
        if after.startswith(b"="):
            value = after[1:].lstrip(b" \t")
            length = _quoted_length(value) if value.startswith(b'"') else len(_take_token(value))
            if not length:
                return True
            rest = value[length:]
    return False


def _take_token(value: bytes) -> bytes:
    return bytes(takewhile(_TCHAR.__contains__, value))


def _quoted_length(value: bytes) -> int:
    """How long the quoted string is at the start of `value`; 0 if there is none."""
    at = 1
    while at < len(value):
        byte = value[at]
        if byte == 0x22:
            return at + 1
        if byte == 0x5C:
            at += 1
            if at == len(value):
                return 0
            byte = value[at]
        if (byte < 0x20 and byte != 0x09) or byte == 0x7F:
            return 0
        at += 1
    return 0
