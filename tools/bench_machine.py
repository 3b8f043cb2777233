"""What figures are taken on: the machine, and whether it has other things to do."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# With more than this to do, the machine is too busy for figures to mean much.
LOAD_MAX = 0.5
MOUNTS = Path("/proc/mounts")


def machine() -> dict[str, object]:
    """Kernel, processor, cores and Python."""
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def busy_note(load: float) -> str | None:
    """What a reader has to know of the load average before the run."""
    if load <= LOAD_MAX:
        return None
    return f"the machine was busy before the run (load {load:.1f}): these figures mean little"


def memory_note(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """What a reader has to know of the disk that a folder is on, where that is none."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    kinds = {Path(words[1]): words[2] for words in map(str.split, lines)}
    place = folder.resolve()
    kind = next((kinds[one] for one in (place, *place.parents) if one in kinds), "")
    if kind not in ("tmpfs", "ramfs"):
        return None
    return f"the peers' data was in {folder}, which is memory ({kind}): commits cost less there"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")
