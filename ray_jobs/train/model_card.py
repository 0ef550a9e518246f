"""The model cards: the student's, and that of a teacher which was tuned."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

import yaml

from stillhouse.models import is_dequantised
from stillhouse.recipe import Recipe, Student
from stillhouse.tuning import as_student, section_of

_LIBRARIES = ("stillhouse", "torch", "transformers", "deepspeed", "ray", "peft")


def model_card(
    recipe: Recipe,
    inputs: Mapping[str, str],
    metrics: Mapping[str, float],
    counts: Mapping[str, float] | None = None,
) -> str:
    """README.md of the student's folder: what it was made from, how, and what came out.

    Args:
        inputs: hashes of what the student is made from, by name.
        metrics: scores on the validation split, by name.
        counts: what else was counted: `records`, `steps`, `workers`, `teacher_mass`, `parameters`; any may be absent.
    """
    return f"""---
{_head(recipe.student.init.model or recipe.teacher.model, "distillation")}---

# {recipe.name}: a distilled student

Distilled by stillhouse from {_teacher(recipe)} for one task, which it is good for alone.

## How it was made

{_bullets(_made(recipe, counts or {}))}

{_figures(inputs, metrics)}"""


def tuned_card(
    recipe: Recipe, inputs: Mapping[str, str], metrics: Mapping[str, float], counts: Mapping[str, float]
) -> str:
    """README.md of a teacher that was tuned on gold labels; arguments as of `model_card`."""
    student = as_student(recipe).student
    made = {
        "Begins as": f"`{recipe.teacher.model}`{_dequantised(recipe)}",
        "Data": f"`{recipe.data.path}`, {section_of(recipe).records} gold answers:"
        f" {counts['records']:.0f} trained on, the rest to choose the best epoch by",
        "Loss": "cross-entropy on the gold answers' tokens",
        "Training": _training(student, counts),
        "Trained": "all weights" if student.lora is None else _adapters(student),
        "Seed": str(recipe.seed),
    }
    return f"""---
{_head(recipe.teacher.model, "fine-tuning")}---

# {recipe.name}: the tuned teacher

`{recipe.teacher.model}`, fine-tuned by stillhouse on gold labels for one task, and a student's teacher in it.

## How it was made

{_bullets(made)}

{_figures(inputs, {name: value for name, value in metrics.items() if name != "kd"})}"""


def _figures(inputs: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    return f"""## On the validation split

{_table("score", {name: f"{value:.4f}" for name, value in metrics.items()})}

## Made from

{_table("input", {name: f"`{value}`" for name, value in inputs.items()})}

## With

{_table("library", {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()})}
"""


def _head(base: str, tag: str) -> str:
    """What the model hub reads. No license: the teacher's terms decide it, and nothing here knows them."""
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["stillhouse", tag],
    }
    if _is_hub_name(base):  # the hub refuses a card whose base is none of its own
        head = {"base_model": base, **head}
    return yaml.safe_dump(head, sort_keys=False)


def _is_hub_name(model: str) -> bool:
    return "://" not in model and not model.startswith((".", "/", "~")) and model.count("/") <= 1


def _teacher(recipe: Recipe) -> str:
    teacher = recipe.teacher
    tuned = "" if teacher.tune is None else f", tuned on {teacher.tune.records} gold labels"
    others = () if recipe.ensemble is None else recipe.ensemble.members
    more = "".join(f", `{member.model}`" for member in others)
    how = "" if recipe.ensemble is None else f" (an ensemble, combined by `{recipe.ensemble.combine}`)"
    return f"`{teacher.model}`{_dequantised(recipe)}{tuned}{more}{how}"


def _dequantised(recipe: Recipe) -> str:
    return " (weights dequantised from a GGUF file)" if is_dequantised(recipe.teacher.model) else ""


def _made(recipe: Recipe, counts: Mapping[str, float]) -> dict[str, str]:
    student = recipe.student
    return {
        "Begins as": _origin(recipe),
        "Data": _data(recipe, counts),
        "Loss": _loss(recipe, counts),
        "Training": _training(student, counts),
        "Trained": "all weights" if student.lora is None else _adapters(student),
        "Seed": str(recipe.seed),
    }


def _origin(recipe: Recipe) -> str:
    init = recipe.student.init
    if init.kind == "pretrained":
        return f"`{init.model}`"
    if init.kind == "fresh":
        changes = ", ".join(f"`{key}: {value}`" for key, value in init.config.items())
        return f"random weights, in the teacher's architecture with {changes}"
    if isinstance(init.layers, tuple):
        return f"the teacher's layers {', '.join(map(str, init.layers))}"
    return f"{init.layers} of the teacher's layers (`{init.select}`)"


def _data(recipe: Recipe, counts: Mapping[str, float]) -> str:
    source = {"teacher": "answered by the teacher", "gold": "with gold answers that the teacher scored"}.get(
        recipe.capture.completions, "with completions that the teacher scored"
    )
    records = f", {counts['records']:.0f} records" if "records" in counts else ""
    return f"`{recipe.data.path}`, {source}{records}"


def _loss(recipe: Recipe, counts: Mapping[str, float]) -> str:
    student, divergence = recipe.student, recipe.student.divergence
    tail = divergence.tail or ("sampled" if recipe.capture.mode == "sampled" else "renormalise")
    options = [f"tail `{tail}`", f"temperature {student.temperature:g}"]
    if divergence.kind == "jensen_shannon":
        options.append(f"beta {divergence.beta:g}")
    if divergence.kind in ("skew_kl", "skew_reverse_kl"):
        options.append(f"skew {divergence.skew:g}")
    if "teacher_mass" in counts:
        options.append(f"captured mass {counts['teacher_mass']:.4f}")
    terms = []
    if student.kd_weight:
        terms.append(f"{student.kd_weight:g} · `{divergence.kind}` ({', '.join(options)})")
    if student.ce_weight:
        tokens = "the gold answer's" if student.ce_on == "gold" else "the completion's"
        terms.append(f"{student.ce_weight:g} · cross-entropy on {tokens} tokens")
    return " + ".join(terms)


def _training(student: Student, counts: Mapping[str, float]) -> str:
    steps = f"{counts['steps']:.0f} steps, " if "steps" in counts else ""
    workers = counts.get("workers", student.workers if isinstance(student.workers, int) else None)
    spread = f"{workers:.0f} workers" if workers is not None else f"up to {student.most_workers} workers"
    precision = student.precision
    if precision == "auto":
        precision = "bfloat16" if student.device == "cuda" else "float32"
    return (
        f"{steps}at most {student.epochs} epochs of batches of {student.batch_size}, peak learning rate"
        f" {student.learning_rate:g}, weight decay {student.weight_decay:g}; {spread}, ZeRO-{student.zero_stage},"
        f" {precision}{', packed' if student.packing else ''}"
    )


def _adapters(student: Student) -> str:
    lora = student.lora
    assert lora is not None
    where = ", ".join(f"`{name}`" for name in lora.targets) or "all linear layers but the head"
    base = ", over weights in 4 bits (nf4)" if lora.quantize else ""
    return (
        f"adapters of rank {lora.rank} (alpha {lora.alpha:g}, dropout {lora.dropout:g}) on {where}{base}; merged into"
        " the weights here, and kept in `adapter/`"
    )


def _bullets(lines: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in lines.items())


def _table(head: str, rows: Mapping[str, str]) -> str:
    return "\n".join([f"| {head} | value |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())])
