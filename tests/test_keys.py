"""Site keys: one spelling of a site id, signatures, and the files that keep the secret."""

import errno
import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pweb import keys
from p2pweb.errors import UsageError
from p2pweb.keys import SiteId, SiteKey

SEED = bytes(range(32))
KEY = SiteKey(SEED)
OTHER = SiteKey(b"\xff" * 32)

public_keys = st.binary(min_size=32, max_size=32)


def key_text(site: str = KEY.site, secret: str = SEED.hex(), more: str = "") -> str:
    return f'site = "{site}"\nsecret = "{secret}"\n{more}'


def test_site_id_is_that_of_the_rfc_8032_key() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    key = SiteKey(seed)
    assert key.public_key == public
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.site == "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena"


@given(public_keys)
def test_site_id_is_a_dns_label_that_spells_the_key(public_key: bytes) -> None:
    site = keys.site_id_of(public_key)
    assert len(site) == keys.SITE_ID_CHARS <= 63
    assert site == site.lower()
    assert keys.is_site_id(site)
    assert keys.public_key_of(site) == public_key


@given(public_keys, st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_site_id_has_one_spelling(public_key: bytes, last: str) -> None:
    site = keys.site_id_of(public_key)
    assert keys.is_site_id(site[:-1] + last) == (last in "aq")
    spelled = {keys.public_key_of(SiteId(site[:-1] + end)) for end in "aq"}
    assert len(spelled) == 2
    assert public_key in spelled


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY.site.upper(),
        KEY.site[:-1],
        KEY.site + "a",
        KEY.site + "\n",
        KEY.site + "====",
        " " + KEY.site[1:],
        "0" + KEY.site[1:],
        "1" + KEY.site[1:],
        "8" + KEY.site[1:],
        "\u00e4" + KEY.site[1:],
    ],
)
def test_other_text_is_no_site_id(text: str) -> None:
    assert not keys.is_site_id(text)
    with pytest.raises(ValueError, match="is no site id"):
        keys.public_key_of(SiteId(text))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_public_key_of_another_length_has_no_site_id(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys.site_id_of(bytes(length))


@given(st.binary(max_size=200), st.data())
def test_signature_holds_for_its_message_and_key_alone(message: bytes, data: st.DataObject) -> None:
    signature = KEY.sign(message)
    assert len(signature) == keys.SIGNATURE_BYTES
    assert signature == KEY.sign(message)
    assert keys.verify(KEY.public_key, message, signature)
    assert not keys.verify(OTHER.public_key, message, signature)
    assert not keys.verify(KEY.public_key, message + b"\0", signature)
    bit = data.draw(st.integers(0, 511))
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not keys.verify(KEY.public_key, message, bytes(flipped))


def test_signature_or_key_of_another_length_holds_for_nothing() -> None:
    signature = KEY.sign(b"m")
    assert not keys.verify(KEY.public_key, b"m", signature[:-1])
    assert not keys.verify(KEY.public_key, b"", signature + b"m")
    assert not keys.verify(KEY.public_key[:-1], b"m", signature)
    assert not keys.verify(KEY.public_key + b"\0", b"m", signature)


@given(public_keys, st.binary(max_size=50), st.binary(min_size=64, max_size=64))
def test_made_up_signature_is_refused(public_key: bytes, message: bytes, forged: bytes) -> None:
    assert not keys.verify(public_key, message, forged)


def test_key_made_is_the_key_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "site.key"
    made = keys.create_key_file(path, lambda count: SEED[:count])
    assert (made.path, made.directory) == (path, None)
    assert made.key.seed == SEED
    found = keys.load_key_file(path)
    assert (found.path, found.directory) == (path, None)
    assert (found.key.seed, found.key.site) == (SEED, KEY.site)


def test_key_and_its_folder_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site.key"
    before = os.umask(0)
    try:
        keys.create_key_file(path, os.urandom)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "name", ["site", 'a "quoted" \\ name', "tab\tnew\nline\x7f", "é 雪 \U0001f600"]
)
def test_directory_of_a_key_is_kept(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    made = keys.create_key_file(tmp_path / "site.key", os.urandom, directory)
    assert made.directory == directory
    assert keys.load_key_file(made.path).directory == directory


def test_directory_that_toml_cannot_spell_is_a_usage_error_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "site.key"
    with pytest.raises(UsageError):
        keys.create_key_file(path, os.urandom, Path(os.fsdecode(b"/not-utf-8-\xff")))
    assert not path.exists()


def test_key_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_text("something dear")
    with pytest.raises(UsageError, match=r"cannot write the key file .*: File exists"):
        keys.create_key_file(path, os.urandom)
    assert path.read_text() == "something dear"


def test_key_that_did_not_reach_the_disk_leaves_nothing_in_the_way_of_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "site.key"
    with monkeypatch.context() as patched:
        patched.setattr(keys.os, "fsync", full)
        with pytest.raises(UsageError, match="No space left"):
            keys.create_key_file(path, os.urandom)
    assert not path.exists()
    keys.create_key_file(path, os.urandom)


def test_key_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    path, target = tmp_path / "site.key", tmp_path / "elsewhere"
    path.symlink_to(target)
    with pytest.raises(UsageError, match="File exists"):
        keys.create_key_file(path, os.urandom)
    assert not target.exists()


def test_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write the key file"):
        keys.create_key_file(tmp_path / "file" / "site.key", os.urandom)


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no key file .*lost\.key"):
        keys.load_key_file(tmp_path / "lost.key")


def test_unreadable_key_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the key file .*: Is a directory"):
        keys.load_key_file(tmp_path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "no TOML text"),
        (b"-----BEGIN PRIVATE KEY-----", "no TOML text"),
        (b"site = [" + b"[" * 8_000, "no TOML text"),
        (b"site = " + b"1" * 8_000, "no TOML text"),
        (b"", "'secret' must be 64 hexadecimal digits"),
        (b"secret = 1\n", "'secret' must be"),
        (key_text(secret=SEED.hex()[:-1]).encode(), "'secret' must be"),
        (key_text(secret=SEED.hex() + "\\n").encode(), "'secret' must be"),
        (key_text(secret=SEED.hex().upper()).encode(), "'secret' must be"),
        (f'secret = "{SEED.hex()}"\n'.encode(), "do not belong together"),
        (key_text(site=OTHER.site).encode(), "do not belong together"),
        (key_text(site=KEY.site.upper()).encode(), "do not belong together"),
        (key_text(more="directory = 1\n").encode(), "'directory' must be a text"),
    ],
)
def test_malformed_key_file_is_refused_with_a_reason(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"site\.key is not a p2pweb key file") as caught:
        keys.load_key_file(path)
    assert why in str(caught.value)


def test_file_far_longer_than_any_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_text(key_text(more="#" * keys.KEY_FILE_BYTES_MAX))
    with pytest.raises(UsageError, match="is not a p2pweb key file"):
        keys.load_key_file(path)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_usage_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.key"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        keys.load_key_file(path)


def test_error_does_not_show_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_text(key_text(site=OTHER.site))
    with pytest.raises(UsageError) as caught:
        keys.load_key_file(path)
    assert SEED.hex() not in str(caught.value)


def test_keys_of_a_folder_are_listed_beside_what_is_wrong(tmp_path: Path) -> None:
    for name in ("b.key", "a.key"):
        keys.create_key_file(tmp_path / name, os.urandom)
    (tmp_path / "c.key").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    found, faults = keys.list_key_files(tmp_path)
    assert [one.path.name for one in found] == ["a.key", "b.key"]
    assert len(faults) == 1
    assert "c.key is not a p2pweb key file" in faults[0]
    assert keys.list_key_files(tmp_path / "none") == ([], [])


def test_key_file_tells_its_reader_what_it_is(tmp_path: Path) -> None:
    made = keys.create_key_file(tmp_path / "site.key", os.urandom, tmp_path)
    text = made.path.read_text()
    assert text.startswith("# The key of a p2pweb site")
    assert len(text) < keys.KEY_FILE_BYTES_MAX
    assert tomllib.loads(text)["site"] == made.key.site
