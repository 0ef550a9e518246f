"""What is held out has to be worth grading on: apart from what was trained on, and with every answer of the task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stillhouse.curation.duplicates import normalised
from stillhouse.errors import UserError

_NAMED = 5


def require_apart(train: Sequence[str], held_out: Mapping[str, Mapping[str, str]]) -> None:
    """See that no text that is held out was trained on, but for case and spacing.

    Args:
        train: the texts of the train split.
        held_out: texts by id, by split.

    Raises:
        UserError: some were; it says how many, and names the first.
    """
    seen = {normalised(text) for text in train}
    for split, texts in held_out.items():
        leaked = [record for record, text in texts.items() if normalised(text) in seen]
        if leaked:
            were = "was" if len(leaked) == 1 else "were"
            raise UserError(
                f"{len(leaked)} of {len(texts)} {split} records {were} trained on ({_listed(leaked)}), so that nothing"
                " measured on them would be true: run `stillhouse curate` again, and train on what it makes"
            )


def missing_classes(labels: Sequence[str], answers: Mapping[str, Collection[str | None]]) -> list[str]:
    """A sentence for each split in which an answer of the task does not occur; `answers` by split, gold included."""
    found = []
    for split, given in answers.items():
        missing = [label for label in labels if label not in given]
        if missing:
            what = "the answer" if len(missing) == 1 else "the answers"
            told = _listed([f"“{label}”" for label in missing])
            found.append(f"No {split} record has {what} {told}: nothing is known of how the student does there.")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
