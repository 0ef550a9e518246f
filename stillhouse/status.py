"""`stillhouse status`: the steps of a run as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from stillhouse.run import Run, Status

_COLOURS = {"done": "green", "stale": "yellow", "partial": "yellow", "missing": "red"}


def show(statuses: Sequence[Status], run: Run, console: Console) -> None:
    """Print the run's address, and one row a step."""
    console.print(run.uri, soft_wrap=True, markup=False)
    table = Table("step", "state", "holds", "why", box=None, pad_edge=False)
    for status in statuses:
        manifest = status.manifest
        holds = ""
        if manifest:
            size = sum(entry.size for entry in manifest.files)
            holds = f"{len(manifest.files)} files, {size / 1e6:.1f} MB, made in {manifest.seconds:.0f} s"
        table.add_row(status.step, f"[{_COLOURS[status.state]}]{status.state}[/]", holds, status.why)
    console.print(table)
