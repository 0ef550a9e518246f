"""Where judgements are kept: append-only files in the run, one for each sitting.

A sitting is a process that judges: a page that is served, or a file that is read back. No two write to the same file,
so that reviewers at several machines never overwrite each other, on a disk or on S3. A file is written whole with each
judgement; one of a thousand judgements has some 250 kB.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import ValidationError

from stillhouse.errors import UserError
from stillhouse.review.judgement import Judgement
from stillhouse.review.sample import FOLDER
from stillhouse.run import Run

JUDGEMENTS = f"{FOLDER}/judgements"


class Journal:
    """The judgements of a run, those of other sittings included as far as they were read."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._key = f"{JUDGEMENTS}/{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}.jsonl"
        self._own: list[Judgement] = []
        self._others: list[Judgement] = []
        self.refresh()

    def refresh(self) -> None:
        """Read what other sittings have said since. Raises `UserError` for a damaged file."""
        self._others = judgements(self._run, leave_out=self._key)

    def all(self) -> list[Judgement]:
        """Every judgement that is known, the taken back ones included."""
        return [*self._others, *self._own]

    def append(self, new: Iterable[Judgement]) -> None:
        """Keep judgements, all of them or none; they are safe when this returns.

        Raises:
            StorageError: they could not be kept.
        """
        whole = [*self._own, *new]
        self._run.storage.write(self._key, "".join(f"{each.model_dump_json()}\n" for each in whole).encode())
        self._own = whole


def judgements(run: Run, *, leave_out: str = "") -> list[Judgement]:
    """All judgements in the run, but for those in one file. Raises `UserError` for a damaged file."""
    found = []
    for key in run.storage.list(JUDGEMENTS):
        if key == leave_out:
            continue
        for number, line in enumerate(run.storage.read(key).splitlines(), 1):
            try:
                found.append(Judgement.model_validate_json(line))
            except ValidationError as error:
                raise UserError(f"{run.uri}/{key}, line {number} is damaged: remove the line") from error
    return found
