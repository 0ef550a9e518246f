"""`teacher` and `ensemble`: the large models, and how they are run or reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from stillhouse.recipe.section import Disagreement, Name, Section
from stillhouse.recipe.tune import Tune


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
    tune: Tune | None = Field(
        default=None,
        description="Fine-tune it on gold answers first, and ask what comes out. Needs `data.label`; excludes `url`."
        " Default: as it is.",
    )
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
        if self.url is not None and self.tune is not None:
            yield "`tune` needs the teacher's weights, which `url` does not give"


class Member(Teacher):
    """One more teacher of an ensemble."""

    name: Name = Field(description="What its records carry as `teacher`; the first teacher's is `teacher`.")
    weight: float = Field(default=1.0, gt=0, description="Its weight in a vote or a mean.")
    when: dict[str, str] = Field(
        default_factory=dict,
        description="For `route`: it answers the rows whose columns equal these values, and nothing else.",
    )
    tune: None = Field(default=None, description="For the first teacher alone.")

    @field_validator("tune", mode="before")
    @classmethod
    def _refused(cls, given: object) -> None:
        if given is not None:
            raise Disagreement(["is for the first teacher alone: leave it out"])


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
