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
        UserError: they differ; it names the token with the lowest number that does.
    """
    of_teacher, of_student = teacher.get_vocab(), student.get_vocab()
    # Pairs of token and id: what stands in one map alone, or under two numbers.
    if differing := of_teacher.items() ^ of_student.items():
        token, _ = min(differing, key=lambda item: (item[1], item[0]))
        raise UserError(
            f"the student's tokenizer is not the teacher's: the token {token!r} is {_told(of_teacher.get(token))} in"
            f" the teacher and {_told(of_student.get(token))} in the student; take a student of the teacher's family,"
            " or `student.init.kind: teacher_layers`"
        )
    if teacher.eos_token_id != student.eos_token_id:
        raise UserError(
            f"the student ends a sequence with token {student.eos_token_id}, the teacher with {teacher.eos_token_id}:"
            " take a student of the teacher's family"
        )


def _told(token_id: int | None) -> str:
    return "absent" if token_id is None else f"number {token_id}"
