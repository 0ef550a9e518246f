"""The recipe: one YAML file that says everything about a distillation.

The models hold every key with its default, its limits and its meaning; `stillhouse.recipe_file` reads the YAML.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$")]


class Section(BaseModel):
    """A part of the recipe: read only, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if problems := list(self.problems()):
            raise Disagreement(problems)
        return self

    def problems(self) -> Iterator[str]:
        """What is wrong between keys that are each right by themselves."""
        return iter(())


class Disagreement(ValueError):
    """Problems between the keys of a section; pydantic takes but one error from a validator."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Message(Section):
    """One chat message of the task's template."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(min_length=1, description="The text, with `{column}` where a column of the data goes.")


class Task(Section):
    """What the models are asked, and what an answer may look like."""

    kind: Literal["choices", "json", "text"] = Field(
        description="`choices`: one of a list; `json`: an object by a schema; `text`: free text."
    )
    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="A plain prompt, with `{column}` where a column of the data goes. Excludes `messages`.",
    )
    messages: tuple[Message, ...] | None = Field(
        default=None,
        min_length=1,
        description="Chat messages, put through the model's chat template. Excludes `prompt`.",
    )
    choices: tuple[str, ...] = Field(
        default=(),
        description="For `choices`: the completions allowed, with the space that a plain prompt needs before them.",
    )
    json_schema: dict[str, Any] | None = Field(default=None, description="For `json`: the JSON schema of an answer.")
    max_tokens: int = Field(default=64, ge=1, le=32_768, description="Longest completion, in tokens.")

    def problems(self) -> Iterator[str]:
        if self.kind == "choices":
            answers = [choice.strip() for choice in self.choices]
            if len(answers) < 2:
                yield "`choices` needs at least two choices"
            elif len(set(answers)) < len(answers) or "" in answers:
                yield "`choices` must differ from each other, and none may be blank"
        elif self.choices:
            yield f"`choices` goes with `kind: choices`, not with `kind: {self.kind}`"
        if (self.kind == "json") != (self.json_schema is not None):
            yield "`json_schema` goes with `kind: json`, and `kind: json` needs it"
        elif self.json_schema is not None:
            yield from _schema_problems(self.json_schema)
        if (self.prompt is None) == (self.messages is None):
            yield "give either `prompt` (plain text) or `messages` (chat), one of them"
        else:
            yield from self._template_problems()

    def _template_problems(self) -> Iterator[str]:
        found = []
        for template in self.templates():
            try:
                parts = list(string.Formatter().parse(template))
            except ValueError as error:
                yield f"the template {template[:60]!r} is malformed: {error}"
                return
            found += [part for part in parts if part[1] is not None]
        if not found:
            yield "the template has no `{column}`, so that every prompt would be the same"
        for _, field, spec, conversion in found:
            if not (field or "").isidentifier() or spec or conversion:
                yield (
                    f"`{{{field}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}` is not a plain"
                    " `{column}`; a brace that is meant is written twice"
                )

    def templates(self) -> list[str]:
        """The texts that hold `{column}` fields."""
        return [self.prompt] if self.prompt is not None else [m.content for m in self.messages or ()]

    def fields(self) -> list[str]:
        """The columns that the prompt is made from, in order of appearance."""
        names = [
            field
            for template in self.templates()
            for _, field, _, _ in string.Formatter().parse(template)
            if field is not None
        ]
        return list(dict.fromkeys(names))


class Data(Section):
    """Where the prompts come from."""

    path: str = Field(
        min_length=1,
        description="JSONL, CSV or Parquet: a path (relative to the recipe), `s3://bucket/key`, or `pkg://package/file`"
        " for a file inside an installed Python package.",
    )
    where: dict[str, str] = Field(default_factory=dict, description="Keep only rows whose columns equal these values.")
    label: str | None = Field(default=None, description="Column with the gold answer, if there is one.")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="From the label column's values to the task's choices, where they differ.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Take that many rows, drawn with the recipe's seed. Default: all of them.",
    )


class Engine(Section):
    """How vLLM runs a model."""

    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What the engine runs on.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Weights' and activations' type."
    )
    max_model_len: int = Field(default=2048, ge=16, description="Longest prompt and completion together, in tokens.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(
        default=1, ge=1, description="Groups of GPUs (nodes, usually) that share the layers."
    )
    accelerator_type: str | None = Field(default=None, description="Ray's accelerator type to ask for, `H100` say.")
    max_num_seqs: int = Field(default=64, ge=1, description="Requests that the engine runs at once.")
    cpus: int | None = Field(
        default=None, ge=1, description="On a CPU: cores of one engine. Default: the machine's, shared out."
    )
    kv_cache_gb: float = Field(default=1.0, gt=0, description="On a CPU: memory for the KV cache, in GiB.")
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="On a GPU: share of its memory to use.")

    def problems(self) -> Iterator[str]:
        if self.device == "cpu" and self.tensor_parallel_size * self.pipeline_parallel_size > 1:
            yield "tensor_parallel_size and pipeline_parallel_size above 1 need `device: cuda`"


class Teacher(Section):
    """The large model."""

    model: str = Field(
        min_length=1,
        description="A Hugging Face name, a folder, or `pkg://package/file.gguf` (converted once to safetensors,"
        " and cached).",
    )
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs the teacher.")


class Capture(Section):
    """How the teacher's completions and distributions are taken."""

    top_k: int = Field(default=20, ge=1, le=256, description="Logprobs kept at each position.")
    part_size: int = Field(default=512, ge=1, description="Records in one Parquet part: the unit of resumption.")
    actors: int = Field(default=1, ge=1, description="vLLM engines that work side by side.")


class Curation(Section):
    """How captured records become a dataset."""

    near_duplicate_similarity: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of word 3-grams from which two prompts are one group.",
    )
    validation: float = Field(default=0.05, gt=0, lt=1, description="Share of records to watch the training with.")
    calibration: float = Field(default=0.15, gt=0, lt=1, description="Share of records to choose the threshold on.")
    test: float = Field(default=0.15, gt=0, lt=1, description="Share of records to evaluate on.")
    min_records: int = Field(default=50, ge=50, description="Fewer records than this after filtering stop the run.")

    def problems(self) -> Iterator[str]:
        if self.validation + self.calibration + self.test > 0.8:
            yield "validation, calibration and test together may take at most 0.8 of the records"


class StudentInit(Section):
    """Where the student's first weights come from."""

    kind: Literal["teacher_layers", "pretrained"] = Field(
        default="teacher_layers",
        description="`teacher_layers`: cut from the teacher; `pretrained`: a model of its own.",
    )
    layers: int = Field(
        default=6, ge=1, description="For `teacher_layers`: how many of the teacher's layers, evenly spaced."
    )
    model: str | None = Field(default=None, description="For `pretrained`: a Hugging Face name or a folder.")

    def problems(self) -> Iterator[str]:
        if (self.kind == "pretrained") != (self.model is not None):
            yield "`model` goes with `kind: pretrained`, and `kind: pretrained` needs it"


class Student(Section):
    """The small model, and how it is trained."""

    init: StudentInit = Field(default_factory=StudentInit, description="Where its first weights come from.")
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs the student.")
    kd_weight: float = Field(default=0.7, ge=0, description="Weight of the KL to the teacher's distribution.")
    ce_weight: float = Field(default=0.3, ge=0, description="Weight of the cross-entropy on the teacher's tokens.")
    temperature: float = Field(default=2.0, gt=0, le=20, description="Softens both distributions in the KL.")
    epochs: int = Field(default=3, ge=1, description="Passes over the training records.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after so many optimizer steps. Default: all epochs."
    )
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="Peak of the cosine schedule.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps that warm the learning rate up."
    )
    batch_size: int = Field(default=32, ge=1, description="Records in one optimizer step, over all workers.")
    micro_batch_size: int = Field(
        default=8, ge=1, description="Records that one worker runs through the model at once."
    )
    max_length: int = Field(default=1024, ge=8, description="Longest prompt and completion in training, in tokens.")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="DeepSpeed ZeRO stage.")
    workers: int = Field(
        default=2, ge=1, description="Training processes: one a GPU, or a share of the CPU's cores each."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What the workers train on.")
    checkpoint_every: int = Field(default=50, ge=1, description="Optimizer steps between two checkpoints.")

    def problems(self) -> Iterator[str]:
        if self.batch_size % (self.workers * self.micro_batch_size):
            yield (
                f"batch_size ({self.batch_size}) must be a multiple of workers × micro_batch_size"
                f" ({self.workers} × {self.micro_batch_size})"
            )
        if self.kd_weight + self.ce_weight <= 0:
            yield "kd_weight and ce_weight must not both be zero"


class Evaluation(Section):
    """How much is asked of the student before it may answer alone."""

    against: Literal["teacher", "gold"] = Field(
        default="teacher",
        description="What an answer of the student is held against when the threshold is chosen.",
    )
    alpha: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Largest share of errors among the answers the student gives alone.",
    )
    delta: float = Field(default=0.05, gt=0, lt=1, description="Largest chance that the promise about alpha is broken.")


class Serving(Section):
    """The endpoint."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65_535, description="Port to listen on.")
    teacher_timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for the teacher, in seconds.")


class Prices(Section):
    """What tokens cost, each a million tokens."""

    currency: str = Field(default="USD", min_length=1, max_length=8, description="Name of the currency.")
    teacher_input: float = Field(default=0.0, ge=0, description="A million prompt tokens read by the teacher.")
    teacher_output: float = Field(default=0.0, ge=0, description="A million tokens written by the teacher.")
    student_input: float = Field(default=0.0, ge=0, description="A million prompt tokens read by the student.")
    student_output: float = Field(default=0.0, ge=0, description="A million tokens written by the student.")


class Recipe(Section):
    """One distillation, from prompts to an endpoint."""

    name: Name = Field(description="Lower-case letters, digits and dashes; also the name of the served model.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of every random choice.")
    task: Task = Field(description="What the models are asked.")
    data: Data = Field(description="Where the prompts come from.")
    teacher: Teacher = Field(description="The large model.")
    capture: Capture = Field(default_factory=Capture, description="How its answers are taken.")
    curation: Curation = Field(default_factory=Curation, description="How they become a dataset.")
    student: Student = Field(default_factory=Student, description="The small model and its training.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="What the student must promise.")
    serving: Serving = Field(default_factory=Serving, description="The endpoint.")
    prices: Prices = Field(default_factory=Prices, description="What tokens cost.")

    def problems(self) -> Iterator[str]:
        return section_problems(self.task, self.data, self.evaluation)


def section_problems(task: Task | None, data: Data | None, evaluation: Evaluation | None) -> Iterator[str]:
    """What is wrong between sections; one that is None is wrong by itself, and compared with nothing."""
    if data is None:
        return
    if data.labels and data.label is None:
        yield "`data.labels` maps the values of `data.label`, which is not given"
    if task is not None and task.kind == "choices":
        answers = {choice.strip() for choice in task.choices}
        for value, answer in data.labels.items():
            if answer.strip() not in answers:
                yield f"`data.labels.{value}` is {answer!r}, which is not one of `task.choices`"
    if evaluation is not None and evaluation.against == "gold" and data.label is None:
        yield "`evaluation.against: gold` needs `data.label`"


def _schema_problems(schema: dict[str, Any]) -> Iterator[str]:
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        yield f"`json_schema` is not a JSON schema: {error.message}"
