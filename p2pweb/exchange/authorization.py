"""In a closed network: proof that a request comes from one of its peers, and its answer too.

A scheme of our own for the fields of RFC 9110 §11, with Content-Digest (RFC 9530) for the body:

    Authorization: P2PWeb <date>.<mac>           covers method, target, Content-Digest and date
    Content-Digest: sha-256=:<base64>:           where there is a body
    Authentication-Info: mac=<mac>               in the answer; covers the request's mac

The date is in seconds since 1970, a MAC is HMAC-SHA-256 in hexadecimal digits. A request without
proof is not answered and its body not read; a body that is not the one proved ends in the same
silence before anything of it is used. What all this does not give is told in `secret`.

Pure but for the log. In: heads, bodies as they come, the date; out: fields, or `HangUp`.
"""

import base64
import hashlib
import hmac
import logging
import math
import re

from p2pweb.clock import WallClock
from p2pweb.http.messages import HangUp, Request
from p2pweb.http.service import RequestBody
from p2pweb.secret import Secret

log = logging.getLogger("p2pweb.exchange")

# How far the clocks of two peers may be apart: those of machines that set them by hand are minutes
# off. For so long a recorded request can be sent again.
DATE_WINDOW_S = 300
# A clock that is wrong is told of once in so long, and not with every request.
CLOCK_WARNING_S = 600

ANSWER_FIELD = "Authentication-Info"

_CREDENTIALS = re.compile(rb"(?i:p2pweb) +([0-9]{1,12})\.([0-9a-f]{64})")


class Proof:
    """What a client sends along with one request, and how it knows the answer to that."""

    def __init__(self, fields: dict[str, str], answer: str) -> None:
        self.fields = fields
        self._answer = answer

    def is_shown_by(self, answer_field: str | None) -> bool:
        """Whether an answer with this `ANSWER_FIELD` comes from a peer with the same secret."""
        return hmac.compare_digest((answer_field or "").encode(), self._answer.encode())


class Prover:
    """The client's side."""

    def __init__(self, secret: Secret, wall: WallClock) -> None:
        self._macs = _Macs(secret)
        self._wall = wall

    def prove(self, method: str, target: str, body: bytes | None) -> Proof:
        """The proof of one request; `target` is path and query as they are sent."""
        digest = "" if body is None else _content_digest(hashlib.sha256(body).digest())
        date = str(int(self._wall()))
        mac = self._macs.of_request(
            method.encode(), target.encode(), digest.encode(), date.encode()
        )
        fields = {"Authorization": f"P2PWeb {date}.{mac}"}
        if digest:
            fields["Content-Digest"] = digest
        return Proof(fields, self._macs.of_answer(mac))


class Gate:
    """The service's side."""

    def __init__(self, secret: Secret, wall: WallClock) -> None:
        self._macs = _Macs(secret)
        self._wall = wall
        self._warned_unix = -math.inf

    def admit(self, request: Request, body: RequestBody) -> tuple[RequestBody, tuple[str, str]]:
        """The body to read instead, which raises `HangUp` at its end where it is not the one
        proved, and the field that the answer takes. `HangUp` where the request has no proof."""
        found = _CREDENTIALS.fullmatch(request.field(b"authorization") or b"")
        if found is None:
            raise HangUp
        date, mac = found[1], found[2].decode()
        digest = request.field(b"content-digest") or b""
        expected = self._macs.of_request(request.method.encode(), request.target, digest, date)
        if not hmac.compare_digest(mac, expected):
            raise HangUp
        self._check_date(int(date), body.sender)
        return _proved(request, body, digest), (ANSWER_FIELD, self._macs.of_answer(mac))

    def _check_date(self, date_unix: int, sender: str) -> None:
        now_unix = self._wall()
        off_s = date_unix - now_unix
        if abs(off_s) <= DATE_WINDOW_S:
            return
        if abs(now_unix - self._warned_unix) >= CLOCK_WARNING_S:
            self._warned_unix = now_unix
            log.warning(
                "the peer at %s has this network's secret, and its clock is %.0f s %s this one: it "
                "gets no answers until both are set right, to %d s (unless somebody else repeats "
                "what it once asked)",
                *(sender, abs(off_s), "ahead of" if off_s > 0 else "behind", DATE_WINDOW_S),
            )
        raise HangUp


class _Macs:
    """Hexadecimal MACs, which both sides make alike."""

    def __init__(self, secret: Secret) -> None:
        self._request_key = secret.key(b"http request")
        self._answer_key = secret.key(b"http answer")

    def of_request(self, method: bytes, target: bytes, digest: bytes, date: bytes) -> str:
        # None of the four can hold the end of a line, so no other four give the same bytes.
        message = b"\n".join((method, target, digest, date))
        return hmac.digest(self._request_key, message, "sha256").hex()

    def of_answer(self, request_mac: str) -> str:
        return "mac=" + hmac.digest(self._answer_key, request_mac.encode(), "sha256").hex()


def _proved(request: Request, body: RequestBody, declared: bytes) -> RequestBody:
    """A body whose end comes only if its digest is the one declared."""
    sha256 = hashlib.sha256()

    async def next_data() -> bytes:
        data = await anext(body, b"")
        sha256.update(data)
        if not data and _content_digest(sha256.digest()).encode() != declared:
            raise HangUp
        return data

    return RequestBody(request.content_length, next_data, body.sender)


def _content_digest(sha256: bytes) -> str:
    """RFC 9530 §2, with the one algorithm that is used here."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"
