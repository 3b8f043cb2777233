"""What the flags of all benches share: how a fault in them is told, and lists of names."""

from __future__ import annotations

import argparse
from typing import NoReturn

from bench_kinds import BenchError


class Parser(argparse.ArgumentParser):
    """A fault in one sentence, with exit code 1: code 2 is for targets missed."""

    def error(self, message: str) -> NoReturn:
        raise BenchError(message)


def names(what: str, given: str | None, known: list[str], *, flag: str | None = None) -> list[str]:
    """The names in a list with commas, in the order in which they are known.

    The flag is `--<what>s` if no other is named.
    """
    if given is None:
        return known
    found = [name.strip() for name in given.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise BenchError(f"there is no {what} {name!r}: there are {', '.join(known)}")
    if not found:
        raise BenchError(f"{flag or f'--{what}s'} names none: there are {', '.join(known)}")
    return [name for name in known if name in found]


def numbers(flag: str, given: str, least: int, most: int) -> list[int]:
    """The numbers in a list with commas, each once."""
    words = [word.strip() for word in given.split(",") if word.strip()]
    good = [int(word) for word in words if word.isdecimal() and least <= int(word) <= most]
    if not words or len(good) < len(words):
        raise BenchError(f"{flag} is a list of numbers from {least} to {most}, with commas")
    return list(dict.fromkeys(good))
