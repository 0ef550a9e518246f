"""The work of a capture, cut into parts that depend on nothing but the recipe and the data.

The plan is written beside the capture, so that no worker needs the data's own place, and a restart need not read the
data again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice

import pyarrow

from stillhouse.data import Record, Records
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import read_table, write_table

WORK = "capture/work"
"""What is needed until the capture's manifest is there, and removed then."""

_INDEX = f"{WORK}/plan/plan.json"
_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("index", pyarrow.int64()),
        ("fields", pyarrow.string()),
        ("gold", pyarrow.string()),
        ("completion", pyarrow.string()),
        ("teacher", pyarrow.string()),
    ]
)


@dataclass(frozen=True)
class Plan:
    """How many records there are, and in parts of what size."""

    made_from: str
    records: int
    part_size: int

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.records // self.part_size)

    def size(self, part: int) -> int:
        """Records of one part."""
        return min(self.part_size, self.records - part * self.part_size)


def part_name(part: int) -> str:
    """The file of a part, in whichever folder."""
    return f"part-{part:05d}.parquet"


def make_plan(recipe: Recipe, run: Run, made_from: str) -> Plan:
    """The plan of a capture: the one that is there, if it was made from the same, else a new one.

    Raises:
        UserError: the data cannot be used.
    """
    try:
        found = Plan(**json.loads(run.storage.read(_INDEX)))
        if found.made_from == made_from:
            return found
    except (KeyError, TypeError, ValueError):  # none, or a damaged one
        pass
    run.storage.delete(_INDEX)
    records = Records(recipe)
    plan = Plan(made_from, len(records), recipe.capture.part_size)
    for part, chunk in enumerate(_chunks(records, plan.part_size)):
        rows = [{**asdict(record), "fields": json.dumps(record.fields, ensure_ascii=False)} for record in chunk]
        table = pyarrow.Table.from_pylist(rows, schema=_SCHEMA)
        run.storage.write(_key(part), write_table(table, {"made_from": made_from}))
    run.storage.write(_INDEX, json.dumps(asdict(plan)).encode())
    return plan


def planned(run: Run, part: int) -> list[Record]:
    """The records of one part."""
    key = _key(part)
    rows = read_table(run.storage.read(key), name=key).to_pylist()
    return [Record(**{**row, "fields": json.loads(row["fields"])}) for row in rows]


def _key(part: int) -> str:
    return f"{WORK}/plan/{part_name(part)}"


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    remaining = iter(records)
    while chunk := list(islice(remaining, size)):
        yield chunk
