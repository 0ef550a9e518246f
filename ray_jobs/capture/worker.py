"""The Ray Data actor that holds one teacher and writes the parts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute as pc

from ray_jobs.capture.open_teacher import open_teacher
from ray_jobs.capture.plan import WORK, part_name, planned
from ray_jobs.capture.teacher import Answer, Failure, Identity, Question, Teacher
from stillhouse.data import Record
from stillhouse.errors import StorageError, UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe import Teacher as TeacherSection
from stillhouse.run import Run
from stillhouse.signal.schema import (
    RECORD_SCHEMA,
    PartDescription,
    description_of,
    failed_row,
    read_table,
    to_row,
    to_table,
    write_table,
)
from stillhouse.task import render
from stillhouse.teachers import section_of

COUNTS = ("records", "failed", "prompt_tokens", "completion_tokens")
"""What is counted of a part; `records` are those that the teacher answered."""


class Written(NamedTuple):
    """What became of a part.

    Attributes:
        part: its number.
        error: why it was not written, in a sentence; empty where it was.
        tokens: of the completions that were got for it now, and not in an earlier start.
        began, ended: when its first question was asked and when it was written, in seconds since the epoch by the
            worker's clock; the start of the engine comes before.
    """

    part: int
    error: str = ""
    tokens: int = 0
    began: float = 0.0
    ended: float = 0.0


def part_key(recipe: Recipe, name: str, part: int) -> str:
    """Where the part of a teacher lies in the run: beside the work, as long as an ensemble is to be combined."""
    return f"{WORK}/by/{name}/{part_name(part)}" if recipe.ensemble else final_key(part)


def final_key(part: int) -> str:
    """Where a part of the finished capture lies in the run."""
    return f"capture/parts/{part_name(part)}"


def at_once(section: TeacherSection) -> int:
    """Parts that one worker has answered at once.

    An engine is full with one. An endpoint would wait for the last answers of a part with nothing else to ask; and a
    batch takes up to a day, so that many must be under way.
    """
    if section.url is None:
        return 1
    return 32 if section.batch else 2


class CaptureWorker:
    """Writes a part where it is made, so that signal never travels through the driver.

    It is called from several threads, so that one part is packed and written while the next one is answered.

    Args:
        name: which of the recipe's teachers.
        scored: whose completions it scores; None: it writes its own, or scores those of the plan.
    """

    def __init__(self, recipe: Recipe, run: Run, made_from: str, name: str, scored: str | None) -> None:
        self.recipe, self.run, self.made_from, self.name, self.scored = recipe, run, made_from, name, scored
        self._stopped: str | None = None
        self._teacher: Teacher | None = None
        self._opening = Lock()
        # An engine lives in one thread, which its cores are bound to.
        self._askers = ThreadPoolExecutor(at_once(section_of(recipe, name)))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Answer one part's questions and write them; gives back a row of `Written` and nothing of them.

        What cannot be gone on from (no access, no disk, no money) goes back as `error`, a sentence: Ray would wrap an
        exception in a traceback. All later parts then get the same answer at once, so that other workers' parts are
        finished and kept.
        """
        part = int(batch["part"][0])
        if self._stopped is None:
            try:
                return _row(self._write(part))
            except UserError as mistake:
                self._stopped = str(mistake)
        return _row(Written(part, self._stopped))

    def _write(self, part: int) -> Written:
        records = [record for record in planned(self.run, part) if record.teacher in (None, self.name)]
        key = part_key(self.recipe, self.name, part)
        before = part_there(self.run, key, self.made_from)
        kept = RECORD_SCHEMA.empty_table() if before is None else before.filter(pc.is_null(before["error"]))
        there = set(kept["id"].to_pylist())
        teacher, began, rows = self._rows(part, [record for record in records if record.id not in there])
        table = to_table(rows, mode=self.recipe.capture.mode)
        tokens = counts_of(table)["completion_tokens"]
        table = pyarrow.concat_tables([kept.replace_schema_metadata(), table])
        table = table.sort_by([("index", "ascending"), ("sample", "ascending")])
        description = describe(self.recipe, teacher.identity, self.made_from)
        self.run.storage.write(key, write_table(table, asdict(description)))
        return Written(part, tokens=tokens, began=began, ended=time.time())

    def _rows(self, part: int, records: Sequence[Record]) -> tuple[Teacher, float, list[dict[str, Any]]]:
        questions, rows = [], []
        asked: list[Record] = []
        completions = self._completions(part)
        for record in records:
            if completions is not None and record.id not in completions:
                error = f"there is no completion of {self.scored or 'the data'} to score"
                rows.append({**failed_row(record, error), "teacher": self.name})
                continue
            questions.append(
                Question(
                    id=record.id,
                    prompt=render(self.recipe.task, record.fields),
                    seed=_seed(self.recipe.seed, record.id),
                    completion=completions[record.id] if completions is not None else None,
                )
            )
            asked.append(record)
        teacher, began, answers = self._askers.submit(self._ask, part, questions).result()
        for record, answer in zip(asked, answers, strict=True):
            rows += self._answered(record, answer)
        return teacher, began, rows

    def _ask(self, part: int, questions: Sequence[Question]) -> tuple[Teacher, float, list[Answer]]:
        with self._opening:
            # Here and not when the actor starts, where a mistake of the user would end in Ray's traceback.
            self._teacher = self._teacher or open_teacher(self.recipe, self.run, self.name)
        began = time.time()
        return self._teacher, began, self._teacher.answer(part, questions) if questions else []

    def _answered(self, record: Record, answer: Answer) -> list[dict[str, Any]]:
        if isinstance(answer, Failure):
            return [{**failed_row(record, answer.error), "teacher": self.name}]
        return [to_row(record, completion, sample, self.name) for sample, completion in enumerate(answer)]

    def _completions(self, part: int) -> Mapping[str, str | list[int]] | None:
        """The completions to score, by record: texts of the data, or the tokens that another teacher wrote."""
        if self.scored is not None:
            key = part_key(self.recipe, self.scored, part)
            table = read_table(self.run.storage.read(key), name=key)
            table = table.filter(pc.is_null(table["error"])).select(["id", "completion_token_ids"])
            return {row["id"]: row["completion_token_ids"] for row in table.to_pylist()}
        if self.recipe.capture.completions == "teacher":
            return None
        return {record.id: record.completion for record in planned(self.run, part) if record.completion is not None}


def part_there(run: Run, key: str, made_from: str) -> pyarrow.Table | None:
    """A part that is there, whole and made from the same; None otherwise. Raises `StorageError`."""
    try:
        table = read_table(run.storage.read(key), name=key)
    except StorageError:  # it may be there and whole, and only not be reached now
        raise
    except (KeyError, UserError):
        return None
    same = description_of(table).get("made_from") == made_from and table.schema.equals(RECORD_SCHEMA)
    return table if same else None


def counts_of(table: pyarrow.Table) -> dict[str, int]:
    """What `COUNTS` names, of a part."""
    good = table.filter(pc.is_null(table["error"]))
    return {
        "records": len(pc.unique(good["id"])),
        "failed": table.num_rows - good.num_rows,
        "prompt_tokens": _tokens(good, "prompt_token_ids"),
        "completion_tokens": _tokens(good, "completion_token_ids"),
    }


def describe(recipe: Recipe, identity: Identity, made_from: str) -> PartDescription:
    """What a part says of itself."""
    capture = recipe.capture
    return PartDescription(
        made_from=made_from,
        model=identity.model,
        tokenizer_hash=identity.tokenizer_hash,
        template_hash=identity.template_hash,
        engine=identity.engine,
        mode=capture.mode,
        k=capture.top_k if capture.mode == "topk" else None,
        dtype=identity.dtype,
        mass=capture.mass if capture.mode == "topk" else None,
        draws=capture.draws if capture.mode == "sampled" else None,
    )


def _row(written: Written) -> dict[str, list[Any]]:
    """As a batch of Ray Data's with one row."""
    return {name: [value] for name, value in written._asdict().items()}


def _tokens(table: pyarrow.Table, column: str) -> int:
    return int(pc.sum(pc.list_value_length(table[column])).as_py() or 0)


def _seed(seed: int, identity: str) -> int:
    """A record's own seed: the same in whichever part, batch and attempt it is asked."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=4).digest())
