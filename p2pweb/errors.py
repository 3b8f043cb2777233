"""Errors that end at a person: every message is one sentence that names what is wrong.

`UsageError` is the user's to mend (a flag, a file, a config line), `RemoteError` is another
machine's doing, `CorruptError` is a disk's. Nothing here is raised for what a protocol expects:
absence is a value, and a bad record or a bad message has an error of its own beside its codec.
"""


class P2PWebError(Exception):
    """Base of the errors whose text is meant for a person to read."""


class UsageError(P2PWebError):
    """What the user asked for cannot be done as asked; the text says what to do instead."""


class RemoteError(P2PWebError):
    """Another machine did not answer, or answered what it should not have."""


class NotAPeerError(RemoteError):
    """Nobody listens there, or somebody who is no p2pweb peer."""


class BusyError(RemoteError):
    """Another peer has too much under way, and will not have for long."""


class LateError(RemoteError):
    """Another peer has not answered in time: it may be gone, or very busy."""


class UnavailableError(RemoteError):
    """Bytes that exist cannot be had from any peer just now; the text says what was tried."""


class CorruptError(P2PWebError):
    """Bytes on this peer's disk are not what they were when they were written."""
