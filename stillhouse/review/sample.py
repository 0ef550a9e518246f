"""The records that people are to judge: a stratified sample of the dataset, drawn once and kept in the run.

It is drawn from the dataset as it is without any judgement, so that the error that is estimated on it is the teacher's,
whatever the review has put right since.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow
import pyarrow.compute as pc

from stillhouse.confidence import SEQUENCE_PROBABILITY, Evidence
from stillhouse.curation.splits import SPLITS
from stillhouse.recipe import Recipe, Task
from stillhouse.review.strata import Stratum, allocated, stratified
from stillhouse.run import Run, digest
from stillhouse.signal.schema import description_of, read_table, write_table
from stillhouse.task import Prompt, render

FOLDER = "review"
SAMPLE = f"{FOLDER}/sample.parquet"

COLUMNS = ("id", "fields", "gold", "completion", "answer", "token_logprobs", "prompt_token_ids", "completion_token_ids")
"""What is read of the dataset."""


@dataclass(frozen=True)
class Item:
    """One record of the sample.

    Attributes:
        id: the record's.
        content: hash of its prompt and completion: what a judgement is about.
        stratum: its place among the sample's strata.
        label: its class; empty for tasks without classes.
        tokens: length of prompt and completion; in characters, where the teacher's tokens are not known.
        fields: the columns of the prompt.
        completion: the teacher's.
        gold: its gold answer, if the data has one.
        confidence: of the teacher in the whole completion, in [0, 1]; None where it told none.
    """

    id: str
    content: str
    stratum: int
    label: str
    tokens: int
    fields: dict[str, str]
    completion: str
    gold: str | None
    confidence: float | None

    def prompt(self, task: Task) -> Prompt:
        """What the teacher was asked."""
        return render(task, self.fields)


@dataclass(frozen=True)
class Sample:
    """What is judged.

    Attributes:
        made_from: digest of what the dataset was made from, judgements apart, and of how the sample is drawn.
        strata: all of them; each has one record in the sample at least.
        items: in the order in which they are judged, which is random.
    """

    made_from: str
    strata: tuple[Stratum, ...]
    items: tuple[Item, ...]
    by_id: dict[str, Item] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_id", {item.id: item for item in self.items})

    @property
    def population(self) -> int:
        """Records that it was drawn from."""
        return sum(stratum.size for stratum in self.strata)

    def save(self, run: Run) -> None:
        """Keep it in the run, whole or not at all."""
        rows = [{**asdict(item), "fields": json.dumps(item.fields, ensure_ascii=False)} for item in self.items]
        told = {"made_from": self.made_from, "strata": [asdict(stratum) for stratum in self.strata]}
        run.storage.write(SAMPLE, write_table(pyarrow.Table.from_pylist(rows, schema=_SCHEMA), told))

    @classmethod
    def load(cls, run: Run) -> Sample | None:
        """The run's sample; None where none was drawn. Raises `UserError` for a damaged one."""
        try:
            table = read_table(run.storage.read(SAMPLE), name=f"{run.uri}/{SAMPLE}")
        except KeyError:
            return None
        told = description_of(table)
        items = [Item(**{**row, "fields": json.loads(row["fields"])}) for row in table.to_pylist()]
        return cls(told["made_from"], tuple(Stratum(**each) for each in told["strata"]), tuple(items))


_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("content", pyarrow.string()),
        ("stratum", pyarrow.int32()),
        ("label", pyarrow.string()),
        ("tokens", pyarrow.int64()),
        ("fields", pyarrow.string()),
        ("completion", pyarrow.string()),
        ("gold", pyarrow.string()),
        ("confidence", pyarrow.float64()),
    ]
)


def content_of(task: Task, fields: Mapping[str, str], completion: str) -> str:
    """Hash of a prompt and its completion."""
    return digest([asdict(render(task, fields)), completion])


def made_from(inputs: Mapping[str, str], recipe: Recipe) -> str:
    """What a sample is named by; `inputs` are the dataset's, of which the judgements do not count."""
    return digest([{name: value for name, value in inputs.items() if name != "review"}, recipe.review.share])


def dataset_tables(run: Run) -> Iterable[pyarrow.Table]:
    """The columns of each split that are sampled from. Raises `UserError` for a damaged one."""
    for split in SPLITS:
        key = f"dataset/{split}.parquet"
        yield read_table(run.storage.read(key), name=key, columns=COLUMNS)


def draw(tables: Iterable[pyarrow.Table], recipe: Recipe, *, named: str) -> Sample:
    """Draw the sample from all records of the dataset; one completion of each, the first that was kept.

    Every record has its own random number, by the seed and its id: other records beside it, or another order, change
    little of the sample.

    Args:
        tables: with `COLUMNS`.
        named: what the sample is made from.
    """
    ids, labels, lengths, confidences = [], [], [], []
    places: list[tuple[int, int]] = []
    seen: set[str] = set()
    tables = [table.select(COLUMNS) for table in tables]
    classes = recipe.task.kind == "choices"
    for number, table in enumerate(tables):
        sizes = _lengths(table)
        columns = (table["id"].to_pylist(), table["answer"].to_pylist(), table["token_logprobs"].to_pylist())
        for place, (identity, answer, logprobs) in enumerate(zip(*columns, strict=True)):
            if identity in seen:
                continue
            seen.add(identity)
            ids.append(identity)
            labels.append(answer if classes else "")
            lengths.append(sizes[place])
            confidences.append(_confidence(logprobs))
            places.append((number, place))
    strata, chosen = _drawn(ids, stratified(labels, lengths, confidences, share=recipe.review.share), recipe)
    items = []
    for i, stratum in chosen:
        number, place = places[i]
        (row,) = tables[number].slice(place, 1).select(("fields", "gold", "completion")).to_pylist()
        fields = json.loads(row["fields"])
        items.append(
            Item(
                id=ids[i],
                content=content_of(recipe.task, fields, row["completion"]),
                stratum=stratum,
                label=labels[i],
                tokens=lengths[i],
                fields=fields,
                completion=row["completion"],
                gold=row["gold"],
                confidence=confidences[i],
            )
        )
    return Sample(named, tuple(strata), tuple(items))


def _drawn(
    ids: Sequence[str], strata: Sequence[tuple[str, str]], recipe: Recipe
) -> tuple[list[Stratum], list[tuple[int, int]]]:
    """The strata, and (record, stratum) of what is drawn, in random order."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, stratum in enumerate(strata):
        members[stratum].append(i)
    names = sorted(members)
    counts = allocated([len(members[name]) for name in names], share=recipe.review.share)
    found, chosen = [], []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        found.append(Stratum(*name, size=len(members[name]), drawn=count))
        first = sorted(members[name], key=lambda i: digest([recipe.seed, ids[i]]))[:count]
        chosen += [(i, number) for i in first]
    # Another number than the one it was drawn by: that is small wherever few are drawn.
    return found, sorted(chosen, key=lambda pair: digest([recipe.seed, "order", ids[pair[0]]]))


def _lengths(table: pyarrow.Table) -> list[int]:
    """Tokens of prompt and completion; characters, where a table has no tokens."""
    tokens = pc.add(_counts(table["prompt_token_ids"]), _counts(table["completion_token_ids"])).to_pylist()
    if any(tokens):
        return [int(count) for count in tokens]
    characters = pc.add(pc.utf8_length(table["fields"]), pc.utf8_length(table["completion"])).to_pylist()
    return [int(count) for count in characters]


def _counts(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    return pc.fill_null(pc.list_value_length(column), 0)


def _confidence(logprobs: Sequence[float] | None) -> float | None:
    """The teacher's, from the tokens whose logprobs it told: an endpoint may leave out that of the end."""
    told = [value for value in logprobs or () if value is not None and not math.isnan(value)]
    return SEQUENCE_PROBABILITY(Evidence.of(told)) if told else None
