"""Request streams with the answer that each must get, however it is cut into pieces.

Written from RFC 9110 and RFC 9112, and from the published faults of other servers.
"""

from http_corpus.bodies import BODIES
from http_corpus.case import CHUNKED, GET, HOST, POST, ROOT, Asked, Case
from http_corpus.connections import CONNECTIONS
from http_corpus.fields import FIELDS
from http_corpus.request_lines import REQUEST_LINES

__all__ = ["CASES", "CHUNKED", "GET", "HOST", "POST", "ROOT", "Asked", "Case"]

CASES: tuple[Case, ...] = (*REQUEST_LINES, *FIELDS, *BODIES, *CONNECTIONS)
