"""The access log: both formats, what visitors could smuggle into it, the way to the disk."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from pathlib import Path

import msgspec
import pytest

from p2pweb.http import access_log
from p2pweb.http.access_log import AccessLog, combined, json_line
from p2pweb.http.messages import HTTP_1_0, HTTP_1_1, Request
from p2pweb.http.service import AccessEntry

REQUEST = Request(
    method="GET",
    target=b"/a%20b?c",
    version=HTTP_1_1,
    fields=((b"referer", b"http://a/"), (b"user-agent", b"Browser/1 (x)")),
    host="example.com",
    host_port=None,
    content_length=0,
    keep_alive=True,
    expects_continue=False,
)
ENTRY = AccessEntry(
    at_unix=784111777.25,
    address="192.0.2.7",
    request=REQUEST,
    status=200,
    sent_bytes=1234,
    duration_s=0.0123456,
    complete=True,
)
REFUSED = msgspec.structs.replace(ENTRY, request=None, status=400, address="")


def with_field(name: bytes, value: bytes) -> AccessEntry:
    request = msgspec.structs.replace(REQUEST, fields=((name, value),), version=HTTP_1_0)
    return msgspec.structs.replace(ENTRY, request=request)


def test_combined_line_has_its_nine_parts() -> None:
    assert combined(ENTRY) == (
        '192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] "GET /a%20b?c HTTP/1.1" 200 1234 '
        '"http://a/" "Browser/1 (x)"'
    )
    assert combined(REFUSED) == '- - - [06/Nov/1994:08:49:37 +0000] "-" 400 1234 "-" "-"'


@pytest.mark.parametrize("value", [b'" 200 1 "-" "', b"\xff\x1b[31m", b"a\\x22", b"tab\there"])
def test_visitor_cannot_end_a_quoted_text_or_reach_the_terminal(value: bytes) -> None:
    line = combined(with_field(b"user-agent", value))
    assert re.fullmatch(r'[ -~]* "GET /a%20b\?c HTTP/1\.0" 200 1234 "-" "[^"]*"', line)
    assert "\\x" in line


def test_json_line_is_one_object() -> None:
    assert json.loads(json_line(ENTRY)) == {
        "time": 784111777.25,
        "address": "192.0.2.7",
        "method": "GET",
        "host": "example.com",
        "target": "/a%20b?c",
        "http": "1.1",
        "status": 200,
        "sent_bytes": 1234,
        "duration_s": 0.012346,
        "complete": True,
        "referer": "http://a/",
        "user_agent": "Browser/1 (x)",
    }
    refused = json.loads(json_line(REFUSED))
    assert refused["method"] is None
    assert refused["user_agent"] is None
    assert "\n" not in json_line(with_field(b"user-agent", b"\x85\xff"))


async def test_entries_reach_the_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(path, json_line)
    for number in range(1000):
        log.note(msgspec.structs.replace(ENTRY, sent_bytes=number))
    await log.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["sent_bytes"] for line in lines] == list(range(1000))


async def test_file_that_was_moved_away_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "FLUSH_S", 0.0)
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(path, combined)
    log.note(ENTRY)
    async with asyncio.timeout(5):
        while not path.exists() or not path.read_text():  # noqa: ASYNC110 - a thread writes it
            await asyncio.sleep(0)
    path.rename(moved)
    log.note(ENTRY)
    await log.close()
    assert moved.read_text() == path.read_text() == combined(ENTRY) + "\n"


async def test_disk_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(tmp_path / "no such folder" / "access.log", combined)
    for _ in range(3):
        log.note(ENTRY)
        log._begin()
        assert log._writing is not None
        await asyncio.wait([log._writing])
        await asyncio.sleep(0)
    await log.close()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "cannot write the access log" in record.message


async def test_entries_beyond_the_limit_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "ENTRIES_MAX", 3)
    path = tmp_path / "access.log"
    log = AccessLog(path, combined)
    for _ in range(5):
        log.note(ENTRY)
    await log.close()
    assert len(path.read_text().splitlines()) == 3
    assert "lacks 2 entries" in caplog.text


async def test_entries_are_counted_by_what_they_keep_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "ENTRIES_BYTES_MAX", 100_000)
    path = tmp_path / "access.log"
    log = AccessLog(path, combined)
    long = with_field(b"cookie", b"x" * 30_000)
    for entry in [long] * 5 + [REFUSED]:
        log.note(entry)
    await log.close()
    assert len(path.read_text().splitlines()) == 4
    assert "lacks 2 entries" in caplog.text


async def test_nothing_is_begun_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    plain = loop.call_later
    timers: list[asyncio.TimerHandle] = []
    monkeypatch.setattr(
        loop, "call_later", lambda *words: (timers.append(plain(*words)), timers[-1])[1]
    )
    path = tmp_path / "access.log"
    log = AccessLog(path, combined)
    log.note(ENTRY)
    log._begin()
    # It comes while the one before is being written.
    log.note(ENTRY)
    await log.close()
    assert path.read_text().count("\n") == 2
    assert timers
    assert all(timer.cancelled() for timer in timers)


async def test_reader_that_never_comes_does_not_hold_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "CLOSE_S", 0.05)
    path = tmp_path / "access.log"
    os.mkfifo(path)
    log = AccessLog(path, combined)
    log.note(ENTRY)
    async with asyncio.timeout(5):
        await log.close()
    assert "lacks its end" in caplog.text
    assert log._writing is not None
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        await asyncio.wait([log._writing])
        assert os.read(reader, 1000) == f"{combined(ENTRY)}\n".encode()
    finally:
        os.close(reader)


async def test_standard_output_may_be_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(None, combined)
    log.note(ENTRY)
    await log.close()
    assert capsys.readouterr().out == combined(ENTRY) + "\n"
