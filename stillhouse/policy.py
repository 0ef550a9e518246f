"""The policy: which answers of the student may leave the house alone, and the promise behind that.

`policy.json` is made by the evaluation and read by the gateway, which refuses to start on another student.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from stillhouse.confidence import Evidence, Score
from stillhouse.metrics import Against, Estimate
from stillhouse.run import digest

if TYPE_CHECKING:
    from stillhouse.calibration import Calibrated

FORMAT_VERSION = 2
_SHA256 = r"^[0-9a-f]{64}$"


class Promise(BaseModel):
    """A score, a threshold on it, and what is promised of the answers that reach it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: Score = Field(description="From an answer's logprobs to its confidence in 0..1, with what was fitted.")
    threshold: float | None = Field(
        ge=0,
        le=1,
        description="Confidence >= threshold goes out alone; null: every request goes to the teacher.",
    )
    alpha: float = Field(gt=0, lt=1, description="Largest promised share of errors among answers given alone.")
    delta: float = Field(gt=0, lt=1, description="Largest chance that the promise is untrue.")
    n_calibration: int = Field(gt=0, description="Records the threshold was tested on.")
    coverage: Estimate | None = Field(
        description="Expected share of requests answered alone; null without a threshold."
    )
    monotone: bool = Field(
        description="Whether the confidence can only fall as tokens come, so that a prefix's bounds the whole answer's."
    )

    @model_validator(mode="after")
    def _says_what_the_score_is(self) -> Self:
        if self.monotone != self.score.falls:
            raise ValueError(f"`monotone` is {self.monotone}, and the score says {self.score.falls}")
        return self

    def confidence(self, evidence: Evidence) -> float:
        """The confidence of an answer, in [0, 1]. Raises ValueError where the score needs more than was told."""
        return self.score(self.judged(evidence))

    def judged(self, evidence: Evidence) -> Evidence:
        """What of an answer the score looks at."""
        return evidence

    def accepts(self, confidence: float) -> bool:
        """Whether an answer of this confidence goes out alone. Without a threshold none does.

        Raises ValueError when the confidence is NaN or outside [0, 1]: that is no confidence, and no
        decision.
        """
        if math.isnan(confidence) or not 0 <= confidence <= 1:
            raise ValueError(f"A confidence lies between 0 and 1, but this one is {confidence}.")
        return self.threshold is not None and confidence >= self.threshold

    def hopeless(self, prefix: Evidence) -> bool:
        """Whether no answer that begins with `prefix` can reach the threshold. Raises ValueError as `confidence`."""
        return self.threshold is None or self.score.upper_bound(self.judged(prefix)) < self.threshold


class Window(Promise):
    """A promise about whole answers, judged by their first tokens."""

    tokens: int = Field(ge=1, description="How many; a shorter answer is judged as a whole.")

    def judged(self, evidence: Evidence) -> Evidence:
        """The first `tokens` tokens; later ones have no say."""
        return evidence.first(self.tokens)


class Policy(Promise):
    """A promise about whole answers, and those of its windows, bound to the student it was calibrated for."""

    format_version: Literal[2] = Field(default=2, description="Version of this file's format.")
    released: bool = Field(description="Whether there is a threshold, so that the student may answer alone.")
    alternatives: int = Field(
        ge=0, description="How many of the likeliest tokens the student is asked for at each position."
    )
    windows: dict[int, Window] = Field(
        default_factory=dict,
        description="By their number of tokens; each promise stands alone, and says nothing of the others.",
    )
    against: Against = Field(description="What an answer counts as wrong against.")
    student_hash: str = Field(
        pattern=_SHA256,
        description="sha256 of the student's files; for one at an endpoint, of what says where and which it is.",
    )
    student_model: str | None = Field(
        default=None, description="For a student at an endpoint: the endpoint's name of it, in place of weights."
    )
    tokenizer_hash: str = Field(
        pattern=_SHA256, description="sha256 of the tokenizer that `sampling` names tokens of: the student's own."
    )
    template_hash: str = Field(pattern=_SHA256, description="sha256 of that tokenizer's chat template.")
    task_hash: str = Field(pattern=_SHA256, description="sha256 of the task: prompt, contract, choices.")
    sampling: dict[str, JsonValue] = Field(description="Sampling parameters that the answers were made with.")
    sampling_hash: str = Field(pattern=_SHA256, description="sha256 of `sampling`.")
    versions: dict[str, str] = Field(description="Versions of what made this policy, by package.")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.released != (self.threshold is not None):
            raise ValueError("a policy is released exactly when it has a threshold")
        if self.sampling_hash != digest(self.sampling):
            raise ValueError("`sampling` is not what the policy was calibrated with")
        if any(tokens != window.tokens for tokens, window in self.windows.items()):
            raise ValueError("`windows` are named by other numbers than their own")
        return self

    @classmethod
    def from_calibration(
        cls,
        calibrated: Calibrated,
        *,
        alternatives: int,
        against: Against,
        student_hash: str,
        tokenizer_hash: str,
        template_hash: str,
        task_hash: str,
        sampling: dict[str, JsonValue],
        versions: dict[str, str],
        student_model: str | None = None,
    ) -> Policy:
        """The policy that a calibration allows; hashes are sha256 in lower-case hex.

        `alternatives` is how many the student was asked for; the gateway will ask for them where a score needs them.
        """
        every = [calibrated, *calibrated.windows.values()]
        return cls(
            **_promise(calibrated),
            released=calibrated.calibration.threshold is not None,
            alternatives=alternatives if any(each.selection.score.needs_alternatives for each in every) else 0,
            windows={
                tokens: Window(**_promise(window), tokens=tokens) for tokens, window in calibrated.windows.items()
            },
            against=against,
            student_hash=student_hash,
            student_model=student_model,
            tokenizer_hash=tokenizer_hash,
            template_hash=template_hash,
            task_hash=task_hash,
            sampling=sampling,
            sampling_hash=digest(sampling),
            versions=versions,
        )

    def check(
        self, *, student_hash: str, tokenizer_hash: str, task_hash: str, student_model: str | None = None
    ) -> None:
        """Raises ValueError unless this policy was calibrated for that student, tokenizer and task."""
        if student_model != self.student_model:
            raise ValueError(
                f"The policy was calibrated for {self.student_model or 'weights'}, not for"
                f" {student_model or 'weights'}; evaluate this student to get a policy of its own."
            )
        given = {"student": student_hash, "tokenizer": tokenizer_hash, "task": task_hash}
        own = {"student": self.student_hash, "tokenizer": self.tokenizer_hash, "task": self.task_hash}
        for name, value in given.items():
            if value != own[name]:
                raise ValueError(
                    f"The policy was calibrated for another {name} (sha256 {own[name][:12]}, "
                    f"not {value[:12]}); "
                    "evaluate this student to get a policy of its own."
                )

    def save(self) -> bytes:
        """This policy as JSON (UTF-8), as `policy.json` holds it."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def load(cls, data: bytes, *, source: str = "policy.json") -> Policy:
        """Reads what `save` wrote. `source` names the file in errors.

        Raises ValueError, in one sentence, when the bytes are not JSON, of another format version, or
        malformed.
        """
        try:
            raw = json.loads(data)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} is not JSON: {error}.") from error
        if not isinstance(raw, dict):
            raise ValueError(f"{source} holds a JSON {type(raw).__name__}, but a policy is an object.")
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{source} has format version {version!r}, but this stillhouse reads version "
                f"{FORMAT_VERSION}; evaluate the student again."
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'policy'}: {problem['msg']}" for problem in error.errors()
            )
            raise ValueError(f"{source} is not a policy: {problems}.") from error


def _promise(calibrated: Calibrated) -> dict[str, Any]:
    score, calibration = calibrated.selection.score, calibrated.calibration
    return {
        "score": score,
        "threshold": calibration.threshold,
        "alpha": calibration.alpha,
        "delta": calibration.delta,
        "n_calibration": calibration.n,
        "coverage": calibration.coverage,
        "monotone": score.falls,
    }
