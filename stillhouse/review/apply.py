"""What the judgements change of a dataset: rejected completions go, and corrections take their place."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow

from stillhouse import models
from stillhouse.data import REVIEWER
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Task
from stillhouse.review.journal import judgements
from stillhouse.review.outcome import Key, Outcome, outcomes, settled
from stillhouse.review.sample import Sample, content_of, draw, made_from
from stillhouse.run import Run
from stillhouse.signal.schema import RECORD_SCHEMA
from stillhouse.task import answer, completion_token_ids, gold_completion

_TRAINED_ON = ("train", "validation")


@dataclass(frozen=True)
class Reviewed:
    """A dataset with the judgements in it.

    Attributes:
        dataset: its rows; a completion that was corrected, in train and validation, is the reviewer's.
        splits: [rows], the split of each; empty for one that is left out or rejected.
        corrected: how many completions are the reviewers'.
    """

    dataset: pyarrow.Table
    splits: list[str]
    corrected: int = 0


def reviewed(
    recipe: Recipe, run: Run, inputs: Mapping[str, str], dataset: pyarrow.Table, splits: Sequence[str]
) -> Reviewed:
    """Apply the run's judgements to a dataset that is being made; without any it stays as it is.

    The sample is drawn again first, if it is not of this dataset: from what is made here no other could be drawn.

    Args:
        inputs: what the dataset is made from.
        dataset: one row a completion, with the column `answer`.
        splits: [rows], the split of each; empty for one that is left out.

    Raises:
        UserError: every record of a split is rejected, or the tokenizer for corrections cannot be loaded.
    """
    found = settled(outcomes(recipe.task, judgements(run)))
    if not found:
        return Reviewed(dataset, list(splits))
    named, sample = made_from(inputs, recipe), Sample.load(run)
    if sample is None or sample.made_from != named:
        kept = pyarrow.array([bool(split) for split in splits])
        draw([dataset.filter(kept)], recipe, named=named).save(run)

    @cache
    def tokenizer() -> Any:
        return models.load_tokenizer(models.token_source(recipe))

    done = apply(recipe.task, dataset, splits, found, lambda text: completion_token_ids(text, tokenizer(), ended=True))
    for split in sorted({*splits} - {*done.splits}):
        raise UserError(f"the review rejects every record of the {split} split: add data, or mend the task or teacher")
    return done


def apply(
    task: Task,
    dataset: pyarrow.Table,
    splits: Sequence[str],
    found: Mapping[Key, Outcome],
    encode: Callable[[str], list[int]],
) -> Reviewed:
    """Apply outcomes to the completions that they are about; those of other completions change nothing.

    Accepted: the answer is the record's gold answer, if it has none. Corrected: the correction is its gold answer; in
    train and validation it replaces each of the record's completions with another answer, without the teacher's
    distribution, so that it is learnt by cross-entropy alone. Rejected: completions with that answer are left out.

    Args:
        encode: the tokens of a completion, with the end of the sequence.
    """
    splits, answers, gold = list(splits), dataset["answer"].to_pylist(), dataset["gold"].to_pylist()
    replaced: dict[int, dict[str, Any]] = {}
    rejected: list[int] = []
    for rows, outcome, about in _judged(task, dataset, splits, found):
        if outcome.verdict == "reject":
            rejected += [place for place in rows if answers[place] == about]
            continue
        right = about if outcome.correction is None else answer(task, outcome.correction)
        for place, row in rows.items():
            if outcome.correction is None:
                gold[place] = gold[place] or right
                continue
            gold[place] = right
            if answers[place] != right and splits[place] in _TRAINED_ON:
                replaced[place] = _corrected(task, row, outcome.correction, encode)
    for place in rejected:
        splits[place] = ""
    dataset = dataset.set_column(dataset.column_names.index("gold"), "gold", pyarrow.array(gold, pyarrow.string()))
    return Reviewed(_with(dataset, replaced), splits, len(replaced))


def _judged(
    task: Task, dataset: pyarrow.Table, splits: Sequence[str], found: Mapping[Key, Outcome]
) -> Iterator[tuple[dict[int, dict[str, Any]], Outcome, str]]:
    """(the rows of the record by their places, the outcome, the answer it is about) for each outcome that is about a
    completion here."""
    of_record: dict[str, dict[str, Outcome]] = defaultdict(dict)
    for (identity, content), outcome in found.items():
        of_record[identity][content] = outcome
    ids = dataset["id"].to_pylist()
    places = [place for place, identity in enumerate(ids) if splits[place] and identity in of_record]
    records: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    chosen = dataset.select(_READ).take(pyarrow.array(places, pyarrow.int64()))
    for place, row in zip(places, chosen.to_pylist(), strict=True):
        records[ids[place]][place] = row
    for identity, rows in records.items():
        outcomes_of = of_record[identity]
        # A record may have several completions, of which one was judged.
        contents = [(content_of(task, json.loads(row["fields"]), row["completion"]), row) for row in rows.values()]
        about = [(outcomes_of[content], row["answer"]) for content, row in contents if content in outcomes_of]
        yield from ((rows, outcome, judged) for outcome, judged in dict.fromkeys(about))


_READ = ("fields", "completion", "completion_token_ids", "answer")


def _corrected(
    task: Task, row: Mapping[str, Any], correction: str, encode: Callable[[str], list[int]]
) -> dict[str, Any]:
    """The columns of a completion that a reviewer wrote; null what only the teacher can tell."""
    text = corrected_completion(task, row["completion"], correction)
    return {
        "teacher": REVIEWER,
        "completion": text,
        # A teacher whose tokenizer is unknown tells no token ids, and the student is trained on words.
        "completion_token_ids": encode(text) if row["completion_token_ids"] else [],
        "finish_reason": "stop",
        "answer": answer(task, text),
    }


def corrected_completion(task: Task, completion: str, correction: str) -> str:
    """A correction as the teacher would have written it: with the space that its completion began with, and for JSON
    laid out as its own."""
    if task.kind == "choices":
        found = answer(task, correction)
        assert found is not None
        return gold_completion(task, found)
    if task.kind == "json":
        correction = _laid_out(correction, like=completion)
    return completion[: len(completion) - len(completion.lstrip())] + correction


def _laid_out(text: str, *, like: str) -> str:
    """The JSON `text` in the layout of `like`; in Python's usual one, if that is none of the common ones."""
    value, model = json.loads(text), json.loads(like)
    layouts: list[dict[str, Any]] = [{"separators": (",", ":")}, {}, {"indent": 2}, {"indent": 4}]
    for layout in layouts:
        if json.dumps(model, ensure_ascii=False, **layout) == like.strip():
            return json.dumps(value, ensure_ascii=False, **layout)
    return json.dumps(value, ensure_ascii=False)


def _with(dataset: pyarrow.Table, replaced: Mapping[int, Mapping[str, Any]]) -> pyarrow.Table:
    """The dataset with new completions in some rows; what else the teacher told of the old ones becomes null."""
    if not replaced:
        return dataset
    places = sorted(replaced)
    # Columns of curation's own stay as well.
    kept = [name for name in dataset.column_names if name in _KEPT or name not in RECORD_SCHEMA.names]
    old = dataset.select(kept).take(places).to_pylist()
    rows = [{**row, **replaced[place]} for place, row in zip(places, old, strict=True)]
    new = pyarrow.Table.from_pylist(rows, schema=dataset.schema)
    order = list(range(dataset.num_rows))
    for number, place in enumerate(places):
        order[place] = dataset.num_rows + number
    return pyarrow.concat_tables([dataset, new]).take(order)


_KEPT = ("id", "index", "sample", "fields", "gold", "prompt_token_ids")
"""What a row keeps that has another completion."""
