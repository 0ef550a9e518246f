"""Bytes and exactness of stored distributions: `python -m benchmarks.signal_storage`.

The teacher of the example recipe (SmolLM2-135M, a vocabulary of 49,152) runs once, in transformers on the CPU, over
three disjoint sets of 300 review sentences: it reads them as prompts, where 64 tokens hold but 0.78 of the
probability, and greedily writes to 64 of each set a JSON object, the kind of answer that is distilled here, and an
opinion in free words, of which this small model is never sure. Every set is then written three ways:

- ours: `stillhouse.signal.schema.write_part`;
- plain: a Parquet file of int32 ids and float16 logprobs in rank order, zstd, as pyarrow writes it by default;
- DistillKit: the size that its recommended configuration takes, by its own formula
  (https://github.com/arcee-ai/DistillKit, README.md and distillkit/compression/config.py): ceil(log2(vocabulary)) bits
  an id, the first 16 logprobs in bfloat16, and 6 float32 coefficients for the others.

Bytes a token are those of the signal's columns, as the file's footer tells them, over the tokens that carry signal.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from stillhouse import models
from stillhouse.data import Record, Records
from stillhouse.recipe_file import load_recipe
from stillhouse.signal.columns import SIGNAL_FIELDS
from stillhouse.signal.cut import cut
from stillhouse.signal.schema import Completion, Mode, PartDescription, read_table, signals, to_row, write_part
from stillhouse.signal.sparse import SparseSignal, captured

RECIPE = Path(__file__).resolve().parent.parent / "examples" / "movie_reviews" / "recipe.yaml"
SETS, SENTENCES, ANSWERED = 3, 300, 64
K, MASS, DRAWS, MAX_TOKENS, BATCH = 64, 0.999, 50, 48, 32
EXTRACT = (
    'Extract from the review a JSON object with the keys "sentiment" (positive or negative) and "subject" (what is'
    " reviewed). Answer with the JSON alone.\nReview: {text}"
)
OPINION = "In one or two sentences, say what this review praises or pans in the film: {text}"


@dataclass(frozen=True)
class Kept:
    """What is kept of one completion: the teacher's words, and its distributions both ways."""

    prompt: list[int]
    text: str
    tokens: list[int]
    token_logprobs: list[float]
    top: SparseSignal
    drawn: SparseSignal


def main() -> int:
    """Run the teacher, store what it says three ways, print a table and one JSON line."""
    torch.manual_seed(0)
    teacher = Teacher()
    texts = [record.fields["text"] for record in itertools.islice(Records(load_recipe(RECIPE)), SETS * SENTENCES)]
    sets = [texts[i * SENTENCES : (i + 1) * SENTENCES] for i in range(SETS)]
    began = time.monotonic()
    read = [list(teacher.read(one)) for one in sets]
    extracted, judged = (
        [list(teacher.write([ask.format(text=text) for text in one[:ANSWERED]])) for one in sets]
        for ask in (EXTRACT, OPINION)
    )
    print(f"the teacher took {time.monotonic() - began:.0f} s")

    formula = distillkit_bytes(teacher.vocabulary, K)
    cases: list[tuple[str, list[list[Kept]], Mode, Callable[[Kept], SparseSignal], float]] = [
        ("prompts, k=64", read, "topk", lambda kept: kept.top, 115),
        ("JSON completions, k=64, mass 0.999", extracted, "topk", lambda kept: cut(kept.top, MASS), 60),
        ("free completions, k=64, mass 0.999", judged, "topk", lambda kept: cut(kept.top, MASS), 60),
        ("JSON completions, sampled", extracted, "sampled", lambda kept: kept.drawn, 40),
        ("free completions, sampled", judged, "sampled", lambda kept: kept.drawn, 40),
        ("prompts, sampled", read, "sampled", lambda kept: kept.drawn, 40),
    ]
    table = Table(
        "case",
        "tokens a set",
        "entries",
        "mass",
        "ours",
        "whole file",
        "plain",
        "KL",
        "KL at T=2",
        "written (tokens/s)",
        box=None,
    )
    figures: list[dict[str, Any]] = []
    for name, of, mode, chosen, target in cases:
        found = [stored(one, mode, chosen) for one in of]
        mean = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
        table.add_row(
            name,
            *(f"{mean[key]:.{digits}f}" for key, digits in (("tokens", 0), ("entries", 1), ("mass", 3))),
            *(f"{mean[key]:.1f}" for key in ("ours", "file", "plain")),
            *(f"{mean[key]:.1e}" for key in ("kl", "kl_2")),
            f"{mean['speed']:.0f}",
        )
        figures.append(figure(f"{name}: bytes a token, beside plain", found, "ours", mean["plain"], target))
        figures.append(figure(f"{name}: bytes a token of the whole file", found, "file", None, None))
        if mode == "topk":
            figures.append(
                figure(f"{name}: bytes a token, beside DistillKit's formula", found, "ours", formula, target)
            )
            figures.append(figure(f"{name}: KL to the unquantised (nats)", found, "kl", None, 1e-3))
            figures.append(figure(f"{name}: KL at a temperature of 2 (nats)", found, "kl_2", None, None))
    Console(width=160).print(table)
    print(f"DistillKit's formula at k={K} and this vocabulary: {formula:.0f} bytes a token")
    print(json.dumps({"benchmark": "signal_storage", "figures": figures}))
    return 0


def distillkit_bytes(vocabulary: int, k: int, exact: int = 16, terms: int = 6) -> float:
    """DistillKit's `DistributionQuantizationConfig.total_bits` for its recommended configuration, in bytes."""
    return math.ceil(math.ceil(math.log2(vocabulary)) * k / 8) + (exact * 16 + terms * 32) / 8


class Teacher:
    """The example's teacher in transformers, float32."""

    def __init__(self) -> None:
        model = load_recipe(RECIPE).teacher.model
        self.tokenizer = models.load_tokenizer(model)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(models.resolve(model), dtype=torch.float32).eval()
        self.vocabulary = int(self.model.config.vocab_size)
        self._generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Iterator[Kept]:
        """Sentences as prompts: the distribution of every token but the first."""
        for text in texts:
            ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
            logprobs = self.model(ids).logits[0, :-1].log_softmax(-1)
            yield self._kept(ids[0, :1], text, ids[0, 1:], logprobs)

    @torch.no_grad()
    def write(self, questions: Sequence[str]) -> Iterator[Kept]:
        """Greedy completions."""
        for start in range(0, len(questions), BATCH):
            asked = [
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
                )
                for question in questions[start : start + BATCH]
            ]
            inputs = self.tokenizer(
                asked, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
            )
            found = self.model.generate(
                **inputs,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
            logits = torch.stack(found.logits, dim=1)
            length = inputs["input_ids"].shape[1]
            for row, mask in enumerate(inputs["attention_mask"].bool()):
                ids = found.sequences[row, length:]
                ends = (ids == self.tokenizer.eos_token_id).nonzero()
                ids = ids[: int(ends[0]) + 1 if len(ends) else len(ids)]
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                logprobs = logits[row, : len(ids)].float().log_softmax(-1)
                yield self._kept(inputs["input_ids"][row][mask], text, ids, logprobs)

    def _kept(self, prompt: torch.Tensor, text: str, ids: torch.Tensor, logprobs: torch.Tensor) -> Kept:
        values, top = logprobs.topk(K)
        offsets = np.arange(0, len(ids) * K + 1, K)
        flat = values.numpy().ravel()
        drawn = torch.multinomial(logprobs.exp(), DRAWS, replacement=True, generator=self._generator).numpy()
        return Kept(
            prompt=prompt.tolist(),
            text=text,
            tokens=ids.tolist(),
            token_logprobs=logprobs.gather(-1, ids[:, None])[:, 0].tolist(),
            top=SparseSignal(top.numpy().astype(np.int32).ravel(), flat, offsets, captured(flat, offsets)),
            drawn=counted(drawn),
        )


def counted(drawn: np.ndarray) -> SparseSignal:
    """[tokens, draws] ids as a signal."""
    ids, counts = [], []
    for row in drawn:
        found, often = np.unique(row, return_counts=True)
        order = np.lexsort((found, -often))
        ids.append(found[order].astype(np.int32))
        counts.append(often[order])
    offsets = np.cumsum([0, *map(len, ids)])
    return SparseSignal.of_draws(np.concatenate(ids), np.concatenate(counts), offsets, drawn.shape[1])


def stored(kept: Sequence[Kept], mode: Mode, chosen: Callable[[Kept], SparseSignal]) -> dict[str, float]:
    """Bytes a token both ways, the divergence that ours costs, and how fast one core writes it."""
    before = [chosen(one) for one in kept]
    tokens = sum(map(len, before))
    description = PartDescription(
        "inputs", "SmolLM2-135M", "", "", "transformers", mode, K if mode == "topk" else None, "float32"
    )
    rows = [
        to_row(
            Record(f"record-{i}", i, {"text": one.text}, None),
            Completion(one.prompt, one.text, one.tokens, "stop", one.token_logprobs, signal),
        )
        for i, (one, signal) in enumerate(zip(kept, before, strict=True))
    ]
    began = time.process_time()
    data = write_part(rows, description)
    spent = time.process_time() - began
    after = signals(read_table(data, name="the part"))
    return {
        "tokens": tokens,
        "ours": column_bytes(data, [name for name, _ in SIGNAL_FIELDS]) / tokens,
        "file": len(data) / tokens,
        "plain": column_bytes(plain(before), ["ids", "logprobs", "counts"]) / tokens,
        "entries": sum(len(signal.ids) for signal in before) / tokens,
        "mass": float(np.mean(np.concatenate([signal.mass for signal in before]))),
        "kl": divergence(before, after, 1.0),
        "kl_2": divergence(before, after, 2.0),
        "speed": tokens / spent,
    }


def plain(found: Sequence[SparseSignal]) -> bytes:
    """Lists of int32 ids and float16 logprobs (uint8 counts, where they were drawn), in rank order."""

    def nested(values: Sequence[np.ndarray], kind: pyarrow.DataType) -> pyarrow.Array:
        entries = np.cumsum([0, *(count for signal in found for count in signal.counts)])
        tokens = np.cumsum([0, *map(len, found)])
        inner = pyarrow.ListArray.from_arrays(entries.astype(np.int32), pyarrow.array(np.concatenate(values), kind))
        return pyarrow.ListArray.from_arrays(tokens.astype(np.int32), inner)

    columns = {"ids": nested([signal.ids for signal in found], pyarrow.int32())}
    if found[0].draws is None:
        columns["logprobs"] = nested([signal.logprobs.astype(np.float16) for signal in found], pyarrow.float16())
    else:
        counts = [np.rint(np.exp(signal.logprobs) * signal.draws).astype(np.uint8) for signal in found]
        columns["counts"] = nested(counts, pyarrow.uint8())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def column_bytes(data: bytes, names: Sequence[str]) -> int:
    """What some columns take in a Parquet file, by its footer."""
    footer = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).metadata
    return sum(
        column.total_compressed_size
        for group in range(footer.num_row_groups)
        for column in (footer.row_group(group).column(i) for i in range(footer.num_columns))
        if column.path_in_schema.split(".")[0] in names
    )


def divergence(before: Sequence[SparseSignal], after: Sequence[SparseSignal | None], temperature: float) -> float:
    """Mean KL(before ‖ after) a token in nats, each renormalised over its entries and softened."""
    found = []
    for one, other in zip(before, after, strict=True):
        assert other is not None
        assert len(one) == len(other)
        for token in range(len(one)):
            shares = []
            for ids, logprobs in (one.at(token), other.at(token)):
                logits = logprobs[np.argsort(ids)].astype(np.float64) / temperature
                shares.append(logits - np.logaddexp.reduce(logits))
            assert np.array_equal(np.sort(one.at(token)[0]), np.sort(other.at(token)[0]))
            found.append(float((np.exp(shares[0]) * (shares[0] - shares[1])).sum()))
    return statistics.fmean(found)


def figure(
    name: str, found: Sequence[dict[str, float]], key: str, other: float | None, target: float | None
) -> dict[str, Any]:
    """The mean over the sets, and between which of them it lies."""
    values = [one[key] for one in found]
    ours = statistics.fmean(values)
    digits = 6 if ours < 0.1 else 2
    return {
        "name": name,
        "ours": round(ours, digits),
        "other": None if other is None else round(other, 2),
        "ratio": None if other is None else round(ours / other, 3),
        "spread": [round(min(values), digits), round(max(values), digits)],
        "target": None if target is None else f"<= {target:g}",
        "met": None if target is None else ours <= target,
    }


if __name__ == "__main__":
    sys.exit(main())
