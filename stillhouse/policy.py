"""The policy: which answers of the student may leave the house alone, and the promise behind that.

`policy.json` is made by the evaluation and read by the gateway, which refuses to start on another student.
"""

import json
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from stillhouse.calibration import Calibration
from stillhouse.metrics import Against, Estimate

FORMAT_VERSION = 1
_SHA256 = r"^[0-9a-f]{64}$"


class Policy(BaseModel):
    """A confidence threshold with its promise, bound to the student it was calibrated for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = Field(default=1, description="Version of this file's format.")
    score: Literal["sequence_probability"] = Field(
        default="sequence_probability",
        description="The confidence score: exp(sum of the answer's token logprobs).",
    )
    threshold: float | None = Field(
        ge=0,
        le=1,
        description="Confidence >= threshold goes out alone; null: every request goes to the teacher.",
    )
    alpha: float = Field(gt=0, lt=1, description="Largest promised share of errors among answers given alone.")
    delta: float = Field(gt=0, lt=1, description="Largest chance that the promise is untrue.")
    against: Against = Field(description="What an answer counts as wrong against.")
    n_calibration: int = Field(gt=0, description="Records the threshold was chosen on.")
    coverage: Estimate | None = Field(
        description="Expected share of requests answered alone; null without a threshold."
    )
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
    task_hash: str = Field(pattern=_SHA256, description="sha256 of the task: template, contract, choices.")
    sampling: dict[str, JsonValue] = Field(description="Sampling parameters that the answers were made with.")
    versions: dict[str, str] = Field(description="Versions of what made this policy, by package.")

    @classmethod
    def from_calibration(
        cls,
        calibration: Calibration,
        *,
        against: Against,
        student_hash: str,
        tokenizer_hash: str,
        task_hash: str,
        sampling: dict[str, JsonValue],
        versions: dict[str, str],
        student_model: str | None = None,
    ) -> "Policy":
        """The policy that a calibration allows; hashes are sha256 in lower-case hex."""
        return cls(
            threshold=calibration.threshold,
            alpha=calibration.alpha,
            delta=calibration.delta,
            against=against,
            n_calibration=calibration.n,
            coverage=calibration.coverage,
            student_hash=student_hash,
            student_model=student_model,
            tokenizer_hash=tokenizer_hash,
            task_hash=task_hash,
            sampling=sampling,
            versions=versions,
        )

    def accepts(self, confidence: float) -> bool:
        """Whether an answer of this confidence goes out alone. Without a threshold none does.

        Raises ValueError when the confidence is NaN or outside [0, 1]: that is no confidence, and no
        decision.
        """
        if math.isnan(confidence) or not 0 <= confidence <= 1:
            raise ValueError(f"A confidence lies between 0 and 1, but this one is {confidence}.")
        return self.threshold is not None and confidence >= self.threshold

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
    def load(cls, data: bytes, *, source: str = "policy.json") -> "Policy":
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
