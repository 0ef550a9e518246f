"""Model FLOPs utilisation: what share of a device's arithmetic a training makes use of (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B), from FLOPs that are counted and not estimated."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

_PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}
"""Dense bfloat16 (V100: float16) FLOP/s without sparsity, from NVIDIA's data sheets."""

_SIDE, _TRIES = 1024, 5


def counter() -> FlopCounterMode:
    """A context that counts the FLOPs of matrix products and attention inside it; see its `get_total_flops`."""
    return FlopCounterMode(display=False)


def peak(device: torch.device) -> tuple[float, bool]:
    """FLOP/s that a worker's device is capable of, and whether that was measured, as on a CPU, or is its maker's."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, value in _PEAKS.items():
            if known in name:
                return value, False
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    one = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_TRIES):
        began = time.perf_counter()
        (one @ one)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best, True
