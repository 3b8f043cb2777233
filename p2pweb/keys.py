"""Site keys: the ed25519 pairs that make a site, and the files that keep them.

A site id is the public key, 32 bytes, in lower-case base32 without padding: 52 characters, so
that it fits one DNS label (63). The secret half stays in a file with mode 0600 on the
publisher's machine; nothing in this module sends it anywhere.
"""

import base64
import os
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NewType

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from p2pweb.clock import Entropy
from p2pweb.errors import UsageError
from p2pweb.folders import make_folder, sync_folder

SiteId = NewType("SiteId", str)

PUBLIC_KEY_BYTES = 32
SEED_BYTES = 32
SIGNATURE_BYTES: int = crypto_sign_BYTES
SITE_ID_CHARS = 52

# A key file is some 300 bytes. Anything far longer is another file, named by mistake.
KEY_FILE_BYTES_MAX = 16 * 1024

# Every record tells its site, and a peer has to do with few; 200 bytes each.
SITES_SPELLED_MAX = 1_024

_SITE_ID = re.compile(r"[a-z2-7]{51}[aq]")  # 256 bits fill 51.2 characters: the last has one bit


@lru_cache(maxsize=SITES_SPELLED_MAX)
def site_id_of(public_key: bytes) -> SiteId:
    """The site id of a public key (32 bytes)."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    return SiteId(base64.b32encode(public_key).decode("ascii").rstrip("=").lower())


def is_site_id(text: str) -> bool:
    """Whether `text` is the one spelling of some site id."""
    return _SITE_ID.fullmatch(text) is not None


def public_key_of(site: SiteId) -> bytes:
    """The 32 bytes that a site id spells. ValueError where it is none."""
    if not is_site_id(site):
        raise ValueError(f"{site!r} is no site id: it takes {SITE_ID_CHARS} characters a-z, 2-7")
    return base64.b32decode(site.upper() + "====")


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of `message` by the key (32 bytes); RFC 8032."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


class SiteKey:
    """A site's secret key, 32 bytes of seed: what makes a publisher."""

    def __init__(self, seed: bytes) -> None:
        self._signing_key = SigningKey(seed)
        self.seed = seed
        self.public_key = bytes(self._signing_key.verify_key)
        self.site = site_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same one each time (RFC 8032)."""
        return self._signing_key.sign(message).signature


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A key as it lies on disk, with the directory that it was made for, if any."""

    path: Path
    key: SiteKey
    directory: Path | None


def load_key_file(path: Path) -> KeyFile:
    """Read a key file. UsageError with one sentence where that is not possible."""
    try:
        with path.open("rb") as file:
            text = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no key file {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read the key file {path}: {error.strerror}") from None
    wrong = f"{path} is not a p2pweb key file"
    if len(text) > KEY_FILE_BYTES_MAX:
        raise UsageError(f"{wrong}: it is longer than any")
    try:
        table = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UsageError(f"{wrong}: it is no TOML text") from None
    secret, site, directory = table.get("secret"), table.get("site"), table.get("directory")
    if not isinstance(secret, str) or not re.fullmatch(r"[0-9a-f]{64}", secret):
        raise UsageError(f"{wrong}: 'secret' must be 64 hexadecimal digits")
    key = SiteKey(bytes.fromhex(secret))
    if site != key.site:
        raise UsageError(f"{wrong}: 'site' and 'secret' do not belong together")
    if directory is not None and not isinstance(directory, str):
        raise UsageError(f"{wrong}: 'directory' must be a text")
    return KeyFile(path=path, key=key, directory=Path(directory) if directory else None)


def create_key_file(path: Path, entropy: Entropy, directory: Path | None = None) -> KeyFile:
    """Make a new key and keep it in `path` with mode 0600, on disk before this returns.

    Never replaces a file: a key that is lost cannot be made again. UsageError where it cannot
    be written.
    """
    key = SiteKey(entropy(SEED_BYTES))
    lines = [
        "# The key of a p2pweb site: whoever has this file can publish the site, and without it",
        "# nobody can. Keep a copy in a safe place.",
        f'site = "{key.site}"',
        f'secret = "{key.seed.hex()}"',
    ]
    if directory is not None:
        lines.append(f"directory = {_toml_text(str(directory))}")
    try:
        text = "\n".join(lines).encode() + b"\n"
    except UnicodeEncodeError:
        raise UsageError("the name of the directory is not valid Unicode") from None
    try:
        make_folder(path.parent, 0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
        except OSError:
            path.unlink()  # Half a key is none, and would stand in the way of the next try.
            raise
    except OSError as error:
        raise UsageError(f"cannot write the key file {path}: {error.strerror}") from None
    return KeyFile(path=path, key=key, directory=directory)


def list_key_files(folder: Path) -> tuple[list[KeyFile], list[str]]:
    """The keys in a folder, by name, and a sentence for each file that is none."""
    keys: list[KeyFile] = []
    faults: list[str] = []
    for path in sorted(folder.glob("*.key")):
        try:
            keys.append(load_key_file(path))
        except UsageError as error:
            faults.append(str(error))
    return keys, faults


def _toml_text(text: str) -> str:
    """A TOML basic string: quotes, backslashes and control characters escaped."""
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x20 or c in '"\\\x7f' else c for c in text)
    return f'"{escaped}"'
