"""What a training goes on from: DeepSpeed's shards, and beside them what the loop itself knows.

Shards fit the number of workers that wrote them. Another number loads DeepSpeed's universal form, which the workers
of each machine make of the shards first (Lian et al. 2024, arXiv:2406.18820).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_TAG, _STATE = "step", "state.json"


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: optimizer steps that are done.
        workers: how many there were.
        best: step and scores of the best validation; None before the first one.
        worse: validations since then.
        curve: one row a step and a validation, with no wall-clock time in it.
    """

    step: int = 0
    workers: int = 0
    best: dict[str, float] | None = None
    worse: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def save(engine: Any, folder: Path, state: State, *, rank: int) -> None:
    """Write this worker's shard, and as worker 0 the loop's state; all workers call this together."""
    engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)
    if rank == 0:
        (folder / _STATE).write_text(json.dumps(asdict(state)))


def read_state(folder: Path) -> State:
    """The loop's state in a checkpoint."""
    return State(**json.loads((folder / _STATE).read_text()))


def convert(folder: Path, into: Path) -> None:
    """Write the universal form of a checkpoint's shards to the new folder `into`."""
    from deepspeed.checkpoint import ds_to_universal

    words = argparse.Namespace(
        input_folder=str(folder / _TAG),
        output_folder=str(into / _TAG),
        # In this process: a worker of Ray's has children that nobody would end.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # DeepSpeed demands a note on parameters of special shapes; without one there are none.
        inject_missing_state=True,
    )
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        ds_to_universal.main(words)


def restore(engine: Any, folder: Path) -> None:
    """Load a checkpoint's shards, or their universal form where the engine was made for it."""
    # Frozen parameters are not in it: they are what the model was made with.
    path, _ = engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
    if path is None:
        raise RuntimeError(f"DeepSpeed found no checkpoint in {folder}")
