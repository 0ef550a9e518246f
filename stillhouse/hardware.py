"""What a model runs on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal


def hardware(device: Literal["cpu", "cuda"]) -> str:
    """The GPUs that this process sees, or its cores and the processor's name; asked where the engine runs."""
    if device == "cuda":
        import torch

        count = torch.cuda.device_count()
        return f"{f'{count} × ' if count > 1 else ''}{torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} {'core' if cores == 1 else 'cores'} of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()
