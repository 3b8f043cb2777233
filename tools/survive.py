"""Real peers that are killed, lose power or have little room; exit code 0 if nothing is broken.

Started by tools/survive, which prepares what this needs. `kills`: peers on loopback, of which some
are always being killed with signal 9 and started again, under visitors who check every byte, with a
new version in the middle. `power`: a publish, then at once a power cut for every peer that it
counted, then what is on its disk. `budgets`: a site that is larger than the disk budget of any
peer, read through all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from survive_budgets import MEGABYTE, BudgetReport, run_budgets
from survive_kills import Report, run_kills
from survive_peers import SurviveError
from survive_power import SABOTAGES, PowerReport, run_power

from p2pweb.errors import P2PWebError
from p2pweb.records import COPIES_DEFAULT

AnyReport = Report | PowerReport | BudgetReport
PEERS = {"kills": 20, "power": 2, "budgets": 8}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/survive", description=__doc__)
    parser.add_argument("mode", choices=tuple(PEERS), nargs="?", default="kills")
    parser.add_argument("--seconds", type=float, default=180, help="of killing (default: 180)")
    parser.add_argument("--rounds", type=int, default=100, help="of power cuts (default: 100)")
    parser.add_argument("--peers", type=int, help="how many (default: 20; power 2, budgets 8)")
    parser.add_argument("--down", type=int, default=5, help="dead at most at a time (default: 5)")
    parser.add_argument(
        "--sabotage", choices=SABOTAGES, help="what no peer syncs: power cuts must find it"
    )
    parser.add_argument("--seed", type=int, default=1, help="whom and when (default: 1)")
    parser.add_argument("--keep", type=Path, help="an empty directory for data and logs to stay in")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args()
    try:
        peers = options.peers or PEERS[options.mode]
        if peers < 1 or (
            options.mode == "kills" and not 1 <= options.down < min(peers, COPIES_DEFAULT)
        ):
            raise SurviveError(f"--down is less than --peers and than the {COPIES_DEFAULT} copies")
        options.peers = peers
        sys.exit(asyncio.run(survive(options)))
    except (SurviveError, P2PWebError, FileExistsError) as error:
        sys.exit(f"tools/survive: seed {options.seed}: {error}")
    except asyncio.CancelledError:
        sys.exit(130)


async def survive(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="p2pweb-survive-") as folder:
        where = options.keep or Path(folder)
        report: AnyReport
        if options.mode == "kills":
            report = await run_kills(
                where,
                seed=options.seed,
                seconds=options.seconds,
                peers=options.peers,
                down=options.down,
                copies=COPIES_DEFAULT,
            )
        elif options.mode == "budgets":
            report = await run_budgets(where, seed=options.seed, peers=options.peers)
        else:
            report = await run_power(
                where,
                seed=options.seed,
                rounds=options.rounds,
                peers=options.peers,
                code=SABOTAGES[options.sabotage] if options.sabotage else "",
            )
    if options.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print_report(report)
    return 1 if report.faults else 0


def print_report(report: AnyReport) -> None:
    table = Table(title=f"tools/survive, seed {report.seed}", show_header=False)
    match report:
        case Report():
            rows = rows_of_kills(report)
        case PowerReport():
            rows = rows_of_power(report)
        case BudgetReport():
            rows = rows_of_budgets(report)
    for row in rows.items():
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for fault in report.faults:
        print(f"fault (seed {report.seed}): {fault}")
    print("no promise was broken" if not report.faults else f"{len(report.faults)} faults")


def rows_of_budgets(report: BudgetReport) -> dict[str, str]:
    return {
        "peers, budget of each": f"{report.peers}, {report.disk_bytes / MEGABYTE:.0f} MB",
        "site": f"{report.site_bytes / MEGABYTE:.0f} MB",
        "copies counted by each publish": ", ".join(map(str, report.copies)),
        "files read through all peers": str(report.reads),
        "most that a directory took": f"{report.used_most_bytes / MEGABYTE:.1f} MB",
        "copies on disks in the end": f"{report.on_disk} at least",
        "refused": report.refused,
        "faults": str(len(report.faults)),
    }


def rows_of_power(report: PowerReport) -> dict[str, str]:
    return {
        "rounds": str(report.rounds),
        "power cuts, within a publish": f"{report.cuts}, {report.broken_off}",
        "copies counted and looked for": str(report.counted),
        "faults": str(len(report.faults)),
    }


def rows_of_kills(report: Report) -> dict[str, str]:
    return {
        "peers, at most down": f"{report.peers}, {report.down_most}",
        "seconds of killing": f"{report.seconds:.0f}",
        "kills": ", ".join(f"{n} {kind}" for kind, n in sorted(report.kills.items())),
        "requests": ", ".join(f"{n} {kind}" for kind, n in sorted(report.asked.items())),
        "cut off by a kill": str(report.cut_off),
        "answers, p50 / p99 / max ms": f"{report.p50_ms:.1f} / {report.p99_ms:.1f} / "
        f"{report.max_ms:.1f}",
        "publishes, seconds": ", ".join(f"{one:.1f}" for one in report.publish_s),
        "last old answer after it was live": f"{report.news_s:.2f} s",
        "copies counted by each publish": ", ".join(map(str, report.copies)),
        "copies on disks in the end": f"{report.on_disk} at least",
        "faults": str(len(report.faults)),
    }


if __name__ == "__main__":
    main()
