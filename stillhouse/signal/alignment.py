"""Whether a student reads token ids as the teacher wrote them."""

from __future__ import annotations

from typing import Any

from stillhouse.errors import UserError
from stillhouse.run import digest


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over the token→id map, the special tokens, and how text becomes tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest(
        [
            sorted(tokenizer.get_vocab().items()),
            sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items()),
            backend.to_str() if backend is not None else "",
        ]
    )


def template_hash(tokenizer: Any) -> str:
    """sha256 of the chat template; of the empty string where there is none."""
    return digest(tokenizer.chat_template or "")


def require_same_tokens(teacher: Any, student: Any) -> None:
    """Compare two tokenizers' token→id maps and their end-of-sequence tokens.

    Raises:
        UserError: they differ; it names the first token that does.
    """
    of_teacher, of_student = teacher.get_vocab(), student.get_vocab()
    if of_teacher != of_student:
        differing = (token for token in of_teacher if of_student.get(token) != of_teacher[token])
        token = next(differing, None)
        if token is None:
            token = next(token for token in of_student if token not in of_teacher)
        raise UserError(
            f"the student's tokenizer is not the teacher's: the token {token!r} is {_told(of_teacher.get(token))} in the teacher"
            f" and {_told(of_student.get(token))} in the student; take a student of the teacher's family,"
            " or `student.init.kind: teacher_layers`"
        )
    if teacher.eos_token_id != student.eos_token_id:
        raise UserError(
            f"the student ends a sequence with token {student.eos_token_id}, the teacher with {teacher.eos_token_id}:"
            " take a student of the teacher's family"
        )


def _told(token_id: int | None) -> str:
    return "absent" if token_id is None else f"number {token_id}"
