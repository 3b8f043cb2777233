"""The command line: how many cases, from which seed, and what is told of them."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import uvloop

from fuzzing.differential import check_case
from fuzzing.live import check_live
from fuzzing.readers import BrokenInvariant
from fuzzing.rules import RULES
from fuzzing.targets import check_target, make_manifest, make_target

_HTTP_CASES = 20_000
_TARGET_CASES = 1_000_000
_SEED_MAX = 1 << 32
_FAULTS_SHOWN = 20


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return read


class _Parser(argparse.ArgumentParser):
    """Tells a wrong flag in one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        sys.stderr.write(f"{self.prog}: {message}.\n")
        raise SystemExit(2)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="tools/fuzz", description="Try hostile requests by the thousand.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="http|target")
    http = kinds.add_parser("http", help="mutated pipelines: our parser, h11, llhttp")
    http.add_argument("--live", action="store_true", help="send them to a live server instead")
    http.add_argument("--rules", action="store_true", help="print the table of rules and stop")
    target = kinds.add_parser("target", help="request targets against a reference")
    for kind, count in ((http, _HTTP_CASES), (target, _TARGET_CASES)):
        kind.add_argument(
            "--cases", type=_number(1, 1 << 40), default=count, metavar="N",
            help=f"how many (default: {count})",
        )  # fmt: skip
        kind.add_argument(
            "--seed", type=_number(0, _SEED_MAX), metavar="N", help="default: a fresh one"
        )
        kind.add_argument(
            "--only", type=_number(0, (1 << 40) - 1), metavar="CASE", help="this case alone"
        )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if options.kind == "http" and options.rules:
        for rule in RULES:
            print(f"{rule.name} ({rule.source}; {rule.peer or 'both'}): {rule.why}")
        return 0
    seed = random.SystemRandom().randrange(_SEED_MAX) if options.seed is None else options.seed
    numbers = (
        range(options.cases) if options.only is None else range(options.only, options.only + 1)
    )
    explained: Counter[str] = Counter()
    began_s = time.monotonic()
    if options.kind == "target":
        faults = _try_targets(seed, numbers)
    elif options.live:
        faults = uvloop.run(check_live(seed, numbers))
    else:
        faults = _try_streams(seed, numbers, explained)
    took_s = max(time.monotonic() - began_s, 1e-9)
    for fault in faults[:_FAULTS_SHOWN]:
        print(fault)
    for name, count in explained.most_common():
        print(f"{count:8} {name}")
    mode = f"{options.kind}{' --live' if options.kind == 'http' and options.live else ''}"
    print(
        f"{len(numbers)} cases, seed {seed}, {len(numbers) / took_s:.0f} a second, "
        f"{len(faults)} faults"
    )
    if faults:
        print(f"replay one: tools/fuzz {mode} --seed {seed} --only CASE")
    return 1 if faults else 0


def _try_streams(seed: int, numbers: range, explained: Counter[str]) -> list[str]:
    return [
        f"case {number}: {fault}"
        for number in numbers
        for fault in check_case(seed, number, explained)
    ]


def _try_targets(seed: int, numbers: range) -> list[str]:
    manifest = make_manifest()
    faults: list[str] = []
    for number in numbers:
        raw = make_target(seed, number)
        try:
            check_target(manifest, raw)
        except (BrokenInvariant, ValueError) as fault:
            faults.append(f"case {number}: {fault!r}: {raw!r:.500}")
    return faults


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
