"""How a command starts what it is about: as a process of its own, by the module's name."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import NoReturn


def start(module: str, words: list[str]) -> NoReturn:
    """Run a module as a process of its own and end with its exit status.

    Ctrl-C reaches it by itself, being in the same process group; SIGTERM is passed on. Either way its end is waited
    for.
    """
    process = subprocess.Popen([sys.executable, "-m", module, *words])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    sys.exit(process.wait())
