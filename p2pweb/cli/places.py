"""Where a user's keys and peers are kept, and what can be had again; flags say otherwise."""

import os
from pathlib import Path


def key_home() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config") / "p2pweb" / "keys"


def data_home() -> Path:
    return _xdg("XDG_DATA_HOME", ".local/share") / "p2pweb"


def cache_home() -> Path | None:
    """None where this user has no home."""
    try:
        return _xdg("XDG_CACHE_HOME", ".cache") / "p2pweb"
    except RuntimeError:
        return None


def _xdg(variable: str, default: str) -> Path:
    """A directory of the XDG Base Directory Specification; relative values are ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default
