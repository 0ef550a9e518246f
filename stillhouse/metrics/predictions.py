"""One held-out record, answered by teacher and student."""

from dataclasses import dataclass
from typing import Literal

from stillhouse.confidence import Evidence

Against = Literal["teacher", "gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One held-out record, answered by teacher and student: what calibration and the report are made from.

    The three answers are in graded form (`stillhouse.task.answer`), so that equal answers are equal
    strings; None is an answer outside the task's contract (for `gold`: a record without gold). `confidence`
    is the student's, in [0, 1], by the policy's score: 0 for an answer that the gateway would not trust whatever its
    logprobs, without any or outside the contract. `evidence` are those logprobs, None where the engine told none.
    `text` is the input as the report shows it. Token counts are per request, as the engine counted them.
    """

    id: str
    text: str
    gold: str | None
    teacher: str | None
    student: str | None
    confidence: float
    teacher_prompt_tokens: int
    teacher_completion_tokens: int
    student_prompt_tokens: int
    student_completion_tokens: int
    evidence: Evidence | None = None

    def right(self, against: Against) -> bool:
        """Whether the student's answer is the reference's; an answer outside the contract never is.

        Raises ValueError when `against` is "gold" and the record has none. A teacher that broke the contract
        is no reference to be right by: the record counts as wrong, which can only make a promise stricter.
        """
        if against == "gold" and self.gold is None:
            raise ValueError(
                f"Record {self.id} has no gold answer, so it cannot be judged against gold; "
                "set evaluation.against to teacher or give every record a label."
            )
        reference = self.gold if against == "gold" else self.teacher
        return self.student is not None and self.student == reference
