"""The capture as users start it, a process with a Ray of its own, and who is in its family."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

SECONDS = 120.0
"""Long enough for anything here; what takes longer hangs."""


class CaptureProcess:
    """`python -m ray_jobs.capture`, in a process group of its own."""

    def __init__(self, recipe: Path, run: str, **environment: str) -> None:
        words = [sys.executable, "-m", "ray_jobs.capture", "--recipe", str(recipe), "--run", run]
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self._family: dict[int, psutil.Process] = {}

    def family(self) -> list[psutil.Process]:
        """The driver's descendants that live now."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._family.update((each.pid, each) for each in found)
        return found

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for the condition, or for the process to end; whether the condition came true first."""
        until = time.monotonic() + SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > until:
                raise AssertionError(f"nothing happens:\n{self.kill()}")
            time.sleep(0.05)
        return True

    def find(self, name: str) -> psutil.Process | None:
        """A descendant whose name or words hold `name`."""
        for each in self.family():
            try:
                if name in each.name() or name in " ".join(each.cmdline()):
                    return each
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return None

    def wait(self) -> tuple[int, str]:
        """Its exit status, and everything that it said."""
        try:
            output, _ = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.kill()}") from None
        return self.process.returncode, output

    def kill(self) -> str:
        """`kill -9` of the driver; waits until those that work for it are gone, and returns what it said."""
        self.family()
        os.kill(self.process.pid, signal.SIGKILL)
        output, _ = self.process.communicate(timeout=SECONDS)
        self.end()
        return output

    def end(self) -> None:
        """See that nothing of the family is left that could still ask or write."""
        agents = [each for each in self._family.values() if each.is_running() and "Agent" in each.name()]
        workers = [each for each in self._family.values() if each not in agents]
        _, left = psutil.wait_procs(workers, timeout=SECONDS)
        assert not left, f"workers outlive their driver: {left}"
        # Ray's agents do no work, and wait a minute for a raylet before they end by themselves.
        for agent in agents:
            with suppress(psutil.NoSuchProcess):
                agent.kill()
