"""What a check found, as numbers: the one JSON object that `stillhouse check --json` prints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.cost import Payback
from stillhouse.metrics import Estimate


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Finding(_Found):
    """Something that does not stop the run, but should be known before it."""

    name: str = Field(description="Short and stable: `few-examples`, `low-mass`.")
    text: str = Field(description="What was seen, in one sentence.")
    remedy: str = Field(description="What would help.")


class Interval(_Found):
    """An estimate with its two-sided 95% interval."""

    value: float = Field(ge=0)
    low: float | None = Field(description="Lower end; None where one answer alone says nothing of the spread.")
    high: float | None = Field(description="Upper end; None as for `low`.")

    def scaled(self, factor: float) -> Interval:
        """All three times a factor."""
        return Interval(
            value=self.value * factor,
            low=None if self.low is None else self.low * factor,
            high=None if self.high is None else self.high * factor,
        )


class Prompts(_Found):
    """The prompts that were rendered and counted; all of them where there are no more than `inputs.LOOKED_AT`."""

    counted: int = Field(ge=1)
    mean: float = Field(description="Tokens, mean.")
    longest: int = Field(description="Tokens of the longest one.")
    too_long: int = Field(ge=0, description="Prompts that do not fit the teacher's engine beside a completion.")
    too_long_for_student: int = Field(ge=0, description="Prompts that do not fit the student's training or serving.")


class Determinism(_Found):
    """One prompt asked three times: alone, alone again, and beside the rest of the sample."""

    same: bool = Field(description="Whether the three completions are the same tokens.")
    logprob_difference: float | None = Field(
        description="Largest difference between two logprobs of the same token at the same place, in nats; None where"
        " the teacher tells no logprobs or the completions differ."
    )


class Mass(_Found):
    """The probability that the kept tokens hold, over all tokens of the sample's completions."""

    mean: float
    p5: float = Field(description="5th percentile.")


class TeacherFound(_Found):
    """One teacher, measured on its sample."""

    name: str
    model: str
    engine: str = Field(description="What ran it, with its version; an endpoint's address.")
    endpoint: bool = Field(description="Whether it is asked at an endpoint.")
    dtype: str
    records: int = Field(description="Records that it answers in the whole capture.")
    requests: int = Field(description="Questions that the check has asked it.")
    sampled: int = Field(description="Records of the sample.")
    failed: int = Field(ge=0, description="Of these, without an answer.")
    failure: str | None = Field(description="Why the first of them failed.")
    truncated: int = Field(ge=0, description="Answers cut off by `task.max_tokens`.")
    contract: Estimate = Field(description="Share of the answers that keep the task's contract.")
    right: Estimate | None = Field(description="Share of the answers that are the gold answer; None without gold.")
    determinism: Determinism | None = Field(description="None where the repeated prompt had no answer.")
    mass: Mass | None = Field(description="None where no top k is kept.")
    misread: int = Field(ge=0, description="Answers whose token ids do not decode to their text.")
    prompt: float = Field(description="Tokens of one prompt, as they are paid.")
    completion: Interval = Field(description="Tokens of one completion, as they are paid.")
    stored: float = Field(description="Tokens of one completion, as they are stored and as a student writes them.")
    tokens: Interval = Field(description="Tokens of its part of the capture, prompts and completions.")
    cost: Interval = Field(description="Cost of its part of the capture, in the recipe's currency.")
    tokens_per_second: float = Field(description="As measured on the sample by one engine, or one asker.")
    time: Interval = Field(description="Seconds for its part of the capture, at that rate, here and with one of them.")
    engines: int = Field(description="As many may work side by side in the capture.")
    batch: bool = Field(description="Whether the Batch API is to be asked, whose time nobody knows.")
    ready: float = Field(description="Seconds until the teacher could answer.")


class Check(_Found):
    """Everything that a check found."""

    recipe: str
    records: int
    labelled: int = Field(description="Records with a gold answer.")
    tuned_on: int | None = Field(
        default=None,
        description="Gold answers that the teacher is tuned on first; None: on none. What is asked here is the teacher"
        " before that.",
    )
    duplicates: int = Field(description="Records whose prompt came before; curation drops them.")
    tokenizer: str = Field(description="Whose tokens are counted.")
    own_tokens: bool = Field(description="Whether those are the teacher's; the student's stand in for them else.")
    prompts: Prompts
    currency: str
    largest_cost: float | None = Field(
        description="Without a teacher: the capture's cost if every completion took `task.max_tokens`."
    )
    training: float | None = Field(description="What training costs once, as the recipe says; None: it does not.")
    teachers: tuple[TeacherFound, ...] = Field(description="Empty where none was asked.")
    payback: Payback | None = Field(description="None where prices or the tokens of a completion are not known.")
    warnings: tuple[Finding, ...]
