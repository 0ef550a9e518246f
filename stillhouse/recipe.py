"""The recipe: one YAML file that says everything about a distillation.

The models hold every key with its default, its limits and its meaning; `stillhouse.recipe_file` reads the YAML.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
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


class Sampling(Section):
    """How completions are drawn, by the teacher and by the student alike."""

    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy. Default: 0 for `choices` and `json`, 1 for `text`."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Draw from the most probable tokens of that mass.")
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        default=(), max_length=4, description="Texts that end a completion, and are not part of it."
    )


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
    sampling: Sampling = Field(default_factory=Sampling, description="How completions are drawn.")

    @property
    def temperature(self) -> float:
        """The temperature that completions are drawn at."""
        if self.sampling.temperature is not None:
            return self.sampling.temperature
        return 1.0 if self.kind == "text" else 0.0

    def problems(self) -> Iterator[str]:
        if self.kind == "choices":
            if self.temperature:
                yield "`sampling.temperature` must be 0 for `choices`: their logprobs are those that decoding used"
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
    completion: str | None = Field(
        default=None, description="Column with completions that exist already; see `capture.completions`."
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
    quantization: str | None = Field(
        default=None, description="vLLM's name of a quantization, `fp8` or `awq` say. Default: what the weights say."
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
    """The large model: weights that vLLM runs here, or an endpoint that speaks OpenAI's API."""

    model: str = Field(
        min_length=1,
        description="A Hugging Face name, a folder, or `pkg://package/file.gguf` (converted once to safetensors,"
        " and cached); with `url`, the name that the endpoint knows.",
    )
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs the teacher. Excludes `url`.")
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s@?#]+$",
        description="Base address of an OpenAI-compatible endpoint, `https://api.openai.com/v1` say.",
    )
    api: Literal["openai", "vllm"] = Field(
        default="openai",
        description="With `url`: `vllm` where vLLM answers, whose own parameters (structured outputs, token ids, more"
        " logprobs) are then used; `openai` for any other.",
    )
    api_key_env: str | None = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the endpoint's key; null for one without keys.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="With `url`: the Hugging Face name or folder of the tokenizer that the endpoint is known to use."
        " It is verified, and then the endpoint's logprobs become signal.",
    )
    batch: bool = Field(default=False, description="With `url`: ask through the Batch API, at its price.")
    max_concurrency: int = Field(
        default=64, ge=1, le=4096, description="With `url`: most requests at once; fewer while the endpoint is busy."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="With `url`: longest wait for one answer, in seconds.")
    max_attempts: int = Field(
        default=6, ge=1, le=20, description="With `url`: how often a request is sent before its record has failed."
    )
    poll_s: float = Field(default=30.0, gt=0, description="With `batch`: seconds between two looks at a batch.")

    def problems(self) -> Iterator[str]:
        if self.url is None:
            if self.batch:
                yield "`batch` needs `url`"
            if self.tokenizer is not None:
                yield "`tokenizer` goes with `url`; weights bring their own"
        elif self.engine != Engine():
            yield "`engine` and `url` exclude each other: the endpoint runs its own engine"


class Member(Teacher):
    """One more teacher of an ensemble."""

    name: Name = Field(description="What its records carry as `teacher`; the first teacher's is `teacher`.")
    weight: float = Field(default=1.0, gt=0, description="Its weight in a vote or a mean.")
    when: dict[str, str] = Field(
        default_factory=dict,
        description="For `route`: it answers the rows whose columns equal these values, and nothing else.",
    )


class Ensemble(Section):
    """Several teachers, and how their answers become one capture."""

    combine: Literal["majority", "mean", "each", "route"] = Field(
        description="`majority`: the answer most weight is behind (`choices` and `json`); `mean`: the first teacher's"
        " completions with the weighted mean of all distributions (one tokenizer); `each`: one record a teacher;"
        " `route`: each row goes to the first member whose `when` it meets, else to the first teacher."
    )
    weight: float = Field(default=1.0, gt=0, description="Weight of the first teacher.")
    members: tuple[Member, ...] = Field(min_length=1, max_length=8, description="The teachers beside `teacher`.")

    def problems(self) -> Iterator[str]:
        names = [member.name for member in self.members]
        if len({*names, "teacher"}) <= len(names):
            yield "the members' names must differ from each other and from `teacher`"
        for member in self.members:
            if bool(member.when) != (self.combine == "route"):
                yield f"`when` goes with `combine: route`, and `route` needs it: see the member {member.name!r}"
            if self.combine == "mean" and member.url is not None:
                yield f"`combine: mean` scores completions, which the endpoint of {member.name!r} cannot: give weights"


class Engines(Section):
    """How many engines work side by side."""

    min: int = Field(default=1, ge=1, description="As many are started at once.")
    max: int = Field(default=1, ge=1, description="As many may work while there is work for them.")

    def problems(self) -> Iterator[str]:
        if self.min > self.max:
            yield f"min ({self.min}) is more than max ({self.max})"


class Capture(Section):
    """How the teacher's completions and distributions are taken."""

    mode: Literal["topk", "sampled", "text"] = Field(
        default="topk",
        description="`topk`: the most probable tokens with their logprobs; `sampled`: tokens drawn from the whole"
        " distribution, unbiased; `text`: completions alone.",
    )
    top_k: int = Field(default=20, ge=1, le=256, description="For `topk`: logprobs kept at each position.")
    mass: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="For `topk`: keep no more tokens than hold this much of the probability, 0.999 say.",
    )
    draws: int = Field(default=50, ge=1, le=255, description="For `sampled`: tokens drawn at each position.")
    completions: Literal["teacher", "gold", "column"] = Field(
        default="teacher",
        description="Whose completions: the teacher's own; or those that the teacher only scores, the gold answers of"
        " `data.label` or the texts of `data.completion`.",
    )
    n: int = Field(default=1, ge=1, le=64, description="Completions of each prompt.")
    part_size: int = Field(default=512, ge=1, description="Records in one Parquet part: the unit of resumption.")
    engines: Engines = Field(default_factory=Engines, description="Engines (or askers of an endpoint) side by side.")
    max_failed: float = Field(
        default=0.01, ge=0, le=1, description="Largest share of records that may fail for good without failing the job."
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="Most that may be spent at an endpoint, in the currency of `prices`; a higher one goes on.",
    )


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
    batch_discount: float = Field(
        default=0.5, ge=0, lt=1, description="What the Batch API takes off the teacher's prices, as a share."
    )
    monthly_requests: int | None = Field(
        default=None, ge=1, description="Requests a month that the student is meant for; `check` tells the payback."
    )
    training: float = Field(default=0.0, ge=0, description="What the student's training and evaluation cost, once.")
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
    ensemble: Ensemble | None = Field(default=None, description="More teachers beside it.")
    capture: Capture = Field(default_factory=Capture, description="How its answers are taken.")
    curation: Curation = Field(default_factory=Curation, description="How they become a dataset.")
    student: Student = Field(default_factory=Student, description="The small model and its training.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="What the student must promise.")
    serving: Serving = Field(default_factory=Serving, description="The endpoint.")
    prices: Prices = Field(default_factory=Prices, description="What tokens cost.")

    def problems(self) -> Iterator[str]:
        return section_problems({name: getattr(self, name) for name in type(self).model_fields})


def section_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between the recipe's sections; one that is missing or None is compared with nothing."""
    task, data, teacher, capture, student, evaluation = (
        sections.get(name) for name in ("task", "data", "teacher", "capture", "student", "evaluation")
    )
    if data is not None and data.labels and data.label is None:
        yield "`data.labels` maps the values of `data.label`, which is not given"
    if data is not None and task is not None and task.kind == "choices":
        answers = {choice.strip() for choice in task.choices}
        for value, answer in data.labels.items():
            if answer.strip() not in answers:
                yield f"`data.labels.{value}` is {answer!r}, which is not one of `task.choices`"
    if data is not None and evaluation is not None and evaluation.against == "gold" and data.label is None:
        yield "`evaluation.against: gold` needs `data.label`"
    if data is not None and capture is not None:
        if capture.completions == "gold" and data.label is None:
            yield "`capture.completions: gold` needs `data.label`"
        if (capture.completions == "column") != (data.completion is not None):
            yield "`data.completion` goes with `capture.completions: column`, which needs it"
    if task is not None and capture is not None:
        if capture.n > 1 and not task.temperature:
            yield "`capture.n` above 1 needs a `task.sampling.temperature` above 0: greedy completions are all the same"
    if capture is not None and student is not None and student.kd_weight > 0:
        if capture.mode == "text":
            yield (
                "`capture.mode: text` brings no distributions to distil: set `student.kd_weight: 0` to train on the"
                " teacher's words alone"
            )
        if capture.mode == "sampled" and student.temperature != 1:
            yield "`capture.mode: sampled` is unbiased at a temperature of 1 alone: set `student.temperature: 1`"
    if teacher is not None and teacher.url is not None:
        yield from _endpoint_problems(teacher, sections)
    yield from _ensemble_problems(sections)


def _endpoint_problems(teacher: Teacher, sections: Mapping[str, Any]) -> Iterator[str]:
    capture, student, task = (sections.get(name) for name in ("capture", "student", "task"))
    if student is not None and student.init.kind == "teacher_layers":
        yield "`student.init.kind: teacher_layers` needs the teacher's weights, which `teacher.url` does not give"
    if capture is None:
        return
    if capture.completions != "teacher":
        yield "`teacher.url` writes completions, and cannot score others': give weights, or `completions: teacher`"
    if capture.mode == "sampled":
        yield "`capture.mode: sampled` draws inside the engine, which `teacher.url` hides: use `topk` or `text`"
    if capture.mode == "topk":
        if teacher.tokenizer is None:
            yield "`capture.mode: topk` through `teacher.url` needs `teacher.tokenizer`; without one use `mode: text`"
        if teacher.api == "openai" and capture.top_k > 20:
            yield f"OpenAI's API gives 20 logprobs at most, and `capture.top_k` is {capture.top_k}"
        if teacher.api == "openai" and task is not None and task.kind == "choices":
            yield (
                "`capture.mode: topk` for `choices` needs logprobs that are normalised among the choices, as"
                " `teacher.api: vllm` gives them: use `mode: text`"
            )


def _ensemble_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    ensemble, capture, task = (sections.get(name) for name in ("ensemble", "capture", "task"))
    if ensemble is None:
        return
    if ensemble.combine == "majority" and task is not None and task.kind == "text":
        yield "`ensemble.combine: majority` compares answers, and no two texts are the same: use `each`, `route` or `mean`"
    if ensemble.combine == "mean" and capture is not None and capture.mode != "topk":
        yield "`ensemble.combine: mean` needs `capture.mode: topk`"
    if ensemble.combine != "mean" and capture is not None and capture.completions != "teacher":
        yield f"`ensemble.combine: {ensemble.combine}` is about the teachers' own completions"
    if ensemble.combine == "majority" and capture is not None and capture.n > 1:
        yield "`ensemble.combine: majority` is one vote a teacher: leave `capture.n` at 1"


def _schema_problems(schema: dict[str, Any]) -> Iterator[str]:
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        yield f"`json_schema` is not a JSON schema: {error.message}"
