"""Where things are: this checkout, shared memory, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")


def cache_directory() -> Path:
    """Where the kit keeps what it builds or downloads, for this user: `$XDG_CACHE_HOME` or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "sglang-shm-kit"
