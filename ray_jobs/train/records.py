"""The dataset as training reads it: by index, from a file that is mapped into memory.

Parquet is packed in row groups, and has no access by row. So each machine unpacks a split once into an Arrow file in
its cache, checks every record on the way, and all its workers map that: however large the dataset, what a worker holds
of it in memory is a batch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from stillhouse.data import REVIEWER
from stillhouse.errors import UserError
from stillhouse.run import Run
from stillhouse.signal.columns import SIGNAL_FIELDS, signals
from stillhouse.signal.sparse import SparseSignal

_AT_ONCE = 1024
"""Records that are unpacked together."""

_ROUNDING = 1e-3
"""A probability of one may have a logprob that is this much above zero."""

_RECORDS, _ABOUT = "records.arrow", "about.json"

_TOKENS = ("prompt", "scored", "target")
"""Columns of token ids: the prompt, and the completions that carry the divergence and the cross-entropy; null where
there is none."""

_FIGURES = ("length", "completion", "kd_tokens", "ce_tokens", "largest")
"""Columns of a number a record: its tokens, those of its longest completion, those that carry each loss, and its
largest token id."""


@dataclass(frozen=True)
class Wanted:
    """What of the dataset a training reads.

    Attributes:
        signal: the teacher's distributions; without them there is cross-entropy alone to train on.
        max_length: longest prompt and completion, in tokens; longer records are left out.
        gold: a gold answer's token ids, if the cross-entropy is on these and not on the completion's.
    """

    signal: bool
    max_length: int
    gold: Callable[[str], list[int]] | None = None


@dataclass(frozen=True)
class Example:
    """One sequence that the student reads, and what its completion carries.

    Attributes:
        prompt: [tokens], int32.
        completion: [tokens], int32; its last one is the end of the sequence only where the writer ended it.
        signal: the teacher's distribution at each of its tokens, if they carry the divergence.
        cross_entropy: whether they carry cross-entropy.
    """

    prompt: NDArray[np.int32]
    completion: NDArray[np.int32]
    signal: SparseSignal | None
    cross_entropy: bool

    def __len__(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


class Split:
    """A split's records, by index.

    Attributes:
        lengths: [records], int64, tokens that the student reads of each.
        longest_completion: tokens.
        kd_tokens: [records], int64, tokens that carry the divergence.
        ce_tokens: [records], int64, tokens that carry cross-entropy.
        left_out: how many records were too long, or had nothing to learn from.
        mass: mean share of the teacher's probability that its stored tokens hold; 0 without signal.
        largest: the largest token id, prompts, completions and signal together.
    """

    def __init__(self, folder: Path) -> None:
        self._table = pyarrow.ipc.open_file(pyarrow.memory_map(str(folder / _RECORDS))).read_all()
        about = json.loads((folder / _ABOUT).read_text())
        self.lengths, completions, self.kd_tokens, self.ce_tokens, largest = (
            np.asarray(self._table[name].combine_chunks(), np.int64) for name in _FIGURES
        )
        self.largest, self.longest_completion = int(largest.max()), int(completions.max())
        self.left_out: int = about["left_out"]
        self.mass: float = about["mass"] / max(1, int(self.kd_tokens.sum()))

    def __len__(self) -> int:
        """Records."""
        return self._table.num_rows

    def examples(self, indices: Iterable[int]) -> list[Example]:
        """The sequences of some records, in order; a record has two where the gold answer is not the teacher's."""
        rows = [self._table.slice(i, 1) for i in indices]
        if not rows:
            return []
        table = pyarrow.concat_tables(rows)
        found = signals(table) if "top_ids" in table.column_names else [None] * len(rows)
        examples = []
        for prompt, scored, target, signal in zip(*(_arrays(table[name]) for name in _TOKENS), found, strict=True):
            same = scored is not None and target is not None and np.array_equal(scored, target)
            if scored is not None:
                examples.append(Example(prompt, scored, signal, cross_entropy=same))
            if target is not None and not same:
                examples.append(Example(prompt, target, None, cross_entropy=True))
        return examples


def unpack(run: Run, split: str, folder: Path, wanted: Wanted, *, dataset: str = "dataset") -> None:
    """Unpack a split of the run's folder `dataset` into `folder`, whole or not at all; one that is there is left as it
    is.

    Raises:
        UserError: no record is left to learn from, one has no prompt or no completion, or a completion token lacks the
            teacher's logprobs: hard targets never stand in for them.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    key = f"{dataset}/{split}.parquet"
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        packed, unpacked = Path(temporary) / "packed", Path(temporary) / "unpacked"
        run.storage.download_file(key, packed)
        unpacked.mkdir()
        found, kept, mass = 0, 0, 0.0
        with ExitStack() as stack:
            writer = None
            for table in _tables(packed, key):
                fitting, held = _checked(table, key, wanted)
                found, kept, mass = found + table.num_rows, kept + fitting.num_rows, mass + held
                writer = writer or stack.enter_context(pyarrow.ipc.new_file(str(unpacked / _RECORDS), fitting.schema))
                writer.write_table(fitting)
        if not kept:
            raise UserError(_nothing(split, found, wanted))
        (unpacked / _ABOUT).write_text(json.dumps({"left_out": found - kept, "mass": mass}))
        try:
            unpacked.rename(folder)
        except OSError:  # another worker was first: its copy is the same
            if not (folder / _ABOUT).exists():
                raise


def _tables(path: Path, key: str) -> Iterator[pyarrow.Table]:
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(_AT_ONCE):
                yield pyarrow.Table.from_batches([batch])
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{key} is damaged ({str(error).splitlines()[0]}): curate again") from error


def _checked(table: pyarrow.Table, key: str, wanted: Wanted) -> tuple[pyarrow.Table, float]:
    """The records that are learnt from, with their figures, and the teacher's mass summed over their tokens."""
    found = signals(table, name=key) if wanted.signal else [None] * table.num_rows
    plain = ["id", "teacher", "gold", "prompt_token_ids", "completion_token_ids", "finish_reason"]
    rows: list[dict[str, Any]] = table.select(plain).to_pylist()
    kept: list[int] = []
    tokens: dict[str, list[list[int] | None]] = {name: [] for name in _TOKENS}
    figures: dict[str, list[int]] = {name: [] for name in _FIGURES}
    mass = 0.0
    for i, (row, signal) in enumerate(zip(rows, found, strict=True)):
        prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
        where = f"{key}, record {row['id']}"
        if not prompt or not completion:
            raise UserError(f"{where} has no prompt or no completion: curate again")
        # A reviewer's correction is the one completion that has no distribution to learn from.
        distilled = wanted.signal and row["teacher"] != REVIEWER
        if signal is not None or distilled:
            _check_signal(signal, len(completion), where, ended=row["finish_reason"] == "stop")
        scored = completion if distilled else None
        target = completion
        if wanted.gold is not None:
            target = None if row["gold"] is None else wanted.gold(row["gold"])
        read = [sequence for sequence in (scored, target if target != scored else None) if sequence is not None]
        if not read or any(len(prompt) + len(sequence) > wanted.max_length for sequence in read):
            continue
        kept.append(i)
        for name, value in zip(_TOKENS, (prompt, scored, target), strict=True):
            tokens[name].append(value)
        carrying = np.zeros(0, bool) if signal is None else signal.counts > 0
        highest = [max(sequence) for sequence in (prompt, *read)]
        if signal is not None:
            highest.append(int(signal.ids.max()))
            mass += float(signal.mass[carrying].sum(dtype=np.float64))
        length = sum(len(prompt) + len(sequence) for sequence in read)
        told = (length, max(map(len, read)), int(carrying.sum()), len(target or ()), max(highest))
        for name, value in zip(_FIGURES, told, strict=True):
            figures[name].append(value)
    columns = {name: pyarrow.array(values, pyarrow.list_(pyarrow.int32())) for name, values in tokens.items()}
    columns |= {name: pyarrow.array(values, pyarrow.int64()) for name, values in figures.items()}
    if wanted.signal:
        chosen = table.take(pyarrow.array(kept, pyarrow.int64()))
        columns |= {name: chosen[name] for name, _ in SIGNAL_FIELDS}
    return pyarrow.table(columns), mass


def _check_signal(signal: SparseSignal | None, tokens: int, where: str, *, ended: bool) -> None:
    # OpenAI's API does not tell how probable the end of a sequence was: that one token may have no entries.
    if signal is None or len(signal) != tokens or not signal.counts[: tokens - ended].all() or not signal.counts.any():
        raise UserError(
            f"{where} lacks the teacher's logprobs of a token, so there is nothing to distil: capture again"
        )
    if not np.all(np.isfinite(signal.logprobs) & (signal.logprobs < _ROUNDING)):
        raise UserError(f"{where} holds values that are no logprobs: capture again")


def _nothing(split: str, found: int, wanted: Wanted) -> str:
    if not found:
        return f"the dataset's {split} split is empty: curate again"
    if wanted.gold is not None and not wanted.signal:
        return f"no {split} record has a gold answer of at most {wanted.max_length} tokens: see `data.label`"
    return f"no {split} record fits into {wanted.max_length} tokens: raise `student.max_length`"


def _arrays(column: pyarrow.ChunkedArray) -> list[Any]:
    """One array a row, None for null."""
    return [
        None if not chunk[i].is_valid else np.asarray(chunk[i].values, np.int32)
        for chunk in column.chunks
        for i in range(len(chunk))
    ]
