"""The command line: how many cases, from which seed, and what is told of them."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import uvloop

from fuzzing.amplification import measure
from fuzzing.core import check_core, whole_round
from fuzzing.differential import check_case
from fuzzing.live import check_live
from fuzzing.network import check_network
from fuzzing.readers import BrokenInvariant
from fuzzing.rules import RULES
from fuzzing.targets import check_target, make_manifest, make_target
from p2pweb.dht.settings import DEFAULTS

_HTTP_CASES = 20_000
_TARGET_CASES = 1_000_000
_DHT_CASES = 30_000
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
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="http|target|dht")
    http = kinds.add_parser("http", help="mutated pipelines: our parser, h11, llhttp")
    http.add_argument("--live", action="store_true", help="send them to a live server instead")
    http.add_argument("--rules", action="store_true", help="print the table of rules and stop")
    target = kinds.add_parser("target", help="request targets against a reference")
    dht = kinds.add_parser(
        "dht", help="mutated datagrams: a peer without sockets, on its own clock"
    )
    dht.add_argument("--live", action="store_true", help="send them to a real peer at work instead")
    dht.add_argument(
        "--amplification", action="store_true",
        help="print what each question brings to an unproved address, and stop",
    )  # fmt: skip
    for kind, count in ((http, _HTTP_CASES), (target, _TARGET_CASES), (dht, _DHT_CASES)):
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
    if options.kind == "dht" and options.amplification:
        return _tell_amplification()
    seed = random.SystemRandom().randrange(_SEED_MAX) if options.seed is None else options.seed
    numbers = (
        range(options.cases) if options.only is None else range(options.only, options.only + 1)
    )
    explained: Counter[str] = Counter()
    began_s = time.monotonic()
    told: list[str] = []
    if options.kind == "target":
        faults = _try_targets(seed, numbers)
    elif options.kind == "dht" and options.live:
        faults = uvloop.run(check_network(seed, numbers, told))
    elif options.kind == "dht":
        if options.only is not None:
            numbers = whole_round(options.only)
        faults = check_core(seed, numbers, explained)
    elif options.live:
        faults = uvloop.run(check_live(seed, numbers))
    else:
        faults = _try_streams(seed, numbers, explained)
    took_s = max(time.monotonic() - began_s, 1e-9)
    for fault in faults[:_FAULTS_SHOWN]:
        print(fault)
    for name, count in explained.most_common():
        print(f"{count:8} {name}")
    for line in told:
        print(line)
    mode = f"{options.kind}{' --live' if options.kind != 'target' and options.live else ''}"
    print(
        f"{len(numbers)} cases, seed {seed}, {len(numbers) / took_s:.0f} a second, "
        f"{len(faults)} faults"
    )
    if faults:
        # What a peer at work is sent at one time depends on all that it was sent before.
        again = f"--cases {options.cases}" if mode == "dht --live" else "--only CASE"
        print(f"replay {'it' if told else 'one'}: tools/fuzz {mode} --seed {seed} {again}")
    return 1 if faults else 0


def _tell_amplification() -> int:
    measured = uvloop.run(measure())
    for one in measured:
        print(one)
    return 1 if any(one.ratio > DEFAULTS.amplification_max for one in measured) else 0


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
