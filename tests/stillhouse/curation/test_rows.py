"""Captured tables as curation reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow
import pytest
from captured import row

from stillhouse.curation.rows import rows_of
from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.signal.schema import Completion, failed_row, to_row, to_table

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
JSON = {"task.kind": "json", "task.choices": [], "task.json_schema": SCHEMA}


def completed(
    identity: str, text: str, sample: int = 0, agreement: float | None = None, logprobs: Any = (-0.5, -0.25)
) -> dict[str, Any]:
    told = None if logprobs is None else list(logprobs)
    one = Completion([1], text, [5, 0], "stop", told, None)
    return to_row(Record(identity, 0, {"text": f"of {identity}", "more": "m"}, "1"), one, sample, "teacher", agreement)


def test_the_agreement_is_the_share_of_the_most_frequent_answer(make_recipe: Callable[..., Recipe]) -> None:
    texts = ['{"x": 1}', ' {"x":1}\n', '{"x": 2}', "no object", '{"x": 2, "y": 0}']
    rows = [completed("a", text, sample) for sample, text in enumerate(texts)]
    rows += [
        completed("b", "none"),
        completed("c", '{"x": 1}', agreement=0.7),
        failed_row(Record("d", 3, {}, None), "x"),
    ]
    found = rows_of(make_recipe(JSON).task, to_table(rows, mode="text"))
    assert [one.agreement for one in found] == pytest.approx([0.4] * 5 + [0.0, 0.7, 0.0])
    assert [one.answer for one in found[:4]] == ['{"x":1}', '{"x":1}', '{"x":2}', None]


def test_rows_are_read_from_slices_and_several_chunks(make_recipe: Callable[..., Recipe]) -> None:
    rows = [completed(str(i), " positive", logprobs=[-float(i)] * 2 if i % 2 else None) for i in range(9)]
    whole = to_table(rows, mode="text")
    table = pyarrow.concat_tables([whole.slice(2, 3), whole.slice(7, 2)])
    found = rows_of(make_recipe().task, table)
    assert [one.id for one in found] == ["2", "3", "4", "7", "8"]
    assert [one.confidence() for one in found] == pytest.approx([None, math.exp(-6), None, math.exp(-14), None])
    assert found[0].text == "of 2\nm"
    assert {one.tokens for one in found} == {2}
    assert found[0].gold == "1"


def test_a_failed_record_has_no_completion(make_recipe: Callable[..., Recipe]) -> None:
    failed = failed_row(Record("a", 0, {"text": "t"}, None), "timed out")
    (found,) = rows_of(make_recipe().task, to_table([failed], mode="text"))
    assert (found.completion, found.answer, found.tokens, found.error) == (None, None, 0, "timed out")
    assert found.confidence() is None


def test_confidence_by_token_and_where_the_end_is_not_told() -> None:
    told = row(logprobs=[math.log(0.5), math.log(0.125), math.nan])
    assert told.confidence() == pytest.approx(1 / 16)
    assert told.confidence(per_token=True) == pytest.approx(1 / 4)
    assert row(logprobs=[math.nan]).confidence() is None
    assert row(logprobs=[]).confidence() is None
    with pytest.raises(UserError, match="the capture of the record 'r0' is damaged"):
        row(logprobs=[0.5]).confidence()


def test_the_texts_of_an_object_are_its_values() -> None:
    answer = '{"a":"x","b":[1,true,null,{"c":"é\\n"}],"d":2.5}'
    assert row(answer=answer, is_json=True).values() == ["x", "1", "é\n", "2.5"]
    assert row(completion=" as it is ").values() == [" as it is "]
    assert row(completion="c", text="p").texts("both") == ["p", "c"]
