"""The best student so far: kept beside the checkpoints, so that neither an early stop nor a kill loses it."""

from __future__ import annotations

from pathlib import Path

from stillhouse.run import Run


class Best:
    """Whole students in the run's storage, by the step at which they were validated."""

    def __init__(self, run: Run, name: str) -> None:
        self._run, self._folder = run, f"training/{name}/best"
        self._needed: list[int | None] = []

    def put(self, step: int, folder: Path) -> None:
        """Store the student of a step. One of that step may be there, of before a kill: it is written over."""
        self._run.storage.delete_folder(self._key(step))
        self._run.storage.upload(folder, self._key(step))

    def get(self, step: int, folder: Path) -> None:
        """Copy the student of a step to a local folder."""
        self._run.storage.download(self._key(step), folder)

    def prune(self, step: int | None) -> None:
        """Forget all students that no checkpoint leads to, called as a checkpoint is handed over whose best is `step`.

        It may still be under way, and fail: then the one before it is gone on from, so what that one needs stays.
        """
        self._needed = [*self._needed[-1:], step]
        keep = tuple(f"{self._key(one)}/" for one in self._needed if one is not None)
        for key in self._run.storage.list(self._folder):
            if not key.startswith(keep or "\\0"):
                self._run.storage.delete(key)

    def _key(self, step: int) -> str:
        return f"{self._folder}/{step:08d}"
