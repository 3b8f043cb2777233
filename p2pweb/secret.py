"""The secret of a closed network: the file that keeps it, and the keys that are made of it.

To whoever cannot show the secret, a peer that has one answers nothing: no datagram (`dht.seal`),
and no byte of HTTP below `/.well-known/p2pweb/` (`exchange.authorization`). Visitors' requests for
pages are answered as ever: the network of peers is closed, not the site. The secret itself stays
on the machine; each use has a key of its own.

What it does not give:
- Nothing is encrypted: whoever sees the traffic can read it.
- A datagram that was recorded can be sent again, from anywhere and at any time, and is answered.
- A request that was recorded can be sent again for some minutes. It can write nothing but what a
  site's key has signed, which is there already.
- An answer shows that it comes from a peer with the secret. Whoever can change the traffic on its
  way can still change the answer's content, as far as no site's signature covers it.
- One recorded datagram is enough to try guesses on, so the secret should be random.
- All who have the secret are equal; to shut one out, give the others a new one.
"""

import hmac
import logging
import os
import shlex
import stat
from pathlib import Path

from p2pweb.errors import UsageError

log = logging.getLogger("p2pweb.secret")

# 16 random bytes cannot be guessed.
SECRET_BYTES_MIN = 16
# Many times what anybody needs. Anything longer is another file, named by mistake.
SECRET_FILE_BYTES_MAX = 4 * 1024

_SALT = b"p2pweb closed network"
_HOW_TO_MAKE = "as `head -c 32 /dev/urandom | base64` makes it"


class Secret:
    """What the peers of a closed network share. Nothing of it is shown where it is printed."""

    def __init__(self, secret: bytes) -> None:
        """ValueError where it has fewer than `SECRET_BYTES_MIN` bytes."""
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"a secret has at least {SECRET_BYTES_MIN} bytes, not {len(secret)}")
        # RFC 5869 §2.2, HKDF-Extract with SHA-256.
        self._root = hmac.digest(_SALT, secret, "sha256")

    def key(self, use: bytes) -> bytes:
        """The key for one use, 32 bytes; it tells nothing of the secret or of other keys."""
        # RFC 5869 §2.3, HKDF-Expand: the first block is as long as the key.
        return hmac.digest(self._root, use + b"\x01", "sha256")


def load_secret(path: Path) -> Secret:
    """Read a secret's file: the bytes in it, without white space at the ends.

    UsageError with one sentence where that is not possible. A file that others on the machine can
    read is told of in the log.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(SECRET_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no secret file {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read the secret file {path}: {error.strerror}") from None
    if len(data) > SECRET_FILE_BYTES_MAX:
        raise UsageError(
            f"{path} is no secret file: it is longer than {SECRET_FILE_BYTES_MAX} bytes"
        )
    secret = data.strip()
    if not secret:
        raise UsageError(f"the secret file {path} is empty: put a secret in it, {_HOW_TO_MAKE}")
    if len(secret) < SECRET_BYTES_MIN:
        raise UsageError(
            f"the secret in {path} is too short: it has {len(secret)} bytes instead of "
            f"{SECRET_BYTES_MIN} or more; take a random one, {_HOW_TO_MAKE}"
        )
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        name = shlex.quote(str(path))
        log.warning("others on this machine can read the secret in %s: chmod 600 %s", path, name)
    return Secret(secret)
