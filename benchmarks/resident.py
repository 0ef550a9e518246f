"""The resident memory of this process, and its highest."""

from __future__ import annotations

import re
from pathlib import Path


def resident() -> float:
    """In MiB, now."""
    return _status("VmRSS")


def highest() -> float:
    """In MiB, since `forget_highest`."""
    return _status("VmHWM")


def forget_highest() -> None:
    """Set the mark back to what is resident now: it may be higher."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found
    return int(found[1]) / 1024
