"""What a recipe names, read and held against itself: nothing here asks a model."""

from __future__ import annotations

import hashlib
import random
import statistics
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse import models, tuning
from stillhouse.check.contract import require_spellings
from stillhouse.check.findings import Prompts
from stillhouse.check.own_filter import given, require_function, require_verdicts
from stillhouse.curation.duplicates import normalised
from stillhouse.data import Record, Records
from stillhouse.errors import UserError
from stillhouse.recipe import Engine, Recipe, Teacher
from stillhouse.signal.alignment import require_same_tokens, template_hash, tokenizer_hash
from stillhouse.task import render, token_ids
from stillhouse.teachers import names, sections

LOOKED_AT = 1000
"""Prompts that are rendered and tokenised, drawn with the recipe's seed; all of them where there are no more."""

SAMPLE = 20
"""Of these, the records that a teacher is asked about."""


@dataclass(frozen=True)
class Inputs:
    """What the recipe names.

    Attributes:
        records: rows that the recipe asks for.
        labelled: of these, with a gold answer.
        duplicates: of these, a prompt that came before, as curation compares them.
        without_completion: of these, without a completion to score, where the recipe scores what is there.
        by_teacher: rows that each teacher answers.
        looked_at: the rows that were rendered.
        lengths: [looked at], tokens of each prompt.
        tokenizer: the one that stored token ids belong to: the teacher's, or the student's where text alone is stored.
        tokenizer_model: whose that is.
        fits: the longest prompt, in tokens, that fits the teacher's engine beside a completion; None: not known.
        prompts: the same prompts, summed up.
    """

    records: int
    labelled: int
    duplicates: int
    without_completion: int
    by_teacher: Mapping[str, int]
    looked_at: Sequence[Record]
    lengths: Sequence[int]
    tokenizer: Any
    tokenizer_model: str
    fits: int | None
    prompts: Prompts

    def of_teacher(self, name: str) -> list[int]:
        """The prompt tokens of the rows looked at that a teacher answers; 0 for one that is left out as too long."""
        return [
            0 if self.fits is not None and length > self.fits else length
            for record, length in zip(self.looked_at, self.lengths, strict=True)
            if record.teacher in (None, name)
        ]


def read_inputs(recipe: Recipe) -> Inputs:
    """Read the data, the tokenizers and the models' configurations.

    Raises:
        UserError: one of them cannot be read, or they cannot work together; it says what would.
    """
    require_function(recipe)
    tokenizer, tokenizer_model = _tokenizers(recipe)
    if recipe.capture.mode == "topk" and recipe.capture.top_k > len(tokenizer):
        raise UserError(
            f"capture.top_k: {recipe.capture.top_k} is more than the {len(tokenizer)} tokens of the vocabulary: set at"
            f" most {len(tokenizer)}"
        )
    require_spellings(recipe.task, tokenizer)
    _require_configurations(recipe)

    records = Records(recipe)
    chosen = set(random.Random(recipe.seed).sample(range(len(records)), min(LOOKED_AT, len(records))))
    labelled = without = 0
    prompts = array("Q")
    answered: Counter[str | None] = Counter()
    looked_at = []
    for record in records:
        labelled += record.gold is not None
        without += recipe.capture.completions != "teacher" and record.completion is None
        answered[record.teacher] += 1
        prompts.append(_key(record))
        if record.index in chosen:
            looked_at.append(record)
    if without == len(records):
        column = recipe.data.label if recipe.capture.completions == "gold" else recipe.data.completion
        raise UserError(
            f"data.path: no record of {recipe.data.path} has anything in the column {column!r}, and there is nothing to"
            " score: fill it, or set `capture.completions: teacher`"
        )
    distinct = len(np.unique(np.frombuffer(prompts, dtype=np.uint64)))
    if distinct < recipe.curation.min_records:
        raise UserError(
            f"data.path: {recipe.data.path} holds {len(records)} records"
            f"{f', {distinct} of them different' if distinct < len(records) else ''}, and curation needs at least"
            f" {recipe.curation.min_records} (`curation.min_records`): add data"
        )
    if recipe.teacher.tune is not None:
        tuning.require_enough(recipe, labelled=labelled, records=len(records))
    if recipe.capture.completions != "teacher":
        scored = drawn(recipe, [record for record in looked_at if record.completion is not None])
        # Scored in other tokens than the teacher's own, a completion has no logprobs.
        require_verdicts(recipe, given(scored, tokenizer, told=tokenizer_model == recipe.teacher.model))
    lengths = [len(token_ids(render(recipe.task, record.fields), tokenizer)) for record in looked_at]
    fits = _fits(recipe)
    return Inputs(
        records=len(records),
        labelled=labelled,
        duplicates=len(records) - distinct,
        without_completion=without,
        by_teacher={name: answered[None] + answered[name] for name in names(recipe)},
        looked_at=looked_at,
        lengths=lengths,
        tokenizer=tokenizer,
        tokenizer_model=tokenizer_model,
        fits=fits,
        prompts=_prompts(recipe, lengths, fits),
    )


def drawn(recipe: Recipe, records: Sequence[Record]) -> list[Record]:
    """A sample of records, drawn with the recipe's seed; all of them where there are no more than `SAMPLE`."""
    return random.Random(recipe.seed).sample(records, min(SAMPLE, len(records)))


def _key(record: Record) -> int:
    """64 bits of a prompt, which tell prompts apart but for rare chance."""
    text = normalised("\n".join(record.fields.values()))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _places(recipe: Recipe) -> list[tuple[str, Teacher]]:
    """The teachers, with the place in the recipe that each comes from."""
    first, *members = sections(recipe)
    return [("teacher", first), *((f"ensemble.members.{i}", member) for i, member in enumerate(members))]


def _tokenizers(recipe: Recipe) -> tuple[Any, str]:
    """The tokenizer that stored token ids belong to, and whose it is, all others having been compared with it."""
    source = models.token_source(recipe)
    tokenizer, student = models.load_tokenizer(source), recipe.student.init.model
    if source == student:
        return tokenizer, source
    for place, section in _places(recipe)[1:]:
        other = section.model if section.url is None else section.tokenizer
        if other is None:
            raise UserError(f"{place}.tokenizer: the endpoint's tokens are not known: name its tokenizer")
        if tokenizer_hash(models.load_tokenizer(other)) != tokenizer_hash(tokenizer):
            raise UserError(
                f"{place}: the tokenizer of {other} is not that of {source}, and their token ids cannot be stored side"
                " by side: take teachers of one family, or `capture.mode: text` with a student of its own"
            )
    if student is not None:
        own = models.load_tokenizer(student)
        require_same_tokens(tokenizer, own)
        if recipe.task.messages is not None and template_hash(own) != template_hash(tokenizer):
            raise UserError(
                f"the student {student} has another chat template than {source}, and would read other prompts than its"
                " teacher did: give `task.prompt` instead of `task.messages`, or save the student with the teacher's"
                " template"
            )
    return tokenizer, source


def _config(model: str) -> Any:
    """The model's configuration. Raises `UserError` for an unknown model."""
    folder = models.resolve(model)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder).get_text_config()  # a model that sees has two
    except Exception as error:  # a damaged config.json ends in whatever its reader met first
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"the model {model} cannot be loaded: {why}") from error


def _require_configurations(recipe: Recipe) -> None:
    """Hold the recipe's sizes against the models' configurations."""
    for place, section in _places(recipe):
        if section.url is None:
            _require_positions(_config(section.model), section.engine, f"{place}.engine")
    init = recipe.student.init
    if recipe.student.openai is not None:
        return
    if init.model is not None:
        _require_positions(_config(init.model), recipe.student.engine, "student.engine")
    elif recipe.teacher.url is None:
        config = _config(recipe.teacher.model)
        _require_positions(config, recipe.student.engine, "student.engine")
        if init.kind == "teacher_layers":
            needed = init.layers if isinstance(init.layers, int) else init.layers[-1] + 1
            if needed > config.num_hidden_layers:
                raise UserError(f"student.init.layers: {needed} is more than the teacher's {config.num_hidden_layers}")


def _require_positions(config: Any, engine: Engine, place: str) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    # Kinds of layers may have parameters of their own; a scaled model reads further than its positions.
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    scaled = any(each.get("rope_type", "default") != "default" for each in kinds)
    if positions is not None and not scaled and engine.max_model_len > positions:
        raise UserError(
            f"{place}.max_model_len: {engine.max_model_len} is more than the {positions} positions of the model: set at"
            f" most {positions}"
        )


def _fits(recipe: Recipe) -> int | None:
    """The longest prompt for every engine of a teacher; None where none runs here."""
    found = []
    for place, section in _places(recipe):
        if section.url is not None:
            continue
        room = section.engine.max_model_len - recipe.task.max_tokens
        if room < 1:
            raise UserError(
                f"{place}.engine.max_model_len: {section.engine.max_model_len} leaves no room for a prompt beside"
                f" task.max_tokens ({recipe.task.max_tokens}): raise it"
            )
        found.append(room)
    return min(found, default=None)


def _prompts(recipe: Recipe, lengths: Sequence[int], fits: int | None) -> Prompts:
    shortest, longest = min(lengths), max(lengths)
    if fits is not None and shortest > fits:
        raise UserError(
            f"teacher.engine.max_model_len: no prompt fits the {fits} tokens that are left beside task.max_tokens (the"
            f" shortest has {shortest}): set at least {longest + recipe.task.max_tokens}"
        )
    student = recipe.student
    keys = "student.openai.max_example_tokens"
    if student.openai is not None:
        fits_student = student.openai.max_example_tokens - recipe.task.max_tokens
    else:
        keys = "student.max_length, student.engine.max_model_len"
        fits_student = min(student.max_length - 1, student.engine.max_model_len - recipe.task.max_tokens)
    if shortest > fits_student:
        raise UserError(
            f"{keys}: no prompt leaves room for an answer (the shortest has"
            f" {shortest} tokens): set at least {longest + recipe.task.max_tokens}"
        )
    return Prompts(
        counted=len(lengths),
        mean=statistics.fmean(lengths),
        longest=longest,
        too_long=sum(length > fits for length in lengths) if fits is not None else 0,
        too_long_for_student=sum(length > fits_student for length in lengths),
    )
